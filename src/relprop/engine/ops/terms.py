"""The terms of an affine rule on one layer: what they add up to, and their adjoints."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value, info, operator_name
from relprop.engine.ops.linear_maps import AffineMap
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.simplify import Facts, complement, simplify
from relprop.engine.ops.tape import Tape
from relprop.engine.ops.work import Sum, Work
from relprop.rules import AffineRule, Group, Term
from relprop.rules.modifiers import Constant, Modifier, keep, ones

PartKey = tuple[Modifier, Modifier, Modifier | None]
PLAIN: PartKey = (keep, keep, keep)


class Terms:
    """The groups of a rule on a layer, less what is zero or known there.

    Attributes:
        value: the node whose value stands for the layer's `z` wherever relevance is: its own, or that of a ReLU which
            alone sends it relevance, none of it where `z <= 0`.
        nonneg: inputs are nowhere negative.
        groups: what is left to be evaluated.
        complement: the group whose denominator is `z` less the other's.
    """

    def __init__(self, affine: AffineMap, rule: AffineRule, rectified: Node | None = None) -> None:
        self.map, self.rule = affine, rule
        self.value = rectified or affine.node
        self.nonneg = all(info(x).nonneg for x in affine.xs)
        facts = Facts(self.nonneg, not affine.weighted, affine.biased, rectified is not None)
        self.groups = simplify(rule.groups(), facts)
        self.complement = complement(self.groups, facts) if self._value_serves else None
        self._keys = [_part_key(t) for t in self.all]

    @property
    def all(self) -> list[Term]:
        """Of all groups, in order."""
        return [t for g in self.groups for t in g.terms]

    @property
    def reads(self) -> set[Node]:
        """Nodes whose values are read."""
        wanted = self.knows_plain or self.complement is not None or any(g.mask != "all" for g in self.groups)
        return {*self.map.xs, *({self.value} if wanted else ())}

    @property
    def knows_plain(self) -> bool:
        """`W a + b` is a term, and the forward pass has computed it at the precision of relevance."""
        return PLAIN in self._keys and self._value_serves

    @property
    def _value_serves(self) -> bool:
        """The forward pass has computed what the rule takes for the layer's output, at the precision of relevance."""
        left_out = self.rule.bias == "ignore" and self.map.biased
        return not left_out and fake_value(self.map.node).dtype in (torch.float32, torch.float64)

    def evaluate(self, group: Group, work: Work) -> Sum:
        """`Σ_k A_k a_k + b_k`."""
        made = work.fetch(group)
        if made is not None:
            return made
        if group is self.complement:
            (other,) = (g for g in self.groups if g is not group)
            return self._rest(work.lay_by(other, self.evaluate(other, work)), work.tape)
        for term in group.terms:
            made = work.add(made, self._part(term, work) * term.coefficient)
        assert made is not None, "a rule has an empty group"
        return made

    def pull(self, term: Term, s: Tensor, tape: Tape) -> list[Tensor]:
        """`A_kᵀ s` for each input."""
        alike = self.map.pull_ones(tape, s) if term.weight is ones else None
        return self.map.pull(tape, self.weight(term, tape), s) if alike is None else alike

    def input(self, x: Node, modifier: Modifier, work: Work) -> Tensor:
        """`f(x)`, of one sample where it is the same for all."""
        return work.input(x, modifier, lambda a: a[:1] if self._same_for_all(modifier, a) else a)

    def own_value(self, tape: Tape) -> Tensor:
        """The layer's `z`, as far as relevance is there."""
        return self.map.outputs(tape.value(self.value))

    def weight(self, term: Term, tape: Tape) -> Tensor | None:
        """`f(W)`, made once; None for the weight as it is."""
        modifier = term.weight
        if modifier is keep:
            return None
        if self.map.w is not None and not info(self.map.w).static:
            return modifier(self.map.weight(tape))
        key = (self.map.weight_name, modifier, tape.dtype)
        found = tape.modified.get(key)  # read once: another thread may forget all of them
        if found is None:
            found = tape.modified[key] = modifier(self.map.weight(tape))
        return found

    def _rest(self, other: Sum, tape: Tape) -> Sum:
        """What of `z` and of the bias the other group leaves."""
        whole = self.map.bias(tape)
        rest = None if whole is None or other.bias is None else self.map.spread_bias(whole, other.z) - other.bias
        return Sum(self.own_value(tape) - other.z, rest, fresh=True)

    def _part(self, term: Term, work: Work) -> Sum:
        """`A_k a_k + b_k`, computed once where terms repeat it, or known from the forward pass."""
        key = _part_key(term)
        repeats = self._keys.count(key) > 1
        return work.repeated(key, lambda: self._make(term, work)) if repeats else self._make(term, work)

    def _make(self, term: Term, work: Work) -> Sum:
        tape = work.tape
        b = self._bias(term.bias, tape)
        known = self.knows_plain and _part_key(term) == PLAIN
        if known:
            z = self.own_value(tape)
        else:
            inputs = [self.input(x, term.input, work) for x in self.map.xs]
            z = self.map.apply(tape, inputs, self.weight(term, tape), b)
        fresh = not known and op_of(self.map.node).fresh
        return Sum(z, None if b is None else self.map.spread_bias(b, z), fresh)

    def _bias(self, modifier: Modifier | None, tape: Tape) -> Tensor | None:
        if modifier is None or self.rule.bias == "ignore":
            return None
        b = self.map.bias(tape)
        return b if b is None or modifier is keep else modifier(b)

    def _same_for_all(self, modifier: Modifier, x: Tensor) -> bool:
        """A modified input does not depend on the sample, in an operator that lets one sample stand for all."""
        spatial = op_of(self.map.node).convolves
        same = modifier is ones or (isinstance(modifier, Constant) and modifier.same_for_all(x.dim()))
        batched = operator_name(self.map.node) == "linear" or (spatial > 0 and x.dim() == spatial + 2)
        return same and batched and x.dim() > 1


def _part_key(term: Term) -> PartKey:
    return term.input, term.weight, term.bias
