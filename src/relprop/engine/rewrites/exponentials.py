"""Softmaxes and sigmoids that a model spells out: each step alone would be explained as something else.

    w · exp(x − m) / (Σ w · exp(x − m) + δ)   -> weights_of_exponentials, over dimensions or the places of an index;
                                                 δ is a number, or exp(s − m) of a score s of nothing
    Σ w · exp(x − m) · v / Σ w · exp(x − m)   -> the same, times v, summed
    log(Σ exp(x)),  m + log(Σ exp(x − m))     -> logsumexp
    x − logsumexp(x),  log(softmax(x))        -> log_softmax
    exp(log_softmax(x))                       -> softmax
    1 / (1 + exp(−x)),  exp(x) / (1 + exp(x)),  (1 + tanh(x/2)) / 2    -> sigmoid
    log(1 + exp(x)),  exp(x) − 1,  2 sigmoid(2x) − 1                   -> softplus, expm1, tanh

An `exp` of its own hands relevance on as it came. Ahead of it `x − max(x)` is 0 at the very entry that has most of it,
so that relevance would grow without bound: where it is part of none of these, it is `exp(x)` over `exp(max(x))`, and a
divisor counts as a constant. Of `1 / (1 + exp(−x))` that would leave nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, annotate, fake_value, info, operator_name
from relprop.engine.ops.analysis import analyze, remove_dead
from relprop.engine.ops.registry import TAUGHT
from relprop.engine.rewrites.averages import average, share
from relprop.engine.rewrites.blocks import MOST, TooManyBlocks
from relprop.engine.rewrites.rewriting import arguments, is_data, positional, rank_of, sizes_of
from relprop.engine.rewrites.sums_of_exponentials import (
    Total,
    alike,
    is_a,
    is_constant_within,
    is_number,
    origin,
    total_of,
    unsqueezed,
    wrapped,
)
from relprop.engine.rewrites.weights import BASES, is_exponential, weighted, weights_of
from relprop.engine.rewrites.written_out import Writer
from relprop.errors import warn

aten = torch.ops.aten
SPELLING = {"exp", "logsumexp", "softmax", "log_softmax", "tanh", "sigmoid"}


def read_exponentials(graph: Graph) -> Graph:
    """Replace all that is spelled out; a graph without any of it stays as it is."""
    if not any(operator_name(node) in SPELLING or is_exponential(node) for node in graph.operators()):
        return graph
    analyze(graph)
    written, too_long = dict[Any, Node](), list[Node]()
    for node in list(graph.operators()):
        reading = READINGS.get(operator_name(node))
        reads = info(node).data or any(info(a).data for a in node.all_input_nodes)  # an inverse is a constant by itself
        if reading is None or TAUGHT in node.meta or not reads:
            continue
        try:
            new = reading(Writer(graph, node, written), node)
        except TooManyBlocks:
            too_long.append(node)
            continue
        if new is not None and sizes_of(new) == sizes_of(node):
            if new.target is not f.weights_of_exponentials:
                annotate(new, operator=operator_name(new), origin=info(node).origin)
            node.replace_all_uses_with(new)
    if too_long:
        warn(
            f"{len(too_long)} average(s) by exponentials, the first of them {too_long[0].name} in "
            f"{info(too_long[0]).path or 'the model'}, have more than {MOST} parts and are explained part by part, so "
            "that what came earlier shares its relevance by half with each of them. Up to that length they are "
            "explained as one softmax."
        )
    return _divided_by_extremes(remove_dead(graph))


def _divided_by_extremes(graph: Graph) -> Graph:
    """`exp(x − m)`, m the largest of what x is one of, where it is part of nothing that is read as a whole."""
    for node in list(graph.operators()):
        if TAUGHT in node.meta or not is_a(node, *BASES) or not info(node).data:
            continue
        difference = positional(node)[0]
        if not is_a(difference, "sub", "subtract") or arguments(difference).get("alpha", 1) != 1:
            continue
        x, taken_off = positional(difference)[:2]
        if is_data(x) and is_data(taken_off) and _is_extreme(taken_off) and sizes_of(x) == sizes_of(node):
            write = Writer(graph, node)
            new = write(f.shifted_exponential, x, write(f.hold, taken_off), BASES[operator_name(node)])
            annotate(new, operator=operator_name(node))
            node.replace_all_uses_with(new)
    return remove_dead(graph)


def _is_extreme(value: Node) -> bool:
    """The largest of some values, perhaps a soft one."""
    value = origin(value)
    if is_a(value, "getitem"):
        value = positional(value)[0]
    return is_a(value, "amax", "max", "maximum", "cummax", "logsumexp", "logaddexp", "logcumsumexp")


# Weights of exponentials.


def _quotient(write: Writer, node: Node) -> Node | None:
    if node.kwargs.get("rounding_mode") is not None:
        return None
    above, below = positional(node)[:2]
    if is_a(above, "exp") and alike(_one_more_than(below), above):
        return write(aten.sigmoid.default, positional(above)[0])
    if below == 2 and (tanh := _one_more_than(above)) is not None:
        return _of_tanh(write, tanh)
    return _weights(write, above, below)


def _product(write: Writer, node: Node) -> Node | None:
    """A quotient as a product with an inverse."""
    factors = positional(node)[:2]
    for above, other in (factors, factors[::-1]):
        if is_a(other, "reciprocal") or (is_a(other, "pow") and positional(other)[1] == -1):
            return _weights(write, above, positional(other)[0])
        if other == 0.5 and (tanh := _one_more_than(above)) is not None:
            return _of_tanh(write, tanh)
    return None


def _weights(write: Writer, above: Any, below: Any) -> Node | None:
    summed, count = _of_mean(write, below)
    if summed is not None and not is_a(above, "mean"):
        found = _weights(write, above, summed)
        return None if found is None else write(aten.mul.Tensor, found, count)
    if weighted(above) is None:
        return average(write, above, below) if is_data(above) else None
    total = total_of(write, below, above)
    weights = None if total is None else weights_of(write, above, total)
    return average(write, above, below) if weights is None and is_data(above) else weights


def _of_mean(write: Writer, divisor: Any) -> tuple[Node | None, int]:
    """The sum of what a divisor is the mean of, and how much was summed; no sum where it is no mean."""
    inner = unsqueezed(divisor)
    if inner is not None:
        total, count = _of_mean(write, inner)
        return total if total is None else write(aten.unsqueeze.default, total, positional(divisor)[1]), count
    if not is_a(divisor, "mean") or len(divisor.args) < 2:
        return None, 1
    given = arguments(divisor)
    sizes = [fake_value(given["self"]).shape[d] for d in given["dim"] or []]
    if not sizes or given.get("dtype") is not None or not all(isinstance(size, int) for size in sizes):
        return None, 1
    return write(aten.sum.dim_IntList, given["self"], given["dim"], given["keepdim"]), math.prod(sizes)


# Logarithms of sums of exponentials.


def _log(write: Writer, node: Node) -> Node | None:
    total = positional(node)[0]
    if is_a(total, "softmax") and len(total.args) == 2 and not total.kwargs:
        return write(aten.log_softmax.int, *positional(total))
    exponential = _one_more_than(total)
    if exponential is not None and is_a(exponential, "exp"):
        return write(aten.softplus.default, positional(exponential)[0])
    if not is_a(total, "sum") or len(total.args) < 2 or not is_a(positional(total)[0], "exp"):
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
        if not (is_a(origin(logsumexp), "logsumexp") and isinstance(shift, Node)):
            continue
        inner, dims, *keeps = positional(origin(logsumexp))
        if not (is_a(inner, "sub", "subtract") and arguments(inner).get("alpha", 1) == 1):
            continue
        x, taken_off = positional(inner)[:2]
        constant = is_constant_within(taken_off, Total(wrapped(x, dims)), rank_of(x))
        if constant and alike(origin(taken_off), origin(shift)):
            whole = write(aten.logsumexp.default, x, dims, *keeps)
            return whole if sizes_of(whole) == sizes_of(node) else write(aten.view_as.default, whole, logsumexp)
    return None


def _difference(write: Writer, node: Node) -> Node | None:
    """`x − logsumexp(x)`."""
    if arguments(node).get("alpha", 1) != 1:
        return None
    x, taken_off = positional(node)[:2]
    if taken_off == 1:
        return _one_less(write, x)
    flat = unsqueezed(taken_off)
    inner = taken_off if flat is None else flat
    if not is_a(inner, "logsumexp") or not alike(positional(inner)[0], x):
        return None
    dims = wrapped(x, positional(inner)[1])
    kept = bool(arguments(inner)["keepdim"]) != (flat is not None)
    back = flat is None or positional(taken_off)[1] % rank_of(x) == dims[0]
    return write(aten.log_softmax.int, x, dims[0]) if len(dims) == 1 and kept and back else None


def _exp(write: Writer, node: Node) -> Node | None:
    inner = positional(node)[0]
    return write(aten.softmax.int, *positional(inner)) if is_a(inner, "log_softmax") else share(write, node)


# Sigmoids.


def _one_more_than(node: Any) -> Node | None:
    """The x of `x + 1`."""
    if not is_a(node, "add") or node.kwargs:
        return None
    a, b = positional(node)[:2]
    return a if is_number(b) and b == 1 else b if is_number(a) and a == 1 else None


def _reciprocal(write: Writer, node: Node) -> Node | None:
    exponential = _one_more_than(positional(node)[0])
    if exponential is None or not is_a(exponential, "exp"):
        return None
    exponent = positional(exponential)[0]
    return write(aten.sigmoid.default, write(aten.neg.default, exponent))


def _of_tanh(write: Writer, tanh: Node) -> Node | None:
    """`(1 + tanh(x)) / 2`."""
    return write(aten.sigmoid.default, write(aten.mul.Tensor, positional(tanh)[0], 2)) if is_a(tanh, "tanh") else None


def _one_less(write: Writer, node: Any) -> Node | None:
    if is_a(node, "exp"):
        return write(aten.expm1.default, positional(node)[0])
    if not is_a(node, "mul", "multiply"):
        return None
    for sigmoid, factor in (positional(node)[:2], positional(node)[1::-1]):
        if is_a(sigmoid, "sigmoid") and factor == 2:
            return write(aten.tanh.default, write(aten.mul.Tensor, positional(sigmoid)[0], 0.5))
    return None


def _from(write: Writer, node: Node) -> Node | None:
    """`1 − exp(x)`, which is taken from a number."""
    x, number = positional(node)[:2]
    return write(aten.neg.default, _one_less(write, x)) if number == 1 and not node.kwargs and is_a(x, "exp") else None


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
