"""Affine layers and sums: one step evaluates every affine rule on every affine operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, constant_name, data_inputs, info, operator_name, where_is
from relprop.engine.ops.activation import ActivationStep
from relprop.engine.ops.linear_maps import Affine, AffineMap, SomeRows, SumMap
from relprop.engine.ops.parameters import credit_bias, credit_constant, credit_weight
from relprop.engine.ops.positions import place_added
from relprop.engine.ops.registry import lookup
from relprop.engine.ops.rows import live_rows
from relprop.engine.ops.simplify import sign_of
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Forms, Message, R, Tape, masked_product
from relprop.engine.ops.terms import Terms
from relprop.engine.ops.work import Work
from relprop.errors import RuleError
from relprop.rules import AffineRule, Group, Rule, Term, stabilize
from relprop.rules.modifiers import Boost, Modifier, absolute, keep, negative, ones, positive


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
        self.map = affine_map(node, plan if rule.is_local else None)
        self.direct = is_direct(self.map, rule)
        self.terms = Terms(self.map, rule, rectifier(node, plan) if rule.is_local else None)
        self.value = self.terms.value
        self.expects_gaps = self.value is not node or isinstance(self.map, SomeRows)
        self.multiplies_sides = all(plan.prefers[x] == "R" for x in self.map.xs)
        self.emits = self._emitted()
        parameters = {p for p in (self.map.w, self.map.b) if p is not None and not info(p).static}
        self.read(*parameters)
        self.reads_for_parameters = frozenset(self.map.xs)
        if self.direct:
            self.multiplies_out = rule.divides
            self.read(*((self.value,) if self.multiplies_out or "R" in self.forms else ()))
            return
        self.read(*self.terms.reads)
        if "c" in self.forms:
            self.read(self.value)

    def _emitted(self) -> Forms:
        inputs = {t.input for g in self.terms.groups for t in g.terms}
        stays = [m is keep or (m in SIDES and not self.multiplies_sides) for m in inputs]
        factored = C if any(stays) else frozenset()
        spreads = self.affine_rule.bias == "distribute"
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
        message = message.map(self.map.outputs)
        if self.direct:
            s = self._direct_share(message, tape)
            credit_weight(self.map, tape, lambda: [tape.value(x) for x in self.map.xs], None, s)
            return [(x, Message(c)) for x, c in zip(self.map.xs, self.map.pull(tape, None, s), strict=True)]
        return self._by_terms(self._total(message, tape), tape)

    def _total(self, message: Message, tape: Tape) -> Tensor:
        """`z · c + R` of the map's outputs."""
        return tape.total(self.value, message, self.map.outputs)

    # The 0-rule and ε-rule on the layer as it is: s = R / stab(z), with z the value that the forward pass computed.

    def _direct_share(self, message: Message, tape: Tape) -> Tensor:
        if not self.multiplies_out and message.R is None:
            assert message.c is not None
            self._book_bias(message.c, tape)
            return message.c
        z = self.map.outputs(tape.value(self.value))
        relevance = self._total(message, tape) if self.multiplies_out else message.R
        assert relevance is not None
        denominator = self.affine_rule.modify_denominator(z)
        s = relevance / denominator
        tape.sink(self.node, "epsilon", lambda: masked_product(denominator - z, s))
        if not self.multiplies_out and message.c is not None:
            s = s + message.c
        self._book_bias(s, tape)
        return s

    def _book_bias(self, s: Tensor, tape: Tape) -> None:
        if tape.sinks is None and tape.parameters is None and tape.positions is None:
            return
        if isinstance(self.map, SumMap):
            for constant, amount in self.map.constant_values(tape):
                name = constant_name(constant) if isinstance(constant, Node) else "constant"
                kept = masked_product(amount, s)
                tape.sink(self.node, name, lambda kept=kept: kept)  # type: ignore[misc]
                credit_constant(tape, self.node, constant, kept)
                place_added(tape, self.node, constant, amount, kept)
            return
        b = self.map.bias(tape)
        if b is not None:
            self._book_kept(tape, lambda: self.map.spread_bias(b, s) * s)

    # Every other rule: the terms of its groups.

    def _by_terms(self, relevance: Tensor, tape: Tape) -> Iterator[tuple[Node, Message]]:
        work, by_sign = Work(tape, self.terms.all), dict[Node, list[Side]]()
        for x, modifier, c in self._shares(relevance, work):
            if modifier is keep:
                yield x, Message(c)
            elif modifier in SIDES:
                by_sign.setdefault(x, []).append((modifier, c))
            else:
                yield x, Message(R=self._times(x, modifier, c, work))
        for x, sides in by_sign.items():
            yield x, self._both_sides(x, sides, work)

    def _shares(self, relevance: Tensor, work: Work) -> Iterator[tuple[Node, Modifier, Tensor]]:
        """Input `x`, `f` and `c`, such that the `f(x) · c` of all of them are `R_in`."""
        tape = work.tape
        self._book_untaken(relevance, tape)
        for group in self.terms.groups:
            share = self._share(group, relevance, work)
            self._book(share, tape)
            for term in group.terms:
                s = work.together(term, share.s)
                if s is not None:
                    self._credit(term, s, work)
                    shares = self.terms.pull(term, s, tape)
                    del s
                    yield from zip(self.map.xs, repeat(term.input), shares, strict=False)
                    del shares
            if self.affine_rule.bias == "distribute" and share.bias is not None:
                yield from zip(self.map.xs, repeat(ones), self._distribute(share.bias * share.s, tape), strict=False)
            del share  # before the next group's is made

    def _credit(self, term: Term, s: Tensor, work: Work) -> None:
        tape = work.tape
        if tape.parameters is not None:
            inputs = [self.terms.input(x, term.input, work) for x in self.map.xs]
            credit_weight(self.map, tape, lambda: inputs, self.terms.weight(term, tape), s)

    def _share(self, group: Group, relevance: Tensor, work: Work) -> Share:
        """`coef · mask · R_out / stab(z)`."""
        z, denominator, bias, overwrite = self._denominator(group, work)
        s = work.quotient(relevance, denominator, group.coefficient, overwrite=overwrite)
        if group.mask != "all":
            own = self.terms.own_value(work.tape)
            s = s * (own > 0 if group.mask == "positive" else own < 0)
        return Share(s, z, denominator, bias)

    def _denominator(self, group: Group, work: Work) -> tuple[Tensor, Tensor, Tensor | None, bool]:
        """`z`, `stab(z)`, the bias in it, and whether the quotient may take the place of it."""
        known = work.tape.denominators
        if (self.node, group) in known:
            return *known[self.node, group], False
        made = self.terms.evaluate(group, work)
        overwrite = work.overwrites(made)
        denominator = self._stabilized(made.z, group, overwrite=overwrite)
        if work.tape.shared:  # several passes read it; z itself is for the books alone
            known[self.node, group] = denominator, denominator, made.bias
        return made.z, denominator, made.bias, overwrite

    def _stabilized(self, z: Tensor, group: Group, *, overwrite: bool) -> Tensor:
        rule = self.affine_rule
        if rule.stabilizes_itself or callable(rule.stabilizer):
            return rule.modify_denominator(z)
        return stabilize(z, rule.stabilizer, sign=sign_of(group, self.terms.nonneg), overwrite=overwrite)

    def _times(self, x: Node, modifier: Modifier, c: Tensor, work: Work) -> Tensor:
        """`f(a) · c`."""
        return c if modifier is ones else self.terms.input(x, modifier, work) * c

    def _both_sides(self, x: Node, sides: Sequence[Side], work: Work) -> Message:
        """Σ f_k(a)·c_k of functions that go by the sign of `a`, in the form that the input likes."""
        if not self.multiplies_sides:
            return Message(_joined(work.tape.value(x), sides))
        (first, c), *others = sides
        R = self._times(x, first, c, work)
        for modifier, c in others:
            R = work.add_product(R, self.terms.input(x, modifier, work), c)
        return Message(R=R)

    def _distribute(self, kept: Tensor, tape: Tape) -> list[Tensor]:
        """Spread what the bias would keep evenly over the inputs connected to each output.

        An output that sees nothing but padding has none; there the bias keeps its share.
        """
        w = ones(self.map.weight(tape))
        count = self.map.apply(tape, [torch.ones_like(tape.value(x)) for x in self.map.xs], w, None)
        self._book_kept(tape, lambda: torch.where(count == 0, kept, 0))
        s = torch.where(count == 0, 0, kept / count)
        credit_weight(self.map, tape, lambda: [torch.ones_like(tape.value(x)) for x in self.map.xs], w, s)
        return self.map.pull(tape, w, s)

    # The books.

    def _book(self, share: Share, tape: Tape) -> None:
        tape.sink(self.node, "epsilon", lambda: (share.denominator - share.z) * share.s)
        bias = share.bias
        if bias is not None and self.affine_rule.bias == "absorb":
            self._book_kept(tape, lambda: bias * share.s)

    def _book_kept(self, tape: Tape, kept: Callable[[], Tensor]) -> None:
        """What the bias keeps."""
        tape.sink(self.node, "constant" if isinstance(self.map, SumMap) else "bias", kept)
        credit_bias(self.map, tape, kept)

    def _book_untaken(self, relevance: Tensor, tape: Tape) -> None:
        """Relevance that no group takes on.

        That of outputs with `z = 0` under a rule that goes by the sign of `z` is `masked`; what the coefficients of a
        rule of one's own leave is `rule`.
        """
        if tape.sinks is None:
            return
        groups = self.affine_rule.groups()
        above, below, zero = (
            1 - sum(g.coefficient for g in groups if g.mask in ("all", side)) for side in ("positive", "negative", None)
        )
        masked = all(g.mask != "all" for g in groups)
        zero = 0 if masked else zero
        left = max(map(abs, (above, below, zero))) > ROUNDED
        if not (masked or left):
            return
        own = self.map.outputs(tape.value(self.terms.value))
        if masked:
            tape.sink(self.node, "masked", lambda: relevance * (own == 0))
        if left:
            rest = torch.where(own < 0, relevance * below, relevance * zero)
            tape.sink(self.node, "rule", lambda: torch.where(own > 0, relevance * above, rest))


