"""Exponents as sums of values with coefficients, as far as it takes to see what cancels.

`exp(m − m') exp(s − m)` is `exp(s − m')`: what was taken off to keep exponentials small comes back with the next block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from relprop.engine.graph.graph import Node, info
from relprop.engine.rewrites.placed import AXIS, Placed
from relprop.engine.rewrites.rewriting import arguments, positional
from relprop.engine.rewrites.sums_of_exponentials import is_a, is_number, wrapped
from relprop.engine.rewrites.weights import base_of, exponent
from relprop.engine.rewrites.written_out import Writer, aten

Term = tuple[float, Placed]


@dataclass(frozen=True)
class Exponent:
    """`number + Σ coefficient · value`."""

    terms: tuple[Term, ...] = ()
    number: float = 0.0

    @property
    def has_data(self) -> bool:
        """Whether relevance may flow to it."""
        return any(info(value.node).data for _, value in self.terms)

    def __add__(self, other: Exponent) -> Exponent:
        """The sum, without what cancels; sums among its terms are taken apart where that makes something cancel."""
        terms, waiting = list[Term](), [*self.terms, *other.terms]
        while waiting:
            coefficient, value = waiting.pop(0)
            apart = _summands(coefficient, value)
            if len(apart) > 1 and any(_cancels(part, t) for part in apart for t in (*terms, *waiting)):
                waiting = [*apart, *waiting]
                continue
            equal = next((i for i, t in enumerate(terms) if t[1].equals(value)), None)
            total = coefficient if equal is None else coefficient + terms.pop(equal)[0]
            if abs(total) > 1e-9 * abs(coefficient):
                terms.append((total, value))
        return Exponent(tuple(terms), self.number + other.number)

    def without(self, common: Sequence[Term]) -> Exponent:
        """What is left when some of its terms cancel."""
        return Exponent(tuple(t for t in self.terms if not any(_same(t, c) for c in common)), self.number)

    def written(self, write: Writer, layout: Sequence[int]) -> Node | None:
        """The exponent as a value with these dimensions; None where it has others, or no terms."""
        total = None
        for coefficient, value in self.terms:
            laid = value.laid_out(write, layout)
            if laid is None:
                return None
            scaled = laid if coefficient == 1 else write(aten.mul.Tensor, laid, coefficient)
            total = scaled if total is None else write(aten.add.Tensor, total, scaled)
        return total if total is None or not self.number else write(aten.add.Tensor, total, self.number)


def exponent_of(write: Writer, exponential: Placed) -> Exponent:
    """The exponent of a value that `is_exponential`."""
    node = exponential.node
    x = exponent(node)
    if is_a(node, "softmax"):
        total = write(aten.logsumexp.default, x, list(wrapped(x, positional(node)[1:2])), True)
        return _split(1.0, exponential.operand(x)) + _split(-1.0, exponential.operand(total))
    return _split(math.log(base_of(node)), exponential.operand(x))


def in_common(exponents: Sequence[Exponent]) -> list[Term]:
    """What all have, the same for all that is summed, so that it cancels in a quotient."""
    first, *others = exponents
    return [
        term
        for term in first.terms
        if AXIS not in term[1].core.spread and all(any(_same(term, t) for t in o.terms) for o in others)
    ]


def _split(coefficient: float, value: Placed) -> Exponent:
    """Differences and multiples taken apart."""
    core = value.core
    node = core.node
    if is_a(node, "sub", "subtract") and arguments(node).get("alpha", 1) == 1:
        a, b = positional(node)[:2]
        return _side(coefficient, core, a) + _side(-coefficient, core, b)
    if is_a(node, "rsub") and arguments(node).get("alpha", 1) == 1:
        a, b = positional(node)[:2]
        return _side(-coefficient, core, a) + _side(coefficient, core, b)
    if is_a(node, "neg"):
        return _side(-coefficient, core, positional(node)[0])
    if is_a(node, "mul", "multiply"):
        for x, factor in (positional(node)[:2], positional(node)[1::-1]):
            if isinstance(x, Node) and is_number(factor):
                return _side(coefficient * factor, core, x)
    divided = is_a(node, "div", "divide", "true_divide") and not node.kwargs and is_number(positional(node)[1])
    if divided and positional(node)[1] != 0:
        return _side(coefficient / positional(node)[1], core, positional(node)[0])
    return Exponent(((coefficient, core),))


def _side(coefficient: float, whole: Placed, operand: object) -> Exponent:
    if isinstance(operand, Node):
        return _split(coefficient, whole.operand(operand))
    assert is_number(operand)
    return Exponent(number=coefficient * float(operand))  # type: ignore[arg-type]


def _summands(coefficient: float, value: Placed) -> list[Term]:
    """What a sum is made of, sums within it taken apart too."""
    node = value.node
    if not is_a(node, "add") or node.kwargs or not all(isinstance(a, Node) for a in positional(node)[:2]):
        return [(coefficient, value)]
    found = list[Term]()
    for operand in positional(node)[:2]:
        split = _split(coefficient, value.operand(operand))
        if split.number:
            return [(coefficient, value)]
        for each in split.terms:
            found += _summands(*each)
    return found


def _same(a: Term, b: Term) -> bool:
    return math.isclose(a[0], b[0]) and a[1].equals(b[1])


def _cancels(a: Term, b: Term) -> bool:
    return math.isclose(a[0], -b[0]) and a[1].equals(b[1])
