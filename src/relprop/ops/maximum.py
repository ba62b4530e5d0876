"""Maxima: the winner takes all (0-rule, ε-rule), or every entry of a window its share (NormRule)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from relprop.graph import Node, operator_name
from relprop.ops.registry import inherits, register
from relprop.ops.step import Preference, Step, cannot_serve
from relprop.rules import EpsilonRule, Rule, ZeroRule
from relprop.tape import C, Form, Forms, Message, Tape

register(
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax max maximum min minimum amin",
    "max",
    nonneg=inherits,
)


class MaxStep(Step):
    """All relevance goes to the entry that was passed on: the operator's own gradient, which moves values."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, forms: Forms, prefers: Mapping[Node, Form]) -> None:
        super().__init__(node, rule, forms, prefers)
        self.stabilized = isinstance(rule, EpsilonRule) or (
            isinstance(rule, ZeroRule) and rule.stabilizes_itself
        )
        self.read(*self.sources)
        if self.stabilized:
            self.read(node)
            self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "source"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (ZeroRule, EpsilonRule)):
            raise cannot_serve(
                node, rule, "a maximum has no weights; use ZeroRule() or EpsilonRule(): the winner takes all."
            )

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        if self.stabilized:
            z = tape.value(self.node)
            denominator = self.rule.modify_denominator(z)  # type: ignore[attr-defined]
            s = tape.total(self.node, message) / denominator
            tape.sink(self.node, "epsilon", lambda: (denominator - z) * s)
            message = Message(s)
        if operator_name(self.node) in {"maximum", "minimum"} and len(self.sources) == 1:
            tape.sink(self.node, "constant", lambda: self._won_by_constant(message, tape))
        return zip(self.sources, tape.adjoint(self.node, self.sources, message, linear=False), strict=True)

    def _won_by_constant(self, message: Message, tape: Tape) -> Tensor:
        y, x = tape.value(self.node), tape.value(self.sources[0])
        probe = tape.adjoint(self.node, self.sources, Message(torch.ones_like(y)), linear=False)[0].c
        assert probe is not None
        return (
            tape.total(self.node, message) * (1 - probe)
            if x.shape == y.shape
            else tape.total(self.node, message) * (x != y)
        )
