"""Softmax and attention: AttnLRP (Achtibat et al. 2024) and CP-LRP (Ali et al. 2022).

AttnLRP takes the softmax by its derivative, `R_i = x_i (R_i − s_i Σ_j R_j)`, and halves relevance at each of the two
products around it. So values get 1/2, queries and keys 1/4 each of what the fused kernel's own derivative gives, and no
attention matrix is ever made here, but for the books. CP-LRP treats attention weights as constants: values take it all.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from relprop.engine.graph.graph import Node, operator_name
from relprop.engine.ops.registry import always, inherits, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, R, Tape
from relprop.rules import AffineRule, AttentionRule, Rule, SoftmaxRule

register("softmax", "softmax", nonneg=always, gate=2, layers=("SoftmaxLayer",))
register("_softmax", "softmax", nonneg=always, gate=2)
register("log_softmax", "softmax", layers=("SoftmaxLayer",))
register("_log_softmax", "softmax")
register("scaled_dot_product_attention", "attention", nonneg=inherits, layers=("AttentionLayer",))


class SoftmaxStep(Step):
    """The softmax's derivative at its input; what its tangent's bias keeps goes to the sink `softmax`, or is shared."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
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
        if isinstance(rule, SoftmaxRule) and rule.bias == "ignore" and _is_log(node):
            raise cannot_serve(node, rule, 'bias="ignore" is for softmax alone; use "absorb" or "distribute".')

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        (source,) = self.sources
        c = self.factored(message, tape)
        s, x = tape.value(self.node), tape.value(source)
        dim, log = int(self.node.args[1]), _is_log(self.node)  # type: ignore[arg-type]
        if self.bias == "keep":
            tape.sink(self.node, "softmax", lambda: s * c)
            return []
        if self.bias == "ignore":  # R_i = x_i s_i (v_i − Σ_j s_j v_j), v = c / (x − Σ s x)
            v = c / self.rule.modify_denominator(x - (s * x).sum(dim, keepdim=True))
            return [(source, Message(s * (v - (s * v).sum(dim, keepdim=True))))]
        (share,) = tape.adjoint(self.node, self.sources, Message(c), linear=False)
        if self.bias == "absorb":
            tape.sink(self.node, "softmax", lambda: c * tangent_bias(s, x, dim, log=log))
            return [(source, share)]
        even = (c * tangent_bias(s, x, dim, log=log)).sum(dim, keepdim=True) / x.shape[dim]
        return [(source, Message(share.c, even.expand_as(x)))]


def _is_log(node: Node) -> bool:
    return operator_name(node) in {"log_softmax", "_log_softmax"}


def tangent_bias(y: Tensor, x: Tensor, dim: int, *, log: bool = False) -> Tensor:
    """`y − J x`, what the tangent of `y = softmax(x)` at `x` adds to a linear map: `y (1 − x + Σ y x)`.

    Of a log-softmax it is `y − x + Σ exp(y) x`. Masked scores of −inf count for nothing.
    """
    weights = y.exp() if log else y
    finite = torch.where(weights == 0, 0, x)
    mean = (weights * finite).sum(dim, keepdim=True)
    return y - finite + mean if log else y * (1 - finite + mean)


class AttentionStep(Step):
    """Fused attention through its own backward kernel."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.mode = rule.mode if isinstance(rule, AttentionRule) else "attnlrp"
        value = node.args[2]
        if self.mode != "attnlrp":
            self.sources = tuple(s for s in self.sources if s is value)
        self.read(*self.leaves, *((node,) if "R" in self.forms or rule.divides else ()))
        self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "c"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, AttentionRule) and not (isinstance(rule, AffineRule) and rule.unmodified):
            raise cannot_serve(node, rule, "attention takes AttentionRule().")

    def run(self, tape: Tape) -> Any:
        with self._kernel(tape):
            return super().run(tape)

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        c = self.factored(message, tape)
        with self._kernel(tape):
            shares = tape.adjoint(self.node, self.leaves, Message(c), linear=False)
        sent = [
            (source, share.map(partial(torch.mul, other=self._factor(source))))
            for source, share in zip(self.leaves, shares, strict=True)
            if source in self.sources
        ]
        if self.mode != "cp":
            tape.sink(self.node, "softmax", lambda: self._kept(c, tape))
        return sent

    def _kernel(self, tape: Tape) -> AbstractContextManager[Any]:
        """The fused kernels have no second derivative."""
        return sdpa_kernel(SDPBackend.MATH) if tape.differentiable else nullcontext()

    def _factor(self, source: Node) -> float:
        """1/2 for values, 1/4 for queries and for keys, 1/2 for a mask made of data; 1 for values under CP-LRP."""
        if self.mode == "cp":
            return 1.0
        return 0.25 if any(source is operand for operand in self.node.args[:2]) else 0.5

    def _kept(self, c: Tensor, tape: Tape) -> Tensor:
        """The weights' half of relevance, or what of it the softmax's tangent and a constant additive mask keep.

        Made anew from scores and weights, which the fused kernel does not give, so that the books check its adjoint.
        """
        if self.mode == "half":
            return tape.value(self.node) * c / 2
        q, k, v, mask, causal, scale = self._operands(tape)
        scores, weights, values = attention_weights(q, k, v, mask, causal, scale)
        if len(self.leaves) > 3 and mask is not None:  # the mask is made of data, and gets its share
            scores = scores + mask
        return c * ((tangent_bias(weights, scores, -1)) @ values) / 2

    def _operands(self, tape: Tape) -> tuple[Tensor, Tensor, Tensor, Tensor | None, bool, float | None]:
        """Query, key, value, mask, causal, scale."""
        given: dict[str, Any] = dict(zip(OPERANDS, self.node.args, strict=False)) | dict(self.node.kwargs)
        q, k, v = (tape.value(given[name]) for name in OPERANDS[:3])
        mask = given.get("attn_mask")
        mask = tape.values[mask] if isinstance(mask, Node) else None
        scale = given.get("scale")
        scale = tape.values[scale] if isinstance(scale, Node) else scale
        return q, k, v, mask, bool(given.get("is_causal", False)), scale


OPERANDS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""Positional arguments of `scaled_dot_product_attention`."""


def attention_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores `q kᵀ · scale` (..., T, S), weights `softmax(scores + mask)` of the same shape, and values per head."""
    if k.shape[-3] != q.shape[-3]:  # grouped queries
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    masked = scores
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        masked = masked.masked_fill(~allowed, -torch.inf)
    if mask is not None:
        masked = masked.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else masked + mask
    return scores, masked.softmax(-1).nan_to_num(), v  # a row that is masked altogether attends to nothing
