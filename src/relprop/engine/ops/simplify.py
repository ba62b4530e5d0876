"""What a layer's graph makes of a rule: groups of terms to groups with less in them that mean the same there.

Nothing here sees a tensor: groups and `Facts` are values, and so is what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from relprop.rules import Group, Term
from relprop.rules.modifiers import Combined, Modifier, absolute, keep, negative, ones, positive, square


@dataclass(frozen=True)
class Facts:
    """What is proved about one layer.

    Attributes:
        nonneg: no input is negative.
        positive: no connection has a negative weight.
        biased: something is added to the weighted inputs.
        rectified: no relevance comes where `z <= 0`.
    """

    nonneg: bool = False
    positive: bool = False
    biased: bool = False
    rectified: bool = False


def simplify(groups: Sequence[Group], facts: Facts) -> tuple[Group, ...]:
    """The groups that a layer needs of a rule's: none of outputs that get nothing, no term that is zero or is twice."""
    needed = [without_zeros(g, facts) for g in groups]
    if facts.rectified:
        needed = [replace(g, mask="all") for g in needed if g.mask != "negative"]
    return tuple(needed) if len(needed) > 1 else tuple(map(merged, needed))


def without_zeros(group: Group, facts: Facts) -> Group:
    """Less the terms that are zero: `a⁻` where `a >= 0`, `W⁻` where `W >= 0`. A term whose bias counts stays."""
    left = [t for t in group.terms if not _vanishes(t, facts)]
    bias_only = [t for t in group.terms if t not in left and t.bias is not None and facts.biased]
    if not left or bias_only:
        return group
    if facts.nonneg:
        left = [replace(t, input=keep) if t.input in (positive, absolute) else t for t in left]
    return replace(group, terms=tuple(left))


def merged(group: Group) -> Group:
    """Terms with the same input as one term with the sum of their weights: a pass less, forward and back."""
    by_input: dict[Modifier, list[Term]] = {}
    for term in group.terms:
        by_input.setdefault(term.input, []).append(term)
    return replace(group, terms=tuple(t[0] if len(t) == 1 else _sum_of(t) for t in by_input.values()))


def complement(groups: Sequence[Group], facts: Facts) -> Group | None:
    """Of two groups that split all contributions by their sign, that of the positive ones; None if they are no such.

    Its denominator is `z` less the other's. Where `z > 0`, as it is with `facts.rectified`, both summands are positive,
    so this loses no digits.
    """
    if len(groups) != 2 or not facts.rectified:
        return None
    terms = [t for g in groups for t in g.terms]
    inputs = {t.input for t in terms}
    split = {(t.input, t.weight) for t in terms} == {(i, w) for i in inputs for w in (positive, negative)}
    whole = inputs in ({keep}, {positive, negative}) and len(terms) == 2 * len(inputs)
    biases = [t.bias for t in terms if t.bias is not None]
    whole = whole and len(biases) == 2 and set(biases) == {positive, negative}
    if split and whole and all(t.coefficient == 1 for t in terms):
        return next((g for g in groups if sign_of(g, facts.nonneg) == 1), None)
    return None


def sign_of(group: Group, inputs_nonneg: bool) -> int:
    """1 where a group's denominator cannot be negative, -1 where it cannot be positive, 0 where it may be either."""
    signs = {sign for t in group.terms for sign in _signs(t, inputs_nonneg)}
    return signs.pop() if len(signs) == 1 else 0


def _signs(term: Term, inputs_nonneg: bool) -> set[int]:
    """Of `A_k a_k` and of `b_k`."""
    known: dict[Modifier | None, int] = {positive: 1, ones: 1, square: 1, absolute: 1, negative: -1}
    a = 1 if term.input is keep and inputs_nonneg else known.get(term.input, 0)
    biases = set() if term.bias is None else {known.get(term.bias, 0)}
    coefficient = 1 if term.coefficient > 0 else -1
    return {coefficient * sign for sign in {a * known.get(term.weight, 0), *biases}}


def _vanishes(term: Term, facts: Facts) -> bool:
    return (facts.nonneg and term.input is negative) or (facts.positive and term.weight is negative)


def _sum_of(terms: Sequence[Term]) -> Term:
    """`Σ_k coef_k A_k a + b_k` as one term."""
    weights = tuple((t.coefficient, t.weight) for t in terms)
    biases = tuple((t.coefficient, t.bias) for t in terms if t.bias is not None)
    return Term(terms[0].input, Combined(weights), Combined(biases) if biases else None)
