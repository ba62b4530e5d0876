"""Composite operators written out as those that they are made of, before anything is known of the graph.

    tensordot, inner                      -> matmul, or einsum
    bilinear                              -> einsum and a bias
    convolution, as TorchScript has it    -> conv1d, ..., conv_transpose3d
    cosine_similarity                     -> two quotients by norms, a product, a sum
    pairwise_distance, cdist, dist        -> a difference, and its norm as powers, a sum, a root
    scatter_reduce, index_reduce          -> scatter_add and a count; the largest of each place

What they become is lowered like everything else, so each rule meets the part that it speaks of.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, annotate, fake_value, operator_name
from relprop.engine.graph.run import run_node
from relprop.engine.ops.analysis import analyze_operator, remove_dead
from relprop.engine.ops.registry import TAUGHT
from relprop.engine.rewrites.rewriting import arguments, insert, is_made_of_zeros, positional, rank_of

aten = torch.ops.aten
LAST = torch.iinfo(torch.int64).max
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Writer:
    """Inserts calls ahead of one node, whose values are known as far as the export's are.

    Args:
        graph: where.
        node: ahead of which.
        written: calls that were written ahead of earlier nodes, none of which is written a second time; each is a
            layer of its own. Without it, all are parts of the node that they take the place of.
    """

    def __init__(self, graph: Graph, node: Node, written: dict[Any, Node] | None = None) -> None:
        self.graph, self.node, self.written = graph, node, written

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        key = (function, tuple(tuple(a) if isinstance(a, list) else a for a in args), *kwargs.items())
        if self.written is not None and key in self.written:
            return self.written[key]
        new = insert(self.graph, self.node, function, *args, **kwargs)
        with torch.no_grad():
            new.meta["val"] = run_node(new, fake_value)
        if self.written is not None:
            self.written[key] = new
            annotate(new, operator=operator_name(new), origin=new.name)
            analyze_operator(new)  # once more, now that its value is known
        return new


Writing = Callable[[Writer, dict[str, Any]], Any]
"""(writer, arguments by name) -> what takes the operator's place: a tuple for several results; None if it stays."""


def write_out(graph: Graph) -> Graph:
    """Replace every composite operator; one that a user taught stays what it is."""
    for node in list(graph.operators()):
        writing = WRITTEN_OUT.get(operator_name(node)) if TAUGHT not in node.meta else None
        new = writing(Writer(graph, node), arguments(node)) if writing is not None else None
        if isinstance(new, tuple):
            for reader in list(node.users):
                reader.replace_all_uses_with(new[positional(reader)[1]])
        elif new is not None:
            node.replace_all_uses_with(new)
    return remove_dead(graph)


# Products.


def _tensordot(write: Writer, given: dict[str, Any]) -> Node:
    return _contracted(write, given["self"], given["other"], given["dims_self"], given["dims_other"])


def _inner(write: Writer, given: dict[str, Any]) -> Node:
    x, y = given["self"], given["other"]
    return _contracted(write, x, y, [-1], [-1]) if rank_of(x) and rank_of(y) else write(aten.mul.Tensor, x, y)


def _contracted(write: Writer, x: Node, y: Node, over_x: Sequence[int], over_y: Sequence[int]) -> Node:
    """The sum of products over pairs of dimensions: one product of matrices, as a linear layer is one."""
    over_x, over_y = [d % rank_of(x) for d in over_x], [d % rank_of(y) for d in over_y]
    free_x, free_y = ([d for d in range(rank_of(t)) if d not in over] for t, over in ((x, over_x), (y, over_y)))
    sizes = fake_value(y).shape
    if not (over_x and free_x and free_y and all(isinstance(size, int) for size in sizes)):
        return _einsum(write, x, y, over_x, over_y)
    rows = write(aten.flatten.using_ints, write(aten.permute.default, x, [*free_x, *over_x]), len(free_x), -1)
    matrix = write(aten.flatten.using_ints, write(aten.permute.default, y, [*over_y, *free_y]), 0, len(over_y) - 1)
    product = write(aten.matmul.default, rows, write(aten.flatten.using_ints, matrix, 1, -1))
    return product if len(free_y) == 1 else write(aten.unflatten.int, product, -1, [sizes[d] for d in free_y])


