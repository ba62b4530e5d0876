"""Affine layers and sums: one step evaluates every affine rule on every affine operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from relprop.errors import RuleError
from relprop.graph import Node, constant_name, fake_value, info, operator_name
from relprop.ops.linear_maps import Affine, AffineMap, SumMap
from relprop.ops.registry import FRESH, lookup
from relprop.ops.step import Plan, Preference, Step, cannot_serve
from relprop.rules import AffineRule, Group, Rule, Term, stabilize
from relprop.rules.modifiers import Boost, Constant, Modifier, absolute, keep, negative, ones, positive, square
from relprop.tape import C, Forms, Message, R, Tape, masked_product

BATCHED_DIMS = {f"conv{kind}{d}d": d + 2 for kind in ("", "_transpose") for d in (1, 2, 3)}
"""Dimensions of a convolution's input that has a batch."""


Parts = dict[tuple[Modifier, Modifier, Modifier | None], tuple[Tensor, Tensor | None]]
"""What a term's input, weight and bias make, and the bias in it."""


@dataclass(frozen=True)
class Share:
    """`s = coef · mask · R_out / stab(z)` of one group, with what the books need."""

    s: Tensor
    z: Tensor
    denominator: Tensor
    bias: Tensor | None


class AffineStep(Step):
    """`R_in = Σ_g coef_g Σ_k a_k · A_kᵀ (mask_g · R_out / stab(Σ_k A_k a_k + b_k))`."""

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        assert isinstance(rule, AffineRule)
        self.affine_rule = rule
        self.map = affine_map(node)
        self.direct = is_direct(self.map, rule)
        self.nonneg = all(info(x).nonneg for x in self.map.xs)
        self.groups = tuple(self._simplify(g) for g in rule.groups())
        self.emits = self._emitted()
        parameters = {p for p in (self.map.w, self.map.b) if p is not None and not info(p).static}
        self.read(*parameters)
        if self.direct:
            self.multiplies_out = rule.stabilizes_itself or callable(rule.stabilizer)
            self.read(*((node,) if self.multiplies_out or "R" in self.forms else ()))
            return
        self.read(*self.map.xs)
        if "c" in self.forms or self.knows_plain or any(g.mask != "all" for g in self.groups):
            self.read(node)

    @cached_property
    def knows_plain(self) -> bool:
        """`W a + b` is a term, and the forward pass has computed it at the precision of relevance."""
        plain = any(_part_key(t) == (keep, keep, keep) for g in self.groups for t in g.terms)
        left_out = self.affine_rule.bias == "ignore" and (self.map.b is not None or isinstance(self.map, SumMap))
        return plain and not left_out and fake_value(self.node).dtype in (torch.float32, torch.float64)

    def _emitted(self) -> Forms:
        modifiers = [t.input for g in self.groups for t in g.terms]
        spreads = self.affine_rule.bias == "distribute"
        stays = [m is keep or m in SIDES for m in modifiers]
        factored = C if any(stays) else frozenset()
        return factored | R if spreads or not all(stays) else factored

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        assert isinstance(rule, AffineRule)
        return "c" if is_direct(affine_map(node), rule) else "R"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, AffineRule):
            raise cannot_serve(
                node,
                rule,
                "it is an affine layer, which takes a rule for affine layers such as EpsilonRule().",
            )
        affine = affine_map(node)
        modified = {m for g in rule.groups() for t in g.terms for m in (t.weight,)} - {keep}
        if affine.kind == "mixed" and modified:
            raise cannot_serve(
                node, rule, "it has no weight tensor that the rule could modify; use ZeroRule or EpsilonRule."
            )
        changes = {m for m in modified if m not in (positive, negative, absolute) and not isinstance(m, Boost)}
        if affine.kind == "positive" and changes:
            raise cannot_serve(
                node, rule, "its connections weigh differently, but are no tensor that the rule could modify."
            )

    def run(self, tape: Tape) -> Tensor:
        z: Tensor = tape.evaluate(self.node, {x: self.map.laid_out(tape.values[x]) for x in self.map.xs})
        return z

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        if self.direct:
            s = self._direct_share(message, tape)
            return [(x, Message(c)) for x, c in zip(self.map.xs, self.map.pull(tape, None, s), strict=True)]
        return self._general(tape.total(self.node, message), tape)

    # The 0-rule and ε-rule on the layer as it is: s = R / stab(z), with z the value that the forward pass computed.

    def _direct_share(self, message: Message, tape: Tape) -> Tensor:
        if not self.multiplies_out and message.R is None:
            assert message.c is not None
            self._book_bias(message.c, tape)
            return message.c
        z = tape.value(self.node)
        relevance = tape.total(self.node, message) if self.multiplies_out else message.R
        assert relevance is not None
        denominator = self.affine_rule.modify_denominator(z)
        s = relevance / denominator
        tape.sink(self.node, "epsilon", lambda: masked_product(denominator - z, s))
        if not self.multiplies_out and message.c is not None:
            s = s + message.c
        self._book_bias(s, tape)
        return s

    def _book_bias(self, s: Tensor, tape: Tape) -> None:
        if tape.sinks is None:
            return
        if isinstance(self.map, SumMap):
            for constant, amount in self.map.constant_values(tape):
                name = constant_name(constant) if isinstance(constant, Node) else "constant"
                tape.sink(self.node, name, partial(masked_product, amount, s))
            return
        b = self.map.bias(tape)
        if b is not None:
            tape.sink(self.node, "bias", lambda: self.map.spread_bias(b, s) * s)

    @property
    def _bias_name(self) -> str:
        return "constant" if isinstance(self.map, SumMap) else "bias"

    # Every other rule: the terms of its groups.

    def _general(self, relevance: Tensor, tape: Tape) -> Iterator[tuple[Node, Message]]:
        xs = [tape.value(x) for x in self.map.xs]
        self._book_masked(relevance, tape)
        parts: Parts = {}
        waiting: dict[tuple[Modifier, Modifier], Tensor] = {}
        by_sign: dict[Node, list[tuple[Modifier, Tensor]]] = {}
        left = Counter((t.input, t.weight) for g in self.groups for t in g.terms)
        for group in self.groups:
            share = self._share(group, relevance, xs, tape, parts)
            self._book(share, tape)
            for term in group.terms:
                s = share.s if term.coefficient == 1 else share.s * term.coefficient
                way = term.input, term.weight
                waiting[way] = waiting[way] + s if way in waiting else s
                left[way] -= 1
                if left[way]:
                    continue  # groups that go the same way back go together
                for x, a, c in zip(self.map.xs, xs, self._pull(term, waiting.pop(way), tape), strict=True):
                    if term.input in SIDES:
                        by_sign.setdefault(x, []).append((term.input, c))
                    else:
                        yield x, Message(c) if term.input is keep else Message(R=_times(term.input, a, c))
            if self.affine_rule.bias == "distribute" and share.bias is not None:
                yield from self._distribute(share.bias * share.s, tape)
        for x, a in zip(self.map.xs, xs, strict=True):
            if x in by_sign:
                yield x, Message(_joined(a, by_sign[x]))

    def _pull(self, term: Term, s: Tensor, tape: Tape) -> list[Tensor]:
        """`A_kᵀ s` for each input."""
        alike = self.map.pull_ones(tape, s) if term.weight is ones else None
        return self.map.pull(tape, self._weight(term.weight, tape), s) if alike is None else alike

    def _share(self, group: Group, relevance: Tensor, xs: list[Tensor], tape: Tape, parts: Parts) -> Share:
        first = group.terms[0]
        fresh = len(group.terms) > 1 or first.coefficient != 1 or not (self._known(first) or self._repeats(first))
        scratch = tape.may_overwrite and operator_name(self.node) in FRESH and fresh  # z is needed by nobody else
        key = self.node, group
        if key in tape.denominators:
            z, denominator, bias = tape.denominators[key]
        else:
            z, bias = self._denominator(group, xs, tape, parts)
            denominator = self._stabilized(z, group, overwrite=scratch)
            if tape.shared:
                tape.denominators[key] = denominator, denominator, bias  # z itself is for the books alone
        s = divide(relevance, denominator, reuse=scratch)
        if group.mask != "all":
            own = tape.value(self.node)
            s = s * (own > 0 if group.mask == "positive" else own < 0)
        return Share(s if group.coefficient == 1 else s * group.coefficient, z, denominator, bias)

    def _stabilized(self, z: Tensor, group: Group, *, overwrite: bool) -> Tensor:
        if self.affine_rule.stabilizes_itself or callable(self.affine_rule.stabilizer):
            return self.affine_rule.modify_denominator(z)
        nonneg = _is_nonneg(group, self.nonneg)
        return stabilize(z, self.affine_rule.stabilizer, nonneg=nonneg, overwrite=overwrite)

    def _denominator(self, group: Group, xs: list[Tensor], tape: Tape, parts: Parts) -> tuple[Tensor, Tensor | None]:
        """`Σ_k A_k a_k + b_k`, and the bias in it."""
        z: Tensor | None = None
        bias: Tensor | None = None
        for term in group.terms:
            part, b = self._part(term, xs, tape, parts)
            if term.coefficient != 1:
                part, b = part * term.coefficient, None if b is None else b * term.coefficient
            z = part if z is None else z + part
            if b is not None:
                bias = b if bias is None else bias + b
        assert z is not None
        return z, bias

    def _part(self, term: Term, xs: list[Tensor], tape: Tape, parts: Parts) -> tuple[Tensor, Tensor | None]:
        """`A_k a_k + b_k` without its coefficient, and `b_k`: computed once, or known from the forward pass."""
        key = _part_key(term)
        if key in parts:
            return parts[key]
        b = self._bias(term.bias, tape)
        if self._known(term):
            part = tape.value(self.node)
        else:
            inputs = [term.input(self._fewest(term.input, x)) for x in xs]
            part = self.map.apply(tape, inputs, self._weight(term.weight, tape), b)
        made = part, None if b is None else self.map.spread_bias(b, part)
        if self._repeats(term):
            parts[key] = made
        return made

    def _known(self, term: Term) -> bool:
        """The forward pass has computed it."""
        return self.knows_plain and _part_key(term) == (keep, keep, keep)

    def _repeats(self, term: Term) -> bool:
        """Another term makes the same of input, weight and bias."""
        return sum(_part_key(t) == _part_key(term) for g in self.groups for t in g.terms) > 1

    def _weight(self, modifier: Modifier, tape: Tape) -> Tensor | None:
        """The modified weight, made once; None for the weight as it is."""
        if modifier is keep:
            return None
        if self.map.w is not None and not info(self.map.w).static:
            return modifier(self.map.weight(tape))
        key = ((self.map.w or self.node).name, modifier, tape.dtype)
        if key not in tape.modified:
            tape.modified[key] = modifier(self.map.weight(tape))
        return tape.modified[key]

    def _bias(self, modifier: Modifier | None, tape: Tape) -> Tensor | None:
        if modifier is None or self.affine_rule.bias == "ignore":
            return None
        b = self.map.bias(tape)
        return b if b is None or modifier is keep else modifier(b)

    def _distribute(self, kept: Tensor, tape: Tape) -> Iterator[tuple[Node, Message]]:
        """Spread what the bias would keep evenly over the inputs connected to each output.

        An output that sees nothing but padding has none; there the bias keeps its share.
        """
        w = ones(self.map.weight(tape))
        count = self.map.apply(tape, [torch.ones_like(tape.value(x)) for x in self.map.xs], w, None)
        tape.sink(self.node, self._bias_name, lambda: torch.where(count == 0, kept, 0))
        shares = self.map.pull(tape, w, torch.where(count == 0, 0, kept / count))
        for x, share in zip(self.map.xs, shares, strict=True):
            yield x, Message(R=share)

    def _fewest(self, modifier: Modifier, x: Tensor) -> Tensor:
        """The samples that a modified input has to be computed for: one where it is the same for all of them."""
        name, same = (
            operator_name(self.node),
            modifier is ones or (isinstance(modifier, Constant) and modifier.same_for_all),
        )
        batched = name == "linear" or (name in BATCHED_DIMS and x.dim() == BATCHED_DIMS[name])
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

    # The books.

    def _book(self, share: Share, tape: Tape) -> None:
        tape.sink(self.node, "epsilon", lambda: (share.denominator - share.z) * share.s)
        bias = share.bias
        if bias is not None and self.affine_rule.bias == "absorb":
            tape.sink(self.node, self._bias_name, lambda: bias * share.s)

    def _book_masked(self, relevance: Tensor, tape: Tape) -> None:
        """Relevance of outputs that no group takes on: those with `z = 0` under a rule that goes by the sign of `z`."""
        if all(g.mask != "all" for g in self.groups):
            tape.sink(self.node, "masked", lambda: relevance * (tape.value(self.node) == 0))


