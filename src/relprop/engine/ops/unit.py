"""Registered modules as one layer: the 0-rule by automatic differentiation, or a function of the user's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node
from relprop.engine.ops.step import Plan, Preference, Step
from relprop.engine.ops.tape import C, Message, R, Tape
from relprop.engine.ops.units import check_function_result
from relprop.rules import AffineRule, FunctionRule, Rule


class UnitStep(Step):
    """`R_i = a_i Σ_j ∂z_j/∂a_i · R_j / stab(z_j)`, or what the registered function says."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.read(node, *self.sources)
        self.emits = R if isinstance(rule, FunctionRule) else C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "R"

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        relevance = tape.total(self.node, message)
        if isinstance(self.rule, FunctionRule):
            return self._by_function(self.rule, relevance, tape)
        assert isinstance(self.rule, AffineRule)
        z = tape.value(self.node)
        denominator = self.rule.modify_denominator(z)
        s = relevance / denominator
        shares = tape.adjoint(self.node, self.sources, Message(s), linear=False)
        tape.sink(self.node, "epsilon", lambda: (denominator - z) * s)
        tape.sink(self.node, "module", lambda: (z * s).sum() - self._sent(shares, tape))
        return zip(self.sources, shares, strict=True)

    def _by_function(self, rule: FunctionRule, relevance: Tensor, tape: Tape) -> Iterable[tuple[Node, Message]]:
        inputs = [tape.value(s) for s in self.sources]

        def forward(*given: Tensor) -> Tensor:
            result: Tensor = tape.evaluate(self.node, dict(zip(self.sources, given, strict=True)))
            return result

        with torch.enable_grad():
            result = rule.function(forward, tuple(inputs), tape.value(self.node), relevance)
        shapes = {s: tape.shapes[s] for s in self.sources}
        checked = check_function_result(self.node, result, shapes)
        shares = [Message(R=r if tape.differentiable else r.detach()) for r in checked]
        tape.sink(self.node, "module", lambda: relevance.sum() - self._sent(shares, tape))
        return zip(self.sources, shares, strict=True)

    def _sent(self, shares: list[Message], tape: Tape) -> Tensor:
        totals = [tape.total(s, share).double().sum() for s, share in zip(self.sources, shares, strict=True)]
        return torch.stack(totals).sum()