def _einsum(write: Writer, x: Node, y: Node, over_x: Sequence[int], over_y: Sequence[int]) -> Node:
    of_x = list(LETTERS[: rank_of(x)])
    of_y = list(LETTERS[rank_of(x) : rank_of(x) + rank_of(y)])
    for d, e in zip(over_x, over_y, strict=True):
        of_y[e] = of_x[d]
    free = [letter for letters in (of_x, of_y) for letter in letters if (letter in of_x) != (letter in of_y)]
    return write(aten.einsum.default, f"{''.join(of_x)},{''.join(of_y)}->{''.join(free)}", [x, y])


def _bilinear(write: Writer, given: dict[str, Any]) -> Node:
    """`z_o = Σ_ij W_oij x_i y_j + b_o`."""
    joined = write(aten.einsum.default, "...i,oij,...j->...o", [given["input1"], given["weight"], given["input2"]])
    return joined if given["bias"] is None else write(aten.add.Tensor, joined, given["bias"])


def _convolution(write: Writer, given: dict[str, Any]) -> Node:
    """By the number of its dimensions, which its weight has two more than."""
    transposed, d = given["transposed"], len(fake_value(given["weight"]).shape) - 2
    packet = getattr(aten, f"conv_transpose{d}d" if transposed else f"conv{d}d")
    kind = getattr(packet, packet.overloads()[0])
    behind = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
    new = write(kind, *(given[name] for name in ("input", "weight", "bias", "stride", "padding", *behind)))
    annotate(new, operator=operator_name(new))  # a layer like any other of its kind
    return new


def _vecdot(write: Writer, given: dict[str, Any]) -> Node:
    return write(aten.sum.dim_IntList, write(aten.mul.Tensor, given["x"], given["y"]), [given["dim"]])


def _outer_product(write: Writer, column: Node, row: Node) -> Node:
    return write(aten.mul.Tensor, write(aten.unsqueeze.default, column, 1), write(aten.unsqueeze.default, row, 0))


def _outer(write: Writer, given: dict[str, Any]) -> Node:
    return _outer_product(write, given["self"], given["vec2"])


def _added(write: Writer, given: dict[str, Any], product: Node) -> Node:
    """`β · self + α · product`."""
    start = given["self"] if given["beta"] == 1 else write(aten.mul.Tensor, given["self"], given["beta"])
    return write(aten.add.Tensor, start, product, alpha=given["alpha"])


def _addmv(write: Writer, given: dict[str, Any]) -> Node:
    return _added(write, given, write(aten.mv.default, given["mat"], given["vec"]))


def _addr(write: Writer, given: dict[str, Any]) -> Node:
    return _added(write, given, _outer_product(write, given["vec1"], given["vec2"]))


def _addbmm(write: Writer, given: dict[str, Any]) -> Node:
    product = write(aten.bmm.default, given["batch1"], given["batch2"])
    return _added(write, given, write(aten.sum.dim_IntList, product, [0]))


def _multi_dot(write: Writer, given: dict[str, Any]) -> Node:
    factors: list[Node] = given.get("tensors") or given["matrices"]
    product = factors[0]
    for factor in factors[1:]:
        product = write(aten.matmul.default, product, factor)
    return product


def _cross(write: Writer, given: dict[str, Any]) -> Node | None:
    """`z_i = x_{i+1} y_{i+2} − x_{i+2} y_{i+1}`, indices modulo 3."""
    x, y, dim = given["self"], given["other"], given["dim"]
    if dim is None:
        return None

    def turned(of_x: int, of_y: int) -> Node:
        return write(
            aten.mul.Tensor, write(aten.roll.default, x, [-of_x], [dim]), write(aten.roll.default, y, [-of_y], [dim])
        )

    return write(aten.sub.Tensor, turned(1, 2), turned(2, 1))


def _xlogy(write: Writer, given: dict[str, Any]) -> Node | None:
    """`x log y`, left alone where the logarithm is of a number."""
    x, y = given["self"], given["other"]
    return write(aten.mul.Tensor, write(aten.log.default, y), x) if isinstance(y, Node) else None


# Distances.


def _cosine_similarity(write: Writer, given: dict[str, Any]) -> Node:
    dim = given["dim"]

    def unit(x: Node) -> Node:
        norm = write(aten.linalg_vector_norm.default, x, 2, [dim], True)
        return write(aten.div.Tensor, x, write(aten.clamp_min.default, norm, given["eps"]))

    return write(aten.sum.dim_IntList, write(aten.mul.Tensor, unit(given["x1"]), unit(given["x2"])), [dim])


