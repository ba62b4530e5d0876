"""Gates of recurrent cells: the signal takes all, and the gate counts as a constant (Arras et al. 2017, 2019).

Captured cells are unrolled into linear layers, activations, sums and `gated` (`relprop.engine.rewrites.recurrent`), so
only the gate is here. A composite gives the whole `nn.LSTM` one rule, which serves its linear layers and sums;
`ProductRule` speaks of its gates.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from relprop.engine.graph.graph import Node, constant_name, operator_name
from relprop.engine.ops.registry import everywhere, inherits, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import Message, Tape
from relprop.rules import AffineRule, ProductRule, Rule

register("gated", "gate", nonneg=inherits, local=everywhere)

RECURRENT = frozenset(f"{kind}{end}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for end in ("", "_cell"))
"""Captured operators that are unrolled."""


def gated(gate: Tensor, signal: Tensor) -> Tensor:
    """`gate * signal`, both of one shape."""
    return gate * signal


class GateStep(Step):
    """`R_signal = R, R_gate = 0`; under `ProductRule("uniform")` each gets half.

    With `z = gate · signal` and `R = z·c` that is `c_signal = c · gate`. Nothing is ever divided by.
    """

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.gate, self.signal = (a for a in node.args if isinstance(a, Node))
        halves = isinstance(rule, ProductRule) and rule.share == "uniform"
        self.sources = tuple(s for s in self.sources if halves or s is self.signal)
        if "c" in self.forms:
            self.read(*({self.gate, self.signal} if halves else {self.gate}), *(() if self.sources else (node,)))

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "source"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (AffineRule, ProductRule)):
            raise cannot_serve(node, rule, "a gate takes ProductRule(), or any affine rule as signal-takes-all.")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        if not self.sources:  # a signal that is a constant comes from the initial state
            name = "bias" if operator_name(self.signal) == "linear" else constant_name(self.signal)
            tape.sink(self.node, name, lambda: tape.total(self.node, message))
        for source in self.sources:
            other = self.gate if source is self.signal else self.signal
            c = None if message.c is None else message.c * tape.value(other) / len(self.sources)
            yield source, Message(c, None if message.R is None else message.R / len(self.sources))
