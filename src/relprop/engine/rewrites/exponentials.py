"""Softmaxes and sigmoids that a model spells out: each step alone would be explained as something else.

    w · exp(x − m) / (Σ w · exp(x − m) + δ)   -> weights_of_exponentials, over dimensions or the places of an index;
                                                 δ is a number, or exp(s − m) of a score s of nothing
    log(Σ exp(x)),  m + log(Σ exp(x − m))     -> logsumexp
    x − logsumexp(x),  log(softmax(x))        -> log_softmax
    exp(log_softmax(x))                       -> softmax
    1 / (1 + exp(−x)),  exp(x) / (1 + exp(x)),  (1 + tanh(x/2)) / 2    -> sigmoid
    log(1 + exp(x)),  exp(x) − 1,  2 sigmoid(2x) − 1                   -> softplus, expm1, tanh

An `exp` of its own hands relevance on as it came. Ahead of it `x − max(x)` is 0 at the very entry that has most of it,
so that relevance would grow without bound. And a divisor counts as a constant, so that of `1 / (1 + exp(−x))` nothing
would be left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, annotate, info, is_random, operator_name, shape_of
from relprop.engine.ops.analysis import analyze, remove_dead
from relprop.engine.ops.registry import TAUGHT
from relprop.engine.rewrites.rewriting import arguments, is_data, is_made_of_zeros, positional, rank_of, sizes_of
from relprop.engine.rewrites.written_out import Writer, index_for_each

aten = torch.ops.aten
RESHAPED = {"view", "reshape", "unsqueeze", "squeeze", "expand", "expand_as", "alias", "contiguous", "clone", "detach"}
DEEPEST = 6
"""How far back two values are compared, since the ways back through a network are many."""
SPELLING = {"exp", "logsumexp", "log_softmax", "tanh", "sigmoid", "log"}


@dataclass(frozen=True)
class Total:
    """What a sum runs over: dimensions, or what an index sends to one place of a dimension, read there again."""

    dims: tuple[int, ...]
    index: Node | None = None
    zeros: Node | None = None
    added: float | Node = 0.0
    least: float | None = None


def read_exponentials(graph: Graph) -> Graph:
    """Replace all that is spelled out; a graph without any of it stays as it is."""
    if not any(operator_name(node) in SPELLING for node in graph.operators()):
        return graph
    analyze(graph)
    for node in list(graph.operators()):
        reading = READINGS.get(operator_name(node))
        reads = info(node).data or any(info(a).data for a in node.all_input_nodes)  # an inverse is a constant by itself
        if reading is None or TAUGHT in node.meta or not reads:
            continue
        new = reading(Writer(graph, node), node)
        if new is not None and sizes_of(new) == sizes_of(node):
            annotate(new, operator="softmax" if new.target is f.weights_of_exponentials else operator_name(new))
            node.replace_all_uses_with(new)
    return remove_dead(graph)


def _is(value: Any, *names: str) -> bool:
    return isinstance(value, Node) and operator_name(value) in names


def _unsqueezed(node: Any) -> Node | None:
    """What `x.unsqueeze(d)` or `x[:, None]` puts a dimension into; None where the node does not."""
    if not _is(node, "unsqueeze"):
        return None
    inner: Node = positional(node)[0]
    while _is(inner, "slice") and sizes_of(inner) == sizes_of(positional(inner)[0]):
        inner = positional(inner)[0]
    return inner


def _alike(a: Any, b: Any, depth: int = DEEPEST) -> bool:
    """One value, perhaps computed twice; what is drawn twice is not."""
    if not (isinstance(a, Node) and isinstance(b, Node)):
        return type(a) is type(b) and bool(a == b)
    if a is b:
        return True
    same = a.op == b.op == "call_function" and a.target is b.target and a.kwargs == b.kwargs and not is_random(a)
    if not same or not depth or len(a.args) != len(b.args):
        return False
    return all(_alike(x, y, depth - 1) for x, y in zip(a.args, b.args, strict=True))


def _origin(node: Any) -> Any:
    """What a value was before it was shaped anew."""
    while _is(node, *RESHAPED):
        node = positional(node)[0]
    return node


# Weights of exponentials.


def _quotient(write: Writer, node: Node) -> Node | None:
    if node.kwargs.get("rounding_mode") is not None:
        return None
    above, below = positional(node)[:2]
    if _is(above, "exp") and _alike(_one_more_than(below), above):
        return write(aten.sigmoid.default, positional(above)[0])
    if below == 2 and (tanh := _one_more_than(above)) is not None:
        return _of_tanh(write, tanh)
    return _weights(write, above, below)


def _product(write: Writer, node: Node) -> Node | None:
    """A quotient as a product with an inverse."""
    factors = positional(node)[:2]
    for above, other in (factors, factors[::-1]):
        if _is(other, "reciprocal") or (_is(other, "pow") and positional(other)[1] == -1):
            return _weights(write, above, positional(other)[0])
        if other == 0.5 and (tanh := _one_more_than(above)) is not None:
            return _of_tanh(write, tanh)
    return None


def _weights(write: Writer, above: Any, below: Any) -> Node | None:
    found = _weighted(above)
    total = _total(write, below, above) if found is not None else None
    if found is None or total is None:
        return None
    exponential, weight = found
    x, shift, added = positional(exponential)[0], None, total.added
    if _is(x, "sub", "subtract") and arguments(x).get("alpha", 1) == 1 and is_data(positional(x)[0]):
        inner, taken_off = positional(x)[:2]
        cancels = not isinstance(added, Node) or is_data(added)
        if cancels and isinstance(taken_off, Node) and _is_constant_within(taken_off, total, rank_of(x)):
            x, shift = inner, taken_off
    if sizes_of(x) != sizes_of(above):
        return None
    if isinstance(added, Node):
        if not _rests(added, shift, total, rank_of(x)):
            return None
        added = write(f.hold, added)
    kept = None if weight is None else weight(write)
    return write(f.weights_of_exponentials, x, None if shift is None else write(f.hold, shift), kept, total.dims,
                 total.index, total.zeros, added, total.least)  # fmt: skip


def _rests(added: Node, shift: Node | None, total: Total, rank: int) -> bool:
    """Whether an exponential of no data is added to a sum, shifted as its terms are."""
    if total.index is not None or not _is_constant_within(added, total, rank):
        return False
    if shift is None:
        return not is_data(added)
    exponent = positional(added)[0]
    if _is(exponent, "neg"):
        return _alike(positional(exponent)[0], shift)
    if _is(exponent, "rsub"):
        return _alike(positional(exponent)[0], shift) and _is_number(positional(exponent)[1])
    rested, taken_off = positional(exponent)[:2] if _is(exponent, "sub", "subtract") else (exponent, None)
    return not exponent.kwargs and _alike(taken_off, shift) and not is_data(rested)


def _weighted(node: Any) -> tuple[Node, Any] | None:
    """An exponential and what writes its weight, which is no data: a factor, or where a mask keeps it."""
    if _is(node, "exp"):
        return node, None
    found: tuple[Any, Any, bool] | None = None
    if _is(node, "mul", "multiply"):
        a, b = positional(node)[:2]
        found = (a, b, False) if is_data(a) else (b, a, False)
    elif _is(node, "masked_fill") and _is_zero(positional(node)[2]):
        found = (*positional(node)[:2], True)
    elif _is(node, "where") and len(node.args) == 3:
        mask, a, b = positional(node)
        found = (a, mask, False) if _is_zero(b) else (b, mask, True) if _is_zero(a) else None
    if found is None or not _is(found[0], "exp") or not isinstance(found[1], Node) or info(found[1]).data:
        return None
    exponential, weight, inverted = found
    return exponential, lambda write: write(aten.logical_not.default, weight) if inverted else weight


def _is_zero(value: Any) -> bool:
    filled = _is(value, "full", "full_like", "scalar_tensor") and 0 in value.args[-1:]
    return is_made_of_zeros(value) or filled or (_is_number(value) and value == 0)


def _total(write: Writer, node: Any, terms: Node) -> Total | None:
    """What a divisor sums the terms over; None where it is no sum of them that each of them reads."""
    if _is(node, "expand", "expand_as"):
        return _total(write, positional(node)[0], terms)
    bounded = _bounded(node, lambda inner: _total(write, inner, terms))
    if bounded is not None:
        return bounded
    read = _read_at(node)
    return _sum_of_places(write, *read, terms) if read is not None else _sum_over(node, terms)


def _bounded(node: Any, total_of: Callable[[Any], Total | None]) -> Total | None:
    """A sum that something small was added to, or that is kept from being 0; None where it is neither."""
    if _is(node, "add") and not node.kwargs:
        return _added(*positional(node)[:2], total_of) or _added(*positional(node)[1::-1], total_of)
    if _is(node, "clamp", "clamp_min") and arguments(node).get("max") is None:
        total, least = total_of(positional(node)[0]), arguments(node)["min"]
        return replace(total, least=float(least)) if total and not total.added and _is_number(least) else None
    return None


def _added(inner: Any, added: Any, total_of: Callable[[Any], Total | None]) -> Total | None:
    """A sum and what is added to it, which is a number or an exponential."""
    if not (_is_number(added) or _is(added, "exp")):
        return None
    total = total_of(inner)
    if total is None or total.least is not None or isinstance(total.added, Node):
        return None
    if _is_number(added):
        return replace(total, added=total.added + added)
    return None if total.added else replace(total, added=added)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _sum_over(node: Any, terms: Node) -> Total | None:
    """A sum over dimensions, which stay, or are put back, or are the first ones, along which quotients broadcast."""
    inner = _unsqueezed(node)
    dims = _summed_over(node if inner is None else inner, terms)
    if dims is None:
        return None
    keeps = bool(arguments(node if inner is None else inner)["keepdim"])
    if inner is not None:
        fits = not keeps and dims == (positional(node)[1] % rank_of(terms),)
    else:
        fits = keeps or dims == tuple(range(len(dims)))
    return Total(dims) if fits else None


def _summed_over(node: Any, terms: Node) -> tuple[int, ...] | None:
    norm = _is(node, "linalg_vector_norm") and arguments(node)["ord"] == 1 and _is(terms, "exp")
    summed = norm or (_is(node, "sum") and len(node.args) > 1)
    if not summed or not _alike(positional(node)[0], terms):
        return None
    dims = arguments(node)["dim"]
    rank = rank_of(terms)
    return tuple(sorted(d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))))


def _read_at(node: Any) -> tuple[Any, int, Node] | None:
    """(table, dimension, index) of what is read at an index."""
    if _is(node, "index_select", "gather"):
        return positional(node)[:3]
    if not _is(node, "index"):
        return None
    table, indices = positional(node)[:2]
    given = [d for d, index in enumerate(indices) if index is not None]
    return (table, given[0], indices[given[0]]) if len(given) == 1 else None


def _sum_of_places(write: Writer, table: Any, dim: int, index: Node, terms: Node) -> Total | None:
    """The sum of what an index sends to a place of a table of zeros, read at the same index."""
    rank = rank_of(terms)
    bounded = _bounded(table, lambda inner: _sum_of_places(write, inner, dim, index, terms))
    if bounded is not None:
        return bounded
    summed = _is(table, "scatter_reduce") and arguments(table)["reduce"] == "sum"
    if not (_is(table, "scatter_add", "index_add") or summed) or arguments(table).get("alpha", 1) != 1:
        return None
    zeros, into, sent, source = positional(table)[:4]
    if not (is_made_of_zeros(zeros) and into % rank == dim % rank and _alike(source, terms)):
        return None
    if not (_alike(sent, index) or (_alike(_origin(sent), _origin(index)) and rank_of(_origin(sent)) == 1)):
        return None
    if rank_of(sent) == 1 and rank > 1:
        sent = index_for_each(write, sent, dim % rank, terms)
    return Total((dim % rank,), sent, zeros)


def _is_constant_within(shift: Node, total: Total, rank: int) -> bool:
    """Whether all terms of one sum have the same shift, so that it cancels."""
    shape = shape_of(shift)
    if shape is None:
        return False
    if all(d < rank - len(shape) or shape[d - rank + len(shape)] == 1 for d in total.dims):
        return True
    read = _read_at(shift)
    if total.index is None or read is None:
        return False
    return read[1] % rank == total.dims[0] and _alike(_origin(read[2]), _origin(total.index))


# Logarithms of sums of exponentials.


def _log(write: Writer, node: Node) -> Node | None:
    total = positional(node)[0]
    if _is(total, "softmax") and len(total.args) == 2 and not total.kwargs:
        return write(aten.log_softmax.int, *positional(total))
    exponential = _one_more_than(total)
    if exponential is not None and _is(exponential, "exp"):
        return write(aten.softplus.default, positional(exponential)[0])
    if not _is(total, "sum") or len(total.args) < 2 or not _is(positional(total)[0], "exp"):
        return None
    given = arguments(total)
    if given["dim"] is None or given.get("dtype") is not None:
        return None
    exponent = positional(positional(total)[0])[0]
    return write(aten.logsumexp.default, exponent, given["dim"], bool(given["keepdim"]))


def _sum(write: Writer, node: Node) -> Node | None:
    """`m + logsumexp(x − m)`."""
    if node.kwargs:
        return None
    if positional(node)[1] == -1:
        return _one_less(write, positional(node)[0])
    summands = positional(node)[:2]
    for logsumexp, shift in (summands, summands[::-1]):
        if not (_is(_origin(logsumexp), "logsumexp") and isinstance(shift, Node)):
            continue
        inner, dims, *keeps = positional(_origin(logsumexp))
        if not (_is(inner, "sub", "subtract") and arguments(inner).get("alpha", 1) == 1):
            continue
        x, taken_off = positional(inner)[:2]
        constant = _is_constant_within(taken_off, Total(_wrapped(x, dims)), rank_of(x))
        if constant and _alike(_origin(taken_off), _origin(shift)):
            whole = write(aten.logsumexp.default, x, dims, *keeps)
            return whole if sizes_of(whole) == sizes_of(node) else write(aten.view_as.default, whole, logsumexp)
    return None


def _wrapped(x: Node, dims: Any) -> tuple[int, ...]:
    return tuple(d % rank_of(x) for d in dims)


def _difference(write: Writer, node: Node) -> Node | None:
    """`x − logsumexp(x)`."""
    if arguments(node).get("alpha", 1) != 1:
        return None
    x, taken_off = positional(node)[:2]
    if taken_off == 1:
        return _one_less(write, x)
    unsqueezed = _unsqueezed(taken_off)
    inner = taken_off if unsqueezed is None else unsqueezed
    if not _is(inner, "logsumexp") or not _alike(positional(inner)[0], x):
        return None
    dims = _wrapped(x, positional(inner)[1])
    kept = bool(arguments(inner)["keepdim"]) != (unsqueezed is not None)
    back = unsqueezed is None or positional(taken_off)[1] % rank_of(x) == dims[0]
    return write(aten.log_softmax.int, x, dims[0]) if len(dims) == 1 and kept and back else None


def _exp(write: Writer, node: Node) -> Node | None:
    inner = positional(node)[0]
    return write(aten.softmax.int, *positional(inner)) if _is(inner, "log_softmax") else None


# Sigmoids.


def _one_more_than(node: Any) -> Node | None:
    """The x of `x + 1`."""
    if not _is(node, "add") or node.kwargs:
        return None
    a, b = positional(node)[:2]
    return a if _is_number(b) and b == 1 else b if _is_number(a) and a == 1 else None


def _reciprocal(write: Writer, node: Node) -> Node | None:
    exponential = _one_more_than(positional(node)[0])
    if exponential is None or not _is(exponential, "exp"):
        return None
    exponent = positional(exponential)[0]
    return write(aten.sigmoid.default, write(aten.neg.default, exponent))


def _of_tanh(write: Writer, tanh: Node) -> Node | None:
    """`(1 + tanh(x)) / 2`."""
    return write(aten.sigmoid.default, write(aten.mul.Tensor, positional(tanh)[0], 2)) if _is(tanh, "tanh") else None


def _one_less(write: Writer, node: Any) -> Node | None:
    if _is(node, "exp"):
        return write(aten.expm1.default, positional(node)[0])
    if not _is(node, "mul", "multiply"):
        return None
    for sigmoid, factor in (positional(node)[:2], positional(node)[1::-1]):
        if _is(sigmoid, "sigmoid") and factor == 2:
            return write(aten.tanh.default, write(aten.mul.Tensor, positional(sigmoid)[0], 0.5))
    return None


def _from(write: Writer, node: Node) -> Node | None:
    """`1 − exp(x)`, which is taken from a number."""
    x, number = positional(node)[:2]
    return write(aten.neg.default, _one_less(write, x)) if number == 1 and not node.kwargs and _is(x, "exp") else None


READINGS = {
    **dict.fromkeys(("div", "divide", "true_divide"), _quotient),
    **dict.fromkeys(("mul", "multiply"), _product),
    "log": _log,
    "add": _sum,
    **dict.fromkeys(("sub", "subtract"), _difference),
    "rsub": _from,
    "exp": _exp,
    "reciprocal": _reciprocal,
}
