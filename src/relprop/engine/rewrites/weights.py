"""Exponentials, what they are multiplied with, and the weights that they are once their sum divides them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Node, annotate, info, operator_name
from relprop.engine.rewrites.rewriting import arguments, is_data, positional, rank_of, sizes_of
from relprop.engine.rewrites.sums_of_exponentials import (
    Total,
    alike,
    is_a,
    is_constant_within,
    is_number,
    is_zero,
    wrapped,
)
from relprop.engine.rewrites.written_out import Writer, aten

BASES = {"exp": math.e, "exp2": 2.0, "special_exp2": 2.0}


def is_exponential(node: Any) -> bool:
    """An exponential of any base, or a softmax."""
    power = (
        is_a(node, "pow") and is_number(positional(node)[0]) and positional(node)[0] > 0 and positional(node)[0] != 1
    )
    return power or is_a(node, *BASES) or (is_a(node, "softmax") and len(node.args) == 2 and not node.kwargs)


def exponent(exponential: Node) -> Node:
    """What a base is raised to; a softmax's scores."""
    node: Node = positional(exponential)[1 if is_a(exponential, "pow") else 0]
    return node


def base_of(exponential: Node) -> float:
    """The base of an exponential."""
    return float(positional(exponential)[0]) if is_a(exponential, "pow") else BASES[operator_name(exponential)]


def weighted(node: Any) -> tuple[Node, Any] | None:
    """An exponential, or a softmax, and what writes its weight, no data: a factor, or where a mask keeps it."""
    if is_exponential(node):
        return node, None
    if is_a(node, "tril", "triu") and is_exponential(positional(node)[0]):
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
    if found is None or not is_exponential(found[0]) or not isinstance(found[1], Node) or info(found[1]).data:
        return None
    exponential, weight, inverted = found
    return exponential, lambda write: write(aten.logical_not.default, weight) if inverted else weight


def weights_of(write: Writer, terms: Node, total: Total) -> Node | None:
    """What is weighed by terms that are divided by their total."""
    found = weighted(terms)
    if found is None:
        return None
    exponential, weight = found
    x, shift, added = exponent(exponential), None, total.added
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
        if not is_a(exponential, "exp") or not _rests(added, shift, total, rank_of(x)):
            return None
        total = replace(total, added=write(f.hold, added))
    kept = None if weight is None else weight(write)
    log = 1.0 if is_a(exponential, "softmax") else math.log(base_of(exponential))
    held = None if shift is None else write(f.hold, _times(write, shift, log))
    return weights_from(write, _times(write, x, log), held, kept, total)


def _times(write: Writer, x: Node, factor: float) -> Node:
    return x if factor == 1 else write(aten.mul.Tensor, x, factor)


def _rests(added: Node, shift: Node | None, total: Total, rank: int) -> bool:
    """Whether an exponential of no data is added to a sum, shifted as its terms are."""
    if total.index is not None or not is_constant_within(added, total, rank):
        return False
    if shift is None:
        return not is_data(added)
    given = positional(added)[0]
    if is_a(given, "neg"):
        return alike(positional(given)[0], shift)
    if is_a(given, "rsub"):
        return alike(positional(given)[0], shift) and is_number(positional(given)[1])
    rested, taken_off = positional(given)[:2] if is_a(given, "sub", "subtract") else (given, None)
    return not given.kwargs and alike(taken_off, shift) and not is_data(rested)


def weights_from(write: Writer, x: Node, held: Node | None, kept: Node | None, total: Total) -> Node:
    """The weights as one operator, a layer of its own beside a product with values."""
    weights = write(
        f.weights_of_exponentials, x, held, kept, total.dims, total.index, total.zeros, total.added, total.least
    )
    annotate(weights, operator="softmax", origin=weights.name)
    return weights