def _pairwise_distance(write: Writer, given: dict[str, Any]) -> Node | None:
    difference = write(aten.sub.Tensor, given["x1"], given["x2"])
    return _norm(write, write(aten.add.Scalar, difference, given["eps"]), given["p"], [-1], given["keepdim"])


def _cdist(write: Writer, given: dict[str, Any]) -> Node | None:
    rows, columns = write(aten.unsqueeze.default, given["x1"], -2), write(aten.unsqueeze.default, given["x2"], -3)
    return _norm(write, write(aten.sub.Tensor, rows, columns), given["p"], [-1], False)


def _dist(write: Writer, given: dict[str, Any]) -> Node | None:
    return _norm(write, write(aten.sub.Tensor, given["self"], given["other"]), given["p"], None, False)


def _hypot(write: Writer, given: dict[str, Any]) -> Node:
    squares = [write(aten.square.default, given[name]) for name in ("self", "other")]
    return write(aten.sqrt.default, write(aten.add.Tensor, *squares))


def _norm(write: Writer, x: Node, p: float, dims: Sequence[int] | None, keepdim: bool) -> Node | None:
    """`(Σ |x|^p)^(1/p)`, by whose powers relevance passes: `R_i = |x_i|^p / Σ_k |x_k|^p · R`. None for `p = 0`."""
    if p == 0:
        return None
    if math.isinf(p):
        return write(aten.amax.default if p > 0 else aten.amin.default, write(aten.abs.default, x), dims or [], keepdim)
    if p == 2:
        return write(aten.sqrt.default, write(aten.sum.dim_IntList, write(aten.square.default, x), dims, keepdim))
    size = write(aten.abs.default, x)
    if p == 1:
        return write(aten.sum.dim_IntList, size, dims, keepdim)
    total = write(aten.sum.dim_IntList, write(aten.pow.Tensor_Scalar, size, p), dims, keepdim)
    return write(aten.pow.Tensor_Scalar, total, 1 / p)


def _loss(of_difference: Callable[..., Any]) -> Writing:
    """The mean, the sum or each of a function of the difference between two tensors."""

    def write_loss(write: Writer, given: dict[str, Any]) -> Node:
        each = write(of_difference, write(aten.sub.Tensor, given["self"], given["target"]))
        reduced = {1: aten.mean.default, 2: aten.sum.default}.get(given["reduction"])
        return each if reduced is None else write(reduced, each)

    return write_loss


# Order, and what lies next to each other.


def _diff(write: Writer, given: dict[str, Any]) -> Node:
    dim = given["dim"]
    parts: list[Node] = [part for part in (given["prepend"], given["self"], given["append"]) if part is not None]
    x = parts[0] if len(parts) == 1 else write(aten.cat.default, parts, dim)
    for _ in range(given["n"]):
        later, earlier = (write(aten.slice.Tensor, x, dim, *ends) for ends in ((1, LAST), (0, -1)))
        x = write(aten.sub.Tensor, later, earlier)
    return x


def _trace(write: Writer, given: dict[str, Any]) -> Node:
    return write(aten.sum.default, write(aten.diagonal.default, given["self"]))


def _quantile(write: Writer, given: dict[str, Any]) -> Node | None:
    """Between the two sorted entries next to it."""
    x, q, dim = given["self"], given["q"], given["dim"]
    whole = write(aten.flatten.using_ints, x) if dim is None else x
    along = 0 if dim is None else dim
    size = fake_value(whole).shape[along]
    if not isinstance(q, float) or not isinstance(size, int) or (dim is None and given["keepdim"]):
        return None
    position = q * (size - 1)
    low, high = math.floor(position), math.ceil(position)
    between = {"linear": position - low, "lower": 0.0, "higher": float(high > low), "midpoint": (high - low) / 2,
               "nearest": float(round(position) - low)}[given["interpolation"]]  # fmt: skip
    values = write(operator.getitem, write(aten.sort.default, whole, along), 0)
    picked = [write(aten.select.int, values, along, place) for place in (low, high)]
    found = picked[int(between)]
    if between not in (0.0, 1.0):
        shares = (write(aten.mul.Tensor, x, k) for x, k in zip(picked, (1 - between, between), strict=True))
        found = write(aten.add.Tensor, *shares)
    return write(aten.unsqueeze.default, found, dim) if given["keepdim"] else found


def _aminmax(write: Writer, given: dict[str, Any]) -> tuple[Node, ...]:
    dims = [] if given["dim"] is None else [given["dim"]]
    return tuple(write(op, given["self"], dims, given["keepdim"]) for op in (aten.amin.default, aten.amax.default))


