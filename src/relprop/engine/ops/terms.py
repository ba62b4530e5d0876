"""The terms of an affine rule on one layer.

What of them the graph makes superfluous, what they add up to, and their adjoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value, info, operator_name
from relprop.engine.ops.linear_maps import AffineMap, SumMap
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.tape import Tape
from relprop.rules import AffineRule, Group, Term
from relprop.rules.modifiers import Combined, Constant, Modifier, absolute, keep, negative, ones, positive, square

PartKey = tuple[Modifier, Modifier, Modifier | None]
Sum = tuple[Tensor, Tensor | None]
"""`Σ_k A_k a_k + b_k`, and the bias in it."""


@dataclass
class Work:
    """What one pull through a layer makes, for those who want it again.

    Attributes:
        inputs: modified inputs.
        parts: what a term's input, weight and bias make.
        sums: denominators of groups, before they are stabilized.
    """

    tape: Tape
    inputs: dict[tuple[Node, Modifier], Tensor] = field(default_factory=dict)
    parts: dict[PartKey, Sum] = field(default_factory=dict)
    sums: dict[Group, Sum] = field(default_factory=dict)


class Terms:
    """The groups of a rule on a layer, less what is zero or known there.

    Attributes:
        value: the node whose value stands for the layer's `z` wherever relevance is: its own, or that of a ReLU which
            alone sends it relevance, none of it where `z <= 0`.
        nonneg: inputs are nowhere negative.
        groups: what is left to be evaluated.
        complement: a group that holds all contributions which the other group does not, so that its denominator is
            `z` less the other's. Where `z > 0` both summands are positive, so this loses no digits.
    """

    def __init__(self, affine: AffineMap, rule: AffineRule, rectified: Node | None = None) -> None:
        self.map, self.rule = affine, rule
        self.value = rectified or affine.node
        self.nonneg = all(info(x).nonneg for x in affine.xs)
        groups = [self._simplify(g) for g in rule.groups()]
        if rectified is not None:
            groups = [replace(g, mask="all") for g in groups if g.mask != "negative"]
        self.groups = tuple(groups) if len(groups) > 1 else tuple(map(self._merged, groups))
        self.complement = self._complement() if rectified is not None else None
        self._keys = [_part_key(t) for g in self.groups for t in g.terms]

    @property
    def reads(self) -> set[Node]:
        """Nodes whose values are read."""
        wanted = self.knows_plain or self.complement is not None or any(g.mask != "all" for g in self.groups)
        return {*self.map.xs, *({self.value} if wanted else ())}

    @property
    def knows_plain(self) -> bool:
        """`W a + b` is a term, and the forward pass has computed it at the precision of relevance."""
        return (keep, keep, keep) in self._keys and self._value_serves

    @property
    def _value_serves(self) -> bool:
        """The forward pass has computed what the rule takes for the layer's output, at the precision of relevance."""
        left_out = self.rule.bias == "ignore" and (self.map.b is not None or isinstance(self.map, SumMap))
        return not left_out and fake_value(self.map.node).dtype in (torch.float32, torch.float64)

    # Evaluation.

    def denominator(self, group: Group, work: Work) -> Sum:
        """`Σ_k A_k a_k + b_k`, and the bias in it."""
        if group in work.sums:
            return work.sums.pop(group)
        if group is self.complement:
            (other,) = (g for g in self.groups if g is not group)
            z, bias = work.sums[other] = self.denominator(other, work)
            whole = self.map.bias(work.tape)
            rest = None if whole is None or bias is None else self.map.spread_bias(whole, z) - bias
            return self.map.outputs(work.tape.value(self.value)) - z, rest
        total: Tensor | None = None
        bias = None
        own = False
        for term in group.terms:
            part, b = self._part(term, work)
            if term.coefficient != 1:
                part, b = part * term.coefficient, None if b is None else b * term.coefficient
            grows = total is not None and own and work.tape.may_overwrite  # large allocations cost time
            total = part if total is None else total.add_(part) if grows else total + part
            own = own or (op_of(self.map.node).fresh and not self._is_shared(term))
            if b is not None:
                bias = b if bias is None else bias + b
        assert total is not None
        return total, bias

    def makes_fresh(self, group: Group) -> bool:
        """The denominator is memory that nobody else reads."""
        first = group.terms[0]
        return group is self.complement or len(group.terms) > 1 or first.coefficient != 1 or not self._is_shared(first)

    def pull(self, term: Term, s: Tensor, tape: Tape) -> list[Tensor]:
        """`A_kᵀ s` for each input."""
        alike = self.map.pull_ones(tape, s) if term.weight is ones else None
        return self.map.pull(tape, self._weight(term.weight, tape), s) if alike is None else alike

    def modified(self, x: Node, modifier: Modifier, work: Work) -> Tensor:
        """A modified input, made once."""
        if modifier is keep:
            return work.tape.value(x)
        if (x, modifier) not in work.inputs:
            work.inputs[x, modifier] = modifier(self._fewest(modifier, work.tape.value(x)))
        return work.inputs[x, modifier]

    def _part(self, term: Term, work: Work) -> Sum:
        """`A_k a_k + b_k` without its coefficient, and `b_k`: computed once, or known from the forward pass."""
        key = _part_key(term)
        if key in work.parts:
            return work.parts[key]
        b = self._bias(term.bias, work.tape)
        if self._known(term):
            part = self.map.outputs(work.tape.value(self.value))
        else:
            inputs = [self.modified(x, term.input, work) for x in self.map.xs]
            part = self.map.apply(work.tape, inputs, self._weight(term.weight, work.tape), b)
        made = part, None if b is None else self.map.spread_bias(b, part)
        if self._repeats(term):
            work.parts[key] = made
        return made

    def _known(self, term: Term) -> bool:
        """The forward pass has computed it."""
        return self.knows_plain and _part_key(term) == (keep, keep, keep)

    def _repeats(self, term: Term) -> bool:
        """Another term makes the same of input, weight and bias."""
        return self._keys.count(_part_key(term)) > 1

    def _is_shared(self, term: Term) -> bool:
        return self._known(term) or self._repeats(term)

    def _weight(self, modifier: Modifier, tape: Tape) -> Tensor | None:
        """The modified weight, made once; None for the weight as it is."""
        if modifier is keep:
            return None
        if self.map.w is not None and not info(self.map.w).static:
            return modifier(self.map.weight(tape))
        key = (self.map.weight_name, modifier, tape.dtype)
        if key not in tape.modified:
            tape.modified[key] = modifier(self.map.weight(tape))
        return tape.modified[key]

    def _bias(self, modifier: Modifier | None, tape: Tape) -> Tensor | None:
        if modifier is None or self.rule.bias == "ignore":
            return None
        b = self.map.bias(tape)
        return b if b is None or modifier is keep else modifier(b)

    def _fewest(self, modifier: Modifier, x: Tensor) -> Tensor:
        """The samples that a modified input has to be computed for: one where it is the same for all of them."""
        spatial = op_of(self.map.node).convolves
        same = modifier is ones or (isinstance(modifier, Constant) and modifier.same_for_all(x.dim()))
        batched = operator_name(self.map.node) == "linear" or (spatial > 0 and x.dim() == spatial + 2)
        return x[:1] if same and batched and x.dim() > 1 else x

    # What the graph and the operator make superfluous.

    def _simplify(self, group: Group) -> Group:
        """Drop terms that are zero on this layer: `a⁻` where `a >= 0`, `W⁻` where the weights are positive."""
        terms = [t for t in group.terms if not self._vanishes(t)]
        bias_only = [t for t in group.terms if t not in terms and t.bias is not None and self.map.b is not None]
        if not terms or bias_only:
            return group
        if self.nonneg:
            terms = [replace(t, input=keep) if t.input in (positive, absolute) else t for t in terms]
        return replace(group, terms=tuple(terms))

    def _vanishes(self, term: Term) -> bool:
        weightless = self.map.w is None and not isinstance(self.map, SumMap)
        return (self.nonneg and term.input is negative) or (weightless and term.weight is negative)

    def _merged(self, group: Group) -> Group:
        """Terms with the same input as one term with the sum of their weights: a pass less, forward and back."""
        by_input: dict[Modifier, list[Term]] = {}
        for term in group.terms:
            by_input.setdefault(term.input, []).append(term)
        return replace(group, terms=tuple(t[0] if len(t) == 1 else _sum_of(t) for t in by_input.values()))

    def _complement(self) -> Group | None:
        """Of two groups that split all contributions by their sign: that of the positive ones."""
        if len(self.groups) != 2 or not self._value_serves:
            return None
        terms = [t for g in self.groups for t in g.terms]
        inputs = {t.input for t in terms}
        split = {(t.input, t.weight) for t in terms} == {(i, w) for i in inputs for w in (positive, negative)}
        biases = [t.bias for t in terms if t.bias is not None]
        whole = inputs in ({keep}, {positive, negative}) and len(terms) == 2 * len(inputs)
        whole = whole and len(biases) == 2 and set(biases) == {positive, negative}
        if split and whole and all(t.coefficient == 1 for t in terms):
            return next((g for g in self.groups if sign_of(g, self.nonneg) == 1), None)
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


def _part_key(term: Term) -> PartKey:
    return term.input, term.weight, term.bias


def _sum_of(terms: Sequence[Term]) -> Term:
    """`Σ_k coef_k A_k a + b_k` as one term."""
    weights = tuple((t.coefficient, t.weight) for t in terms)
    biases = tuple((t.coefficient, t.bias) for t in terms if t.bias is not None)
    return Term(terms[0].input, Combined(weights), Combined(biases) if biases else None)