def affine_map(node: Node) -> AffineMap:
    """The map of an affine operator or a sum."""
    op = lookup(node)
    if op is not None and op.family == "sum":
        return SumMap(node)
    options = op.options if op is not None and isinstance(op.options, Affine) else Affine(kind="mixed")
    affine = AffineMap(node, options)
    if len(affine.xs) != 1:
        raise RuleError(
            f"{operator_name(node)} at {node} has {len(affine.xs)} data inputs, so it is not affine in one."
        )
    return affine


def is_direct(affine: AffineMap, rule: AffineRule) -> bool:
    """The rule's only denominator is the layer's own output, so nothing need be computed anew."""
    groups = rule.groups()
    one_plain_term = len(groups) == 1 and len(groups[0].terms) == 1 and groups[0].terms[0].plain
    no_bias = affine.b is None and not (isinstance(affine, SumMap) and affine.constants)
    return one_plain_term and groups[0].mask == "all" and (rule.bias == "absorb" or no_bias)


def divide(relevance: Tensor, denominator: Tensor, *, reuse: bool) -> Tensor:
    """`relevance / denominator`, written over the denominator where that is `reuse`d: large allocations cost time."""
    fits = reuse and denominator.shape == relevance.shape and denominator.dtype == relevance.dtype
    return torch.div(relevance, denominator, out=denominator) if fits else relevance / denominator