# What is added to, or picked for, places that indices name.


def _scatter(write: Writer, given: dict[str, Any]) -> Node | None:
    """`scatter` with a reduction is no mere movement."""
    kind = given.get("reduce")
    if kind is None:
        return None
    src = given["src"] if "src" in given else write(aten.full_like.default, given["self"], given["value"])
    if kind == "add":
        return write(aten.scatter_add.default, given["self"], given["dim"], given["index"], src)
    return write(aten.scatter_reduce.two, given["self"], given["dim"], given["index"], src, "prod")


def _scatter_reduce(write: Writer, given: dict[str, Any]) -> Node | None:
    if given["reduce"] not in _REDUCTIONS:
        return None
    return _reduced(write, given["self"], given["dim"], given["index"], given["src"], given)


def _index_reduce(write: Writer, given: dict[str, Any]) -> Node | None:
    """With one index for each slice: `scatter_reduce` with an index for each entry."""
    if given["reduce"] not in _REDUCTIONS:
        return None
    src, dim = given["source"], given["dim"] % rank_of(given["source"])
    return _reduced(write, given["self"], dim, index_for_each(write, given["index"], dim, src), src, given)


def index_for_each(write: Writer, index: Node, dim: int, src: Node) -> Node:
    """An index for each slice of `src` along `dim` as one for each of its entries."""
    column = write(aten.reshape.default, index, [-1 if d == dim else 1 for d in range(rank_of(src))])
    return write(aten.expand_as.default, column, src)


_REDUCTIONS = {"sum", "mean", "amax", "amin"}


def _reduced(write: Writer, start: Node, dim: int, index: Node, src: Node, given: dict[str, Any]) -> Node:
    zeros, kind, with_start = write(aten.zeros_like.default, start), given["reduce"], given["include_self"]
    ones = write(aten.ones_like.default, src)
    count = write(aten.scatter_add.default, zeros, dim, index, ones)
    met = write(aten.gt.Scalar, count, 0)
    if kind in ("amax", "amin"):
        found = write(f.extreme_of_places, src, zeros, dim, index, kind)
        if with_start:
            found = write(aten.maximum.default if kind == "amax" else aten.minimum.default, start, found)
        return write(aten.where.self, met, found, start)
    found = write(aten.scatter_add.default, zeros, dim, index, src)
    if with_start and not is_made_of_zeros(start):
        found = write(aten.add.Tensor, start, found)
    if kind == "mean":
        number = write(aten.add.Scalar, count, 1) if with_start else write(aten.clamp_min.default, count, 1)
        found = write(aten.div.Tensor, found, number)
    return found if with_start or is_made_of_zeros(start) else write(aten.where.self, met, found, start)


def _index_put(write: Writer, given: dict[str, Any]) -> Node | None:
    """Where values are added to what is there, several may meet, so nothing is merely moved."""
    if not given["accumulate"]:
        return None
    zeros = write(aten.zeros_like.default, given["self"])
    added = write(f.sum_of_places, given["values"], zeros, given["indices"])
    return added if is_made_of_zeros(given["self"]) else write(aten.add.Tensor, given["self"], added)


WRITTEN_OUT: dict[str, Writing] = {
    "tensordot": _tensordot,
    "inner": _inner,
    "bilinear": _bilinear,
    "convolution": _convolution,
    "_convolution": _convolution,
    "linalg_vecdot": _vecdot,
    "outer": _outer,
    "ger": _outer,
    "addmv": _addmv,
    "addr": _addr,
    "addbmm": _addbmm,
    "linalg_multi_dot": _multi_dot,
    "chain_matmul": _multi_dot,
    "cross": _cross,
    "linalg_cross": _cross,
    "xlogy": _xlogy,
    "special_xlogy": _xlogy,
    "cosine_similarity": _cosine_similarity,
    "pairwise_distance": _pairwise_distance,
    "cdist": _cdist,
    "dist": _dist,
    "hypot": _hypot,
    "mse_loss": _loss(aten.square.default),
    "l1_loss": _loss(aten.abs.default),
    "diff": _diff,
    "trace": _trace,
    "quantile": _quantile,
    "aminmax": _aminmax,
    "scatter": _scatter,
    "scatter_reduce": _scatter_reduce,
    "index_reduce": _index_reduce,
    "index_put": _index_put,
}