def affine_map(node: Node, plan: Plan | None = None) -> AffineMap:
    """The map of an affine operator or a sum, for those outputs that relevance comes from, if a plan tells."""
    op = lookup(node)
    if op is not None and op.family == "sum":
        return SumMap(node)
    options = op.options if op is not None and isinstance(op.options, Affine) else Affine(kind="mixed")
    affine = AffineMap(node, options)
    if len(affine.xs) != 1:
        raise RuleError(
            f"{operator_name(node)} at {where_is(node)} has {len(affine.xs)} data inputs, so it is not affine in one: "
            f"{', '.join(f'{x} (made by {_maker(x)})' for x in affine.xs)}. Next step: relprop.StopRule() on the "
            "module that computes all but one of them, such as the grid of a grid_sample, which then are constants; or "
            f"relprop.register_op({operator_name(node)!r}, step=...) with a step of your own."
        )
    rows = live_rows(node, plan) if plan is not None and operator_name(node) == "linear" and affine.w else None
    return affine if rows is None else SomeRows(node, options, *rows)


def _maker(node: Node) -> str:
    """The module that a node comes from, or that what it is computed from comes from; modules are what rules go by."""
    waiting = [node]
    while waiting and not info(waiting[0]).path:
        waiting = waiting[1:] + [x for x in data_inputs(waiting[0]) if x.op == "call_function"]
    return where_is(waiting[0] if waiting else node)


