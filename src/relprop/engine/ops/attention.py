"""Softmax and attention: AttnLRP (Achtibat et al. 2024) and CP-LRP (Ali et al. 2022).

AttnLRP takes the softmax by its derivative, `R_i = x_i (R_i − s_i Σ_j R_j)`, and halves relevance at each of the two
products around it. So values get 1/2, queries and keys 1/4 each of what the fused kernel's own derivative gives (more
where another operand is no data), and no attention matrix is ever made here, but for the books. CP-LRP treats attention
weights as constants: values take it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from relprop.engine.graph.graph import Node, info, is_floating, operator_name
from relprop.engine.graph.masks import Causal
from relprop.engine.graph.operators import total_within, weights_of_exponentials
from relprop.engine.ops.registry import always, inherits, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, R, Tape
from relprop.rules import AffineRule, AttentionRule, Rule, SoftmaxRule

register("softmax", "softmax", nonneg=always, gate=2, layers=("SoftmaxLayer",))
register("_softmax", "softmax", nonneg=always, gate=2)
register("weights_of_exponentials", "softmax", nonneg=lambda node, args: _is_mask(node.args[2]), gate=2,
         layers=("SoftmaxLayer",))  # fmt: skip
register("log_softmax", "softmax", layers=("SoftmaxLayer",))
register("_log_softmax", "softmax")
register("scaled_dot_product_attention", "attention", nonneg=inherits, layers=("AttentionLayer",))


class SoftmaxStep(Step):
    """The softmax's derivative at its input; what its tangent's bias keeps goes to the sink `softmax`, or is shared."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.bias = rule.bias if isinstance(rule, SoftmaxRule) else "absorb"
        self.read(node, *self.sources, *(a for a in _places(node) if a is not None))
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
        log, total = _is_log(self.node), self._total(tape)
        if self.bias == "keep":
            tape.sink(self.node, "softmax", lambda: s * c)
            return []
        if self.bias == "ignore":  # R_i = x_i s_i (v_i − Σ_j s_j v_j), v = c / (x − Σ s x)
            finite = torch.where(s == 0, 0, x)  # masked scores of −inf count for nothing
            d = finite - total(s * finite)
            divisor = self.rule.modify_denominator(d)
            tape.sink(self.node, "epsilon", lambda: s * c * (1 - d / divisor))  # all of it where a sum has one term
            v = c / divisor
            return [(source, Message(s * (v - total(s * v))))]
        (share,) = tape.adjoint(self.node, self.sources, Message(c), linear=False)
        if self.bias == "absorb":
            tape.sink(self.node, "softmax", lambda: c * tangent_bias(s, x, total, log=log))
            return [(source, share)]
        even = total(c * tangent_bias(s, x, total, log=log)) / total(torch.ones_like(x))
        return [(source, Message(share.c, even.expand_as(x)))]

    def _total(self, tape: Tape) -> Callable[[Tensor], Tensor]:
        """What the softmax sums over, as a function that gives each entry the sum it belongs to."""
        if self.node.target is not weights_of_exponentials:
            return partial(total_within, dims=(int(self.node.args[1]),))  # type: ignore[arg-type]
        index, zeros = (None if a is None else tape.values[a] for a in _places(self.node))
        return partial(total_within, dims=self.node.args[3], index=index, zeros=zeros)  # type: ignore[arg-type]


def _places(node: Node) -> tuple[Node | None, ...]:
    """The index and the zeros of a softmax over places."""
    return node.args[4:6] if node.target is weights_of_exponentials else ()  # type: ignore[return-value]


def _is_mask(weight: Any) -> bool:
    """Weights that are never negative."""
    return weight is None or not is_floating(weight) or info(weight).nonneg


def _is_log(node: Node) -> bool:
    return operator_name(node) in {"log_softmax", "_log_softmax"}


def tangent_bias(y: Tensor, x: Tensor, total: Callable[[Tensor], Tensor], *, log: bool = False) -> Tensor:
    """`y − J x`, what the tangent of `y = softmax(x)` at `x` adds to a linear map: `y (1 − x + Σ y x)`.

    Of a log-softmax it is `y − x + Σ exp(y) x`. Masked scores of −inf count for nothing.

    Args:
        total: gives each entry the sum that it belongs to.
    """
    weights = y.exp() if log else y
    finite = torch.where(weights == 0, 0, x)
    mean = total(weights * finite)
    return y - finite + mean if log else y * (1 - finite + mean)


