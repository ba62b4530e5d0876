"""What an average by exponentials is made of: what is above its divisor and what is in it, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from relprop.engine.graph.graph import Node, fake_value
from relprop.engine.rewrites.exponents import Exponent, exponent_of
from relprop.engine.rewrites.placed import AXIS, Placed
from relprop.engine.rewrites.rewriting import arguments, called, positional, rank_of
from relprop.engine.rewrites.sums_of_exponentials import is_a, is_number, is_zero, wrapped
from relprop.engine.rewrites.weights import weighted
from relprop.engine.rewrites.written_out import Writer, aten

MOST = 64
"""Blocks of one average: each brings some operators, and a state of T steps has T averages of up to T blocks."""


_SUM = aten.sum.dim_IntList


class TooManyBlocks(Exception):
    """An average that has more than `MOST`."""


Weigh = Callable[[Writer, Node, Node], Node]
"""(writer, weights, values) -> the weighted values, summed or not."""


@dataclass(frozen=True)
class Block:
    """Terms that the divisor sums.

    Args:
        terms: the exponentials, as they are multiplied with values.
        exponent: theirs, with that of all that they are multiplied with later.
        weight: no data that each of them is multiplied with.
        weighed: the values that they weigh, and how; None of terms that weigh nothing.
    """

    terms: Placed
    exponent: Exponent
    weight: Placed | None
    weighed: tuple[Placed | None, Weigh] | None


def bounded(divisor: Placed) -> tuple[Placed, float, float | None]:
    """A sum that something small was added to, or that is kept from being 0: without it, and how much it was."""
    added, least = 0.0, None
    while True:
        core = divisor.core
        node = core.node
        if is_a(node, "clamp", "clamp_min") and least is None and not added and arguments(node).get("max") is None:
            least = arguments(node)["min"]
            if not is_number(least):
                return divisor, 0.0, None
            divisor = core.operand(positional(node)[0])
        elif is_a(node, "add") and not node.kwargs and any(is_number(a) for a in positional(node)[:2]):
            number, inner = sorted(positional(node)[:2], key=lambda a: isinstance(a, Node))
            added += number
            divisor = core.operand(inner)
        else:
            return core, added, least


def blocks_of(write: Writer, above: Placed, below: Placed, factor: Exponent, most: int) -> list[Block] | None:
    """The blocks of `above / below`, each times `exp(factor)`; None where above is no average of them."""
    above, below = above.core, below.core
    if _vanishes(above.node) and _vanishes(below.node):
        return []
    block = _block(write, above, below, factor)
    if block is not None:
        return [block]
    if is_a(below.node, "add") and not below.node.kwargs:
        if not most:
            raise TooManyBlocks
        return _of_sums(write, above, below, factor, most - 1)
    for common, divisor in factors(below):
        exponent = _exponent(write, common)
        if exponent is None:
            continue
        for other, numerator in factors(above):
            if other.equals(common):
                return blocks_of(write, numerator, divisor, factor + exponent, most)
    return None


def _vanishes(value: Any) -> bool:
    """Zeros, or what they are multiplied with: the past of a first step."""
    return is_zero(value) or (is_a(value, "mul", "multiply") and any(is_zero(a) for a in positional(value)[:2]))


def _of_sums(write: Writer, above: Placed, below: Placed, factor: Exponent, most: int) -> list[Block] | None:
    """Sums of two averages, or of one and of terms that weigh nothing."""
    parts = [below.operand(a) for a in positional(below.node)[:2] if isinstance(a, Node)]
    if len(parts) < 2:
        return None
    for first, second in (parts, parts[::-1]):
        if is_a(above.node, "add") and not above.node.kwargs:
            a, b = (above.operand(a) for a in positional(above.node)[:2])
            found = blocks_of(write, a, first, factor, most)
            others = None if found is None else blocks_of(write, b, second, factor, most)
            if found is not None and others is not None:
                return found + others
        rest = _rest(write, second, factor)
        found = None if rest is None else blocks_of(write, above, first, factor, most)
        if rest is not None and found is not None:
            return found + rest
    return None


def factors(product: Placed) -> Iterator[tuple[Placed, Placed]]:
    """The factors of a product, in both orders."""
    if is_a(product.node, "mul", "multiply") and all(isinstance(a, Node) for a in positional(product.node)[:2]):
        a, b = (product.operand(a) for a in positional(product.node)[:2])
        yield from ((a, b), (b, a))


def _exponent(write: Writer, value: Placed) -> Exponent | None:
    """The exponent of an exponential that nothing is multiplied with."""
    core = value.core
    found = weighted(core.node)
    return exponent_of(write, core) if found is not None and found[1] is None else None


def _rest(write: Writer, below: Placed, factor: Exponent) -> list[Block] | None:
    """Terms of a divisor that weigh nothing."""
    below = below.core
    if _vanishes(below.node):
        return []
    terms = _terms_of(below)
    if terms is not None:
        block = block_of(write, terms, factor + _of_mean(below.node), None)
        return None if block is None else [block]
    if is_a(below.node, "add") and not below.node.kwargs:
        parts = [_rest(write, below.operand(a), factor) for a in positional(below.node)[:2] if isinstance(a, Node)]
        found = [part for part in parts if part is not None]
        return found[0] + found[1] if len(found) == 2 else None
    for common, divisor in factors(below):
        exponent = _exponent(write, common)
        if exponent is not None:
            return _rest(write, divisor, factor + exponent)
    return None


def _terms_of(divisor: Placed) -> Placed | None:
    """The exponentials that a divisor sums, over one dimension at most."""
    node = divisor.node
    if weighted(node) is not None:
        return divisor
    if is_a(node, "matmul", "bmm") and is_a(positional(node)[1], "ones", "ones_like", "new_ones"):
        terms, ones = positional(node)[:2]
        sums = rank_of(terms) == rank_of(node) and rank_of(ones) > 1 and weighted(terms) is not None
        return Placed(terms, (*divisor.where[:-1], AXIS)) if sums else None
    if not is_a(node, "sum", "mean") or len(node.args) < 2 or arguments(node).get("dtype") is not None:
        return None
    given, terms = arguments(node), positional(node)[0]
    dims = wrapped(terms, given["dim"] or range(rank_of(terms)))
    if len(dims) != 1 or weighted(terms) is None:
        return None
    (d,) = dims
    if is_a(node, "mean") and not isinstance(fake_value(terms).shape[d], int):
        return None
    behind = d + 1 if given["keepdim"] else d
    return Placed(terms, (*divisor.where[:d], AXIS, *divisor.where[behind:]))


def _block(write: Writer, above: Placed, below: Placed, factor: Exponent) -> Block | None:
    """The terms of a divisor, and what is above it as values that they weigh."""
    terms = _terms_of(below)
    if terms is None or is_a(above.node, "mean") != is_a(below.node, "mean"):
        return None
    for candidate, values, weigh in _weighed(above):
        if candidate.equals(terms):
            return block_of(write, candidate, factor + _of_mean(below.node), (values, weigh))
    return None


def _of_mean(divisor: Node) -> Exponent:
    """What a mean is of a sum, as an exponent."""
    if not is_a(divisor, "mean"):
        return Exponent()
    terms, dims = positional(divisor)[0], wrapped(positional(divisor)[0], arguments(divisor)["dim"])
    return Exponent(number=-math.log(fake_value(terms).shape[dims[0]]))


def block_of(
    write: Writer, terms: Placed, factor: Exponent, weighed: tuple[Placed | None, Weigh] | None
) -> Block | None:
    """Terms as a block; None where they are no exponentials."""
    core = terms.core
    found = weighted(core.node)
    if found is None:
        return None
    exponential, weight = found
    kept = None if weight is None else core.operand(weight(write))
    return Block(terms, factor + exponent_of(write, core.operand(exponential)), kept, weighed)


def _weighed(above: Placed) -> Iterator[tuple[Placed, Placed | None, Weigh]]:
    """What may be the terms of a weighted sum, the values that they weigh, and how."""
    node = above.node
    if weighted(node) is not None:
        yield above, None, alone
    elif is_a(node, "matmul", "bmm"):
        terms, values = positional(node)[:2]
        if rank_of(terms) == rank_of(node) and rank_of(values) > 1:
            batch = above.where[len(above.where) - rank_of(values) : -2]
            weighed = Placed(values, (*batch, AXIS, above.where[-1]))
            yield Placed(terms, (*above.where[:-1], AXIS)), weighed, lambda write, w, v: write(called(node), w, v)
    elif is_a(node, "einsum") and len(positional(node)[1]) == 2:
        yield from _weighed_by_letters(above)
    elif is_a(node, "mul", "multiply"):
        for terms, values in factors(above):
            yield terms, values, times
    elif is_a(node, "sum", "mean") and len(node.args) > 1:
        product, given = positional(node)[0], arguments(node)
        dims = wrapped(product, given["dim"] or range(rank_of(product)))
        if len(dims) == 1 and given.get("dtype") is None:
            (d,) = dims
            where = (*above.where[:d], AXIS, *above.where[d + 1 if given["keepdim"] else d :])
            for terms, values in factors(Placed(product, where)):
                yield terms, values, lambda write, w, v: write(_SUM, times(write, w, v), *node.args[1:])


def alone(write: Writer, weights: Node, values: Node) -> Node:
    """Weights that weigh nothing but themselves."""
    return weights


def times(write: Writer, weights: Node, values: Node) -> Node:
    """The product, entry by entry."""
    return write(aten.mul.Tensor, weights, values)


def _weighed_by_letters(above: Placed) -> Iterator[tuple[Placed, Placed, Weigh]]:
    node = above.node
    equation, operands = positional(node)[:2]
    read, _, result = str(equation).replace(" ", "").partition("->")
    letters = read.split(",")
    summed = {letter for own in letters for letter in own} - set(result)
    plain = (read.replace(",", "") + result).isalpha() and all(len(set(own)) == len(own) for own in (*letters, result))
    if not plain or len(summed) != 1 or not all(summed < set(own) for own in letters):
        return
    places = [tuple(AXIS if x in summed else above.where[result.index(x)] for x in own) for own in letters]
    for i in (0, 1):

        def weigh(write: Writer, weights: Node, values: Node, i: int = i) -> Node:
            return write(called(node), equation, [values, weights] if i else [weights, values])

        yield Placed(operands[i], places[i]), Placed(operands[1 - i], places[1 - i]), weigh