def rectifier(node: Node, plan: Plan) -> Node | None:
    """The ReLU that all relevance of a node comes from, factored: there is none where the node's value is <= 0."""
    readers = plan.senders(node)
    if len(readers) != 1 or node in plan.starts or plan.forms[readers[0]] != C:
        return None
    step = plan.steps[readers[0]]
    return readers[0] if isinstance(step, ActivationStep) and step.ratio == "mask" else None


def is_direct(affine: AffineMap, rule: AffineRule) -> bool:
    """The rule's only denominator is the layer's own output, so nothing need be computed anew."""
    one_plain_term = rule.unmodified and len(rule.groups()[0].terms) == 1
    return one_plain_term and (rule.bias == "absorb" or not affine.biased)


ROUNDED = 1e-9
"""Coefficients of groups whose sum is nearer to 1, such as 1.3 and -0.3, leave nothing."""

SIDES: dict[Modifier, tuple[int, int]] = {positive: (1, 0), negative: (0, 1), absolute: (1, -1)}
"""`f(a) = a · (first where a > 0, else second)`: such terms stay factored."""

Side = tuple[Modifier, Tensor]
"""`f` and `c` of `f(a) · c`."""


def _joined(a: Tensor, terms: Sequence[Side]) -> Tensor:
    """`c` of `a·c = Σ_k f_k(a)·c_k`: for `a⁺ c₁ + a⁻ c₂` it is `c₁` where `a > 0`, `c₂` where `a < 0`.

    A ReLU's own derivative selects many times faster than `where()` on CPUs.
    """

    def side(k: int) -> Tensor | None:
        parts = [c if SIDES[f][k] > 0 else -c for f, c in terms if SIDES[f][k]]
        return sum(parts[1:], parts[0]) if parts else None

    sides = [(c, sign) for c, sign in ((side(0), a), (side(1), -a)) if c is not None]
    found: list[Tensor] = [torch.ops.aten.threshold_backward(c, sign, 0) for c, sign in sides]
    return found[0] if len(found) == 1 else found[0] + found[1]