class AttentionStep(Step):
    """Fused attention through its own backward kernel, with the shares that it has written out.

    Weights and values share by half where both are data, and so do queries and keys; what is no data leaves its part
    to the other.
    """

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.mode = rule.mode if isinstance(rule, AttentionRule) else "attnlrp"
        self.given: dict[str, Any] = dict(zip(OPERANDS, node.args, strict=False)) | dict(node.kwargs)
        self.factors = self._shares_of()
        self.sources = tuple(source for source in self.leaves if source in self.factors)
        self.read(*self.leaves, *((node,) if "R" in self.forms or rule.divides else ()))
        self.emits = C

    def _shares_of(self) -> dict[Node, float]:
        """Of relevance as the kernel's derivative sends it to each operand, the part that the operand gets."""
        q, k, v, mask = (self._data(name) for name in OPERANDS[:4])
        weights_take_part = self.mode != "cp" and any(x is not None for x in (q, k, mask))
        self.kept_share = (1.0 if v is None else 0.5) if weights_take_part else 0.0
        shares = {} if v is None else {v: 1 - self.kept_share}
        if self.mode == "attnlrp" and weights_take_part:
            each = self.kept_share / (2 if q is not None and k is not None else 1)
            shares |= {x: part for x, part in ((q, each), (k, each), (mask, self.kept_share)) if x is not None}
        return shares

    def _data(self, name: str) -> Node | None:
        """An operand, if relevance may flow to it."""
        operand = self.given.get(name)
        return operand if isinstance(operand, Node) and info(operand).data else None

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
        if self.kept_share:
            tape.sink(self.node, "softmax", lambda: self._kept(c, tape))
        elif not self.sources:  # values that are no data, under weights that count as constants
            tape.sink(self.node, "constant", lambda: tape.value(self.node) * c)
        if not self.sources:
            return []
        with self._kernel(tape):
            shares = tape.adjoint(self.node, self.leaves, Message(c), linear=False)
        return [
            (source, share.map(partial(torch.mul, other=self._factor(source))))
            for source, share in zip(self.leaves, shares, strict=True)
            if source in self.sources
        ]

    def _kernel(self, tape: Tape) -> AbstractContextManager[Any]:
        """The fused kernels have no second derivative."""
        return sdpa_kernel(SDPBackend.MATH) if tape.differentiable else nullcontext()

    def _factor(self, source: Node) -> float:
        return self.factors[source]

    def _kept(self, c: Tensor, tape: Tape) -> Tensor:
        """The weights' part of relevance, or what of it the softmax's tangent and a constant additive mask keep.

        Made anew from scores and weights, which the fused kernel does not give, so that the books check its adjoint.
        """
        if self.mode == "half":
            return tape.value(self.node) * c * self.kept_share
        q, k, v, mask, causal, scale = self._operands(tape)
        scored = any(self._data(name) is not None for name in OPERANDS[:2])
        kept = []
        for rows in _blocks(q, k):
            some = None if mask is None else mask if mask.shape[-2] == 1 else mask[..., rows, :]
            scores, weights, values = attention_weights(q[..., rows, :], k, v, some, causal, scale, first=rows.start)
            data = scores if scored else torch.zeros_like(scores)
            if self._data("attn_mask") is not None and some is not None:  # the mask is made of data, and has its share
                data = data + some
            kept.append(tangent_bias(weights, data, partial(total_within, dims=(-1,))) @ values)
        return c * torch.cat(kept, -2) * self.kept_share

    def _operands(self, tape: Tape) -> tuple[Tensor, Tensor, Tensor, Tensor | None, bool, float | None]:
        """Query, key, value, mask, causal, scale."""
        q, k, v = (tape.value(self.given[name]) for name in OPERANDS[:3])
        mask = self.given.get("attn_mask")
        mask = tape.values[mask] if isinstance(mask, Node) else None
        causal = bool(self.given.get("is_causal", False)) or isinstance(mask, Causal)
        scale = self.given.get("scale")
        scale = tape.values[scale] if isinstance(scale, Node) else scale
        return q, k, v, None if isinstance(mask, Causal) else mask, causal, scale


OPERANDS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""Positional arguments of `scaled_dot_product_attention`."""


MOST_SCORES = 1 << 24
"""Entries that are written out at a time."""


def _blocks(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Rows of queries (..., T, D) whose scores with keys (..., S, D) are so many together, or of one row."""
    length = q.shape[-2]
    size = max(1, MOST_SCORES // max(1, q[..., 0].numel() // max(1, length) * k.shape[-2]))
    return (slice(first, min(first + size, length)) for first in range(0, length, size))


def attention_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None, *, first: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores `q kᵀ · scale` (..., T, S), weights `softmax(scores + mask)` of the same shape, and values per head.

    Args:
        q: queries (..., T, D).
        k: keys (..., S, D).
        v: values (..., S, D).
        mask: to be added, or True where something is read.
        causal: nothing is read that is behind a query's own position.
        scale: None: that of the kernel.
        first: position of the first query.
    """
    if k.shape[-3] != q.shape[-3]:  # grouped queries
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    masked = scores
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(first)
        masked = masked.masked_fill(~allowed, -torch.inf)
    if mask is not None:
        masked = masked.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else masked + mask
    return scores, masked.softmax(-1).nan_to_num(), v  # a row that is masked altogether attends to nothing
