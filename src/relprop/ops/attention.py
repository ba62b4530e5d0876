"""Softmax and attention: AttnLRP (Achtibat et al. 2024) and CP-LRP (Ali et al. 2022).

AttnLRP takes the softmax by its derivative, `R_i = x_i (R_i − s_i Σ_j R_j)`, and halves relevance at each of the two
products around it. So values get 1/2, queries and keys 1/4 each of what the fused kernel's own derivative gives, and no
attention matrix is ever made here. CP-LRP treats attention weights as constants: values take it all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from relprop.graph import Node
from relprop.ops.registry import always, inherits, register
from relprop.ops.step import Preference, Step, cannot_serve
from relprop.rules import AffineRule, AttentionRule, EpsilonRule, Rule, SoftmaxRule, stabilize
from relprop.tape import C, Form, Forms, Message, R, Tape

register("softmax _softmax", "softmax", nonneg=always)
register("log_softmax _log_softmax", "softmax")
register("scaled_dot_product_attention", "attention", nonneg=inherits)


class SoftmaxStep(Step):
    """The softmax's derivative at its input; what its tangent's bias keeps goes to the sink `softmax`, or is shared."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, forms: Forms, prefers: Mapping[Node, Form]) -> None:
        super().__init__(node, rule, forms, prefers)
        self.bias = rule.bias if isinstance(rule, SoftmaxRule) else "absorb"
        self.read(node, *self.sources)
        self.emits = C | R if self.bias == "distribute" else C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "c"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, SoftmaxRule) and not (isinstance(rule, AffineRule) and rule.unmodified):
            raise cannot_serve(node, rule, "a softmax takes SoftmaxRule() or StopRule().")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        (source,) = self.sources
        s = tape.value(self.node)
        c = message.c if message.R is None else _add(message.c, message.R / stabilize(s, 1e-9))
        assert c is not None
        x = tape.value(source)
        relevance = s * c
        dim = int(self.node.args[1])  # type: ignore[arg-type]
        (share,) = tape.adjoint(self.node, self.sources, Message(c), linear=False)
        assert share.c is not None
        kept = torch.where(share.c == 0, relevance, relevance - x * share.c)  # masked scores may be -inf
        if self.bias == "absorb":
            tape.sink(self.node, "softmax", lambda: kept)
            return [(source, share)]
        if self.bias == "omit":  # R_i = x_i s_i (v_i − Σ_j s_j v_j), v = c / (x − Σ s x)
            v = c / stabilize(x - (s * x).sum(dim, keepdim=True), 1e-9)
            return [(source, Message(s * (v - (s * v).sum(dim, keepdim=True))))]
        even = kept.sum(dim, keepdim=True) / x.shape[dim]
        return [(source, Message(share.c, even.expand_as(x)))]


class AttentionStep(Step):
    """Fused attention through its own backward kernel."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, forms: Forms, prefers: Mapping[Node, Form]) -> None:
        super().__init__(node, rule, forms, prefers)
        self.mode = rule.mode if isinstance(rule, AttentionRule) else "attnlrp"
        value = node.args[2]
        if self.mode == "cp":
            self.sources = tuple(s for s in self.sources if s is value)
        self.read(*self.leaves, *((node,) if "R" in forms or isinstance(rule, EpsilonRule) else ()))
        self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "c"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, AttentionRule) and not (isinstance(rule, AffineRule) and rule.unmodified):
            raise cannot_serve(node, rule, "attention takes AttentionRule().")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        c = self.factored(message, tape)
        shares = tape.adjoint(self.node, self.leaves, Message(c), linear=False)
        sent = [
            (source, share.map(partial(torch.mul, other=self._factor(source))))
            for source, share in zip(self.leaves, shares, strict=True)
            if source in self.sources
        ]
        tape.sink(self.node, "softmax", lambda: self._kept(c, sent, tape))
        return sent

    def _factor(self, source: Node) -> float:
        """1/2 for values, 1/4 for queries and for keys; 1 for values under CP-LRP."""
        if self.mode == "cp":
            return 1.0
        return 0.5 if source is self.node.args[2] else 0.25

    def _kept(self, c: Tensor, sent: list[tuple[Node, Message]], tape: Tape) -> Tensor:
        """What the softmax's tangent keeps on the way to queries and keys, from the values' half: Σ R − Σ sent."""
        arrived = (tape.value(self.node) * c).double().sum()
        return arrived - torch.stack([tape.total(s, share).double().sum() for s, share in sent]).sum()


def _add(c: Tensor | None, s: Tensor) -> Tensor:
    return s if c is None else c + s
