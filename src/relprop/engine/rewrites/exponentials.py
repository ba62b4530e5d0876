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
so that relevance would grow without bound. And a divisor counts as a constant, so that of `1 / (1 + exp(−x))` nothing
would be left.
"""

from __future__ import annotations

from typing import Any

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, annotate, info, operator_name
from relprop.engine.ops.analysis import analyze, remove_dead
from relprop.engine.ops.registry import TAUGHT
from relprop.engine.rewrites.rewriting import arguments, is_data, positional, rank_of, sizes_of
from relprop.engine.rewrites.sums_of_exponentials import (
    Total,
    alike,
    bounded,
    is_a,
    is_constant_within,
    is_number,
    is_zero,
    origin,
    summed_over,
    total_of,
    unsqueezed,
    wrapped,
)
from relprop.engine.rewrites.written_out import Writer

aten = torch.ops.aten
SPELLING = {"exp", "logsumexp", "softmax", "log_softmax", "tanh", "sigmoid"}


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
            if new.target is not f.weights_of_exponentials:
                annotate(new, operator=operator_name(new))
            node.replace_all_uses_with(new)
    return remove_dead(graph)


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
    if _weighted(above) is None:
        return _average(write, above, below)
    total = total_of(write, below, above)
    return None if total is None else _weights_of(write, above, total)


def _weights_of(write: Writer, terms: Node, total: Total) -> Node | None:
    """What is weighed by terms that are divided by their total."""
    found = _weighted(terms)
    if found is None:
        return None
    exponential, weight = found
    x, shift, added = positional(exponential)[0], None, total.added
    if is_a(exponential, "softmax"):
        if isinstance(added, Node) or total.index is not None or total.dims != wrapped(x, positional(exponential)[1:2]):
            return None
        shift = write(aten.logsumexp.default, x, list(total.dims), True)
    elif is_a(x, "sub", "subtract") and arguments(x).get("alpha", 1) == 1 and is_data(positional(x)[0]):
        inner, taken_off = positional(x)[:2]
        cancels = not isinstance(added, Node) or is_data(added)
        if cancels and isinstance(taken_off, Node) and is_constant_within(taken_off, total, rank_of(x)):
            x, shift = inner, taken_off
    if sizes_of(x) != sizes_of(terms):
        return None
    if isinstance(added, Node):
        if not _rests(added, shift, total, rank_of(x)):
            return None
        added = write(f.hold, added)
    kept = None if weight is None else weight(write)
    held = None if shift is None else write(f.hold, shift)
    weights = write(f.weights_of_exponentials, x, held, kept, total.dims, total.index, total.zeros, added, total.least)
    annotate(weights, operator="softmax", origin=weights.name)  # a layer of its own, beside a product with values
    return weights


def _rests(added: Node, shift: Node | None, total: Total, rank: int) -> bool:
    """Whether an exponential of no data is added to a sum, shifted as its terms are."""
    if total.index is not None or not is_constant_within(added, total, rank):
        return False
    if shift is None:
        return not is_data(added)
    exponent = positional(added)[0]
    if is_a(exponent, "neg"):
        return alike(positional(exponent)[0], shift)
    if is_a(exponent, "rsub"):
        return alike(positional(exponent)[0], shift) and is_number(positional(exponent)[1])
    rested, taken_off = positional(exponent)[:2] if is_a(exponent, "sub", "subtract") else (exponent, None)
    return not exponent.kwargs and alike(taken_off, shift) and not is_data(rested)


def _weighted(node: Any) -> tuple[Node, Any] | None:
    """An exponential, or a softmax, and what writes its weight, no data: a factor, or where a mask keeps it."""
    if _is_exponential(node):
        return node, None
    if is_a(node, "tril", "triu") and _is_exponential(positional(node)[0]):
        inner, *diagonal = node.args
        return inner, lambda write: write(node.target, write(aten.ones_like.default, inner), *diagonal)
    found: tuple[Any, Any, bool] | None = None
    if is_a(node, "mul", "multiply"):
        a, b = positional(node)[:2]
        found = (a, b, False) if is_data(a) else (b, a, False)
    elif is_a(node, "masked_fill") and is_zero(positional(node)[2]):
        found = (*positional(node)[:2], True)
    elif is_a(node, "where") and len(node.args) == 3:
        mask, a, b = positional(node)
        found = (a, mask, False) if is_zero(b) else (b, mask, True) if is_zero(a) else None
    if found is None or not _is_exponential(found[0]) or not isinstance(found[1], Node) or info(found[1]).data:
        return None
    exponential, weight, inverted = found
    return exponential, lambda write: write(aten.logical_not.default, weight) if inverted else weight


def _is_exponential(node: Any) -> bool:
    return is_a(node, "exp") or (is_a(node, "softmax") and len(node.args) == 2 and not node.kwargs)


def _average(write: Writer, above: Any, below: Any) -> Node | None:
    """`Σ w · v / Σ w`, where what is summed is divided later."""
    if is_a(above, "matmul", "bmm"):
        terms, values = positional(above)[:2]
        total = total_of(write, below, terms) if _weighted(terms) is not None else None
        if total is None or total.index is not None or total.dims != (rank_of(terms) - 1,):
            return None
        weights = _weights_of(write, terms, total)
        return None if weights is None else write(above.target, weights, values)
    if not is_a(above, "sum") or len(above.args) < 2 or not is_a(positional(above)[0], "mul", "multiply"):
        return None
    product = positional(above)[0]
    for terms, values in (positional(product)[:2], positional(product)[1::-1]):
        weights = _weights_in_sum(write, above, below, terms)
        if weights is not None:
            return write(above.target, write(product.target, weights, values), *above.args[1:])
    return None


def _weights_in_sum(write: Writer, above: Node, below: Any, terms: Any) -> Node | None:
    """The weights of values whose products with the terms are summed, and divided by the sum of the terms."""
    flat = unsqueezed(terms)
    if flat is not None and positional(terms)[1] % rank_of(terms) == rank_of(flat):
        total = _total_of_rows(write, above, below, flat) if _weighted(flat) is not None else None
        weights = None if total is None else _weights_of(write, flat, total)
        return None if weights is None else write(aten.unsqueeze.default, weights, rank_of(flat))
    total = _total_of_average(above, below, terms) if _weighted(terms) is not None else None
    return None if total is None else _weights_of(write, terms, total)


def _total_of_rows(write: Writer, above: Node, below: Any, terms: Node) -> Total | None:
    """The same of terms (..., T) that weigh values (..., T, D)."""
    product, given = positional(above)[0], arguments(above)
    last = rank_of(terms) - 1
    if rank_of(product) != last + 2 or given["dim"] is None or given["keepdim"]:
        return None
    total = total_of(write, below, terms)
    fits = total is not None and total.index is None and total.dims == (last,) == wrapped(product, given["dim"])
    return total if fits and sizes_of(terms)[last] == sizes_of(product)[last] else None


def _total_of_average(above: Node, below: Any, terms: Node) -> Total | None:
    """What a divisor sums, if it is the terms of a weighted sum, over the same dimensions, which stay in both or go."""
    product, dims = positional(above)[0], arguments(above)["dim"]
    if dims is None or rank_of(terms) != rank_of(product):
        return None
    over = tuple(sorted(wrapped(product, dims)))
    if any(sizes_of(terms)[d] != sizes_of(product)[d] for d in over):
        return None

    def total(inner: Any) -> Total | None:
        if summed_over(inner, terms) != over or arguments(inner)["keepdim"] != arguments(above)["keepdim"]:
            return None
        return Total(over)

    return bounded(below, total) or total(below)


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
    return write(aten.softmax.int, *positional(inner)) if is_a(inner, "log_softmax") else None


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