def _part_key(term: Term) -> tuple[Modifier, Modifier, Modifier | None]:
    return term.input, term.weight, term.bias


def _times(modifier: Modifier, a: Tensor, c: Tensor) -> Tensor:
    return c if modifier is ones else modifier(a) * c


SIDES: dict[Modifier, tuple[int, int]] = {positive: (1, 0), negative: (0, 1), absolute: (1, -1)}
"""`f(a) = a · (first where a > 0, else second)`: such terms stay factored."""


def _joined(a: Tensor, terms: Sequence[tuple[Modifier, Tensor]]) -> Tensor:
    """`c` of `a·c = Σ_k f_k(a)·c_k`: for `a⁺ c₁ + a⁻ c₂` it is `c₁` where `a > 0`, `c₂` where `a < 0`.

    A ReLU's own derivative selects many times faster than `where()` on CPUs.
    """

    def side(k: int) -> Tensor | None:
        parts = [c if SIDES[f][k] > 0 else -c for f, c in terms if SIDES[f][k]]
        return sum(parts[1:], parts[0]) if parts else None

    sides = [(c, sign) for c, sign in ((side(0), a), (side(1), -a)) if c is not None]
    found: list[Tensor] = [torch.ops.aten.threshold_backward(c, sign, 0) for c, sign in sides]
    return found[0] if len(found) == 1 else found[0] + found[1]


def _is_nonneg(group: Group, inputs_nonneg: bool) -> bool:
    """Every term is a product of two non-negative or two non-positive factors, and has a non-negative bias."""

    def term_is(t: Term) -> bool:
        a_positive = t.input in (positive, ones) or (t.input is keep and inputs_nonneg)
        product = t.weight in (positive, ones, square) if a_positive else (t.input is negative and t.weight is negative)
        return product and (t.bias is None or t.bias is positive) and t.coefficient > 0

    return all(term_is(t) for t in group.terms)
