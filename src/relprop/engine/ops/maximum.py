"""Maxima: the winner takes all (0-rule, ε-rule), or every entry of a window its share (NormRule)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.engine.graph.graph import Node
from relprop.engine.graph.operators import part
from relprop.engine.ops.registry import inherits, op_of, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, R, Tape, masked_product
from relprop.rules import EpsilonRule, NormRule, Rule, ZeroRule


@dataclass(frozen=True)
class Maximum:
    """What it is the maximum of.

    Attributes:
        mean: the linear operator over the same windows, which the NormRule shares by; a factor per window has no
            influence on shares. None: there are no windows.
        kernel: whether windows have a size, a stride, and so on, which the mean takes in another order.
        two: of two tensors, of which one may be a constant.
    """

    mean: Callable[..., Tensor] | None = None
    kernel: bool = False
    two: bool = False


def _register(names: str, options: Maximum, **facts: Any) -> None:
    register(names, "max", nonneg=inherits, infinite="inherits", options=options, **facts)


_P = ("PoolingLayer",)

_register("max_pool1d", Maximum(F.avg_pool1d, kernel=True), layers=_P)
_register("max_pool2d", Maximum(F.avg_pool2d, kernel=True), layers=_P)
_register("max_pool3d", Maximum(F.avg_pool3d, kernel=True), layers=_P)
_register("max_pool2d_with_indices", Maximum(F.avg_pool2d, kernel=True))
_register("max_pool3d_with_indices", Maximum(F.avg_pool3d, kernel=True))
_register("adaptive_max_pool1d", Maximum(F.adaptive_avg_pool1d), layers=_P)
_register("adaptive_max_pool2d", Maximum(F.adaptive_avg_pool2d), layers=_P)
_register("adaptive_max_pool3d", Maximum(F.adaptive_avg_pool3d), layers=_P)
_register("amax", Maximum(torch.mean), layers=_P)
_register("maximum minimum fmax fmin", Maximum(two=True))
_register("max min amin cummax cummin max_pool1d_with_indices torchvision.roi_pool", Maximum())
_register("extreme_of_places", Maximum())
register("logsumexp special_logsumexp logaddexp logaddexp2 logcumsumexp", "soft maximum", infinite="inherits")


class MaxStep(Step):
    """All relevance goes to the entry that was passed on: the operator's own gradient, which moves values."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.read(*self.sources)
        if rule.divides:
            self.read(node)
            self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "source"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (ZeroRule, EpsilonRule)):
            raise cannot_serve(
                node, rule, "a maximum has no weights; use ZeroRule(): the winner takes all, or NormRule()."
            )

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        if self.rule.divides:
            z = tape.value(self.node)
            denominator = self.rule.modify_denominator(z)
            s = tape.total(self.node, message) / denominator
            tape.sink(self.node, "epsilon", lambda: masked_product(denominator - z, s))
            message = Message(s)
        if _maximum(self.node).two and len(self.sources) == 1:
            tape.sink(self.node, "constant", lambda: self._won_by_constant(message, tape))
        return zip(self.sources, tape.adjoint(self.node, self.sources, message, linear=False), strict=True)

    def _won_by_constant(self, message: Message, tape: Tape) -> Tensor:
        y, x = tape.value(self.node), tape.value(self.sources[0])
        probe = tape.adjoint(self.node, self.sources, Message(torch.ones_like(y)), linear=False)[0].c
        assert probe is not None
        won = probe if x.shape == y.shape else (x == y).to(y.dtype)
        return tape.total(self.node, message) * (1 - won)


class SoftMaximumStep(Step):
    """`y = log Σ_i exp(x_i)`: `R_i = exp(x_i) / Σ_k exp(x_k) · R`, the operator's own gradient, which sums to 1.

    So the logarithm and the exponentials pass relevance, and the sum shares it. Where a constant is among the `x_i`, it
    keeps its share.
    """

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.read(*self.sources, *((node,) if "c" in self.forms else ()))
        self.emits = R

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "R"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (ZeroRule, EpsilonRule)):
            raise cannot_serve(node, rule, "a soft maximum has no weights; use ZeroRule().")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        relevance = tape.total(self.node, message)
        shares = tape.adjoint(self.node, self.sources, Message(R=relevance), linear=False)
        if len(self.sources) < len(self.node.all_input_nodes):
            given = [share.R for share in shares if share.R is not None]
            tape.sink(self.node, "constant", lambda: relevance.sum() - sum(part.sum() for part in given))
        return zip(self.sources, shares, strict=True)


class ShareOfWindowStep(Step):
    """NormRule on a pool: `R_i = Σ_j a_i / Σ_{k in window j} a_k · R_j`, as if the pool were a sum."""

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.read(*self.sources, *((node,) if "c" in self.forms else ()))
        self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "R"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if _maximum(node).mean is None:
            raise cannot_serve(node, rule, "only pools over windows can share relevance in proportion; use ZeroRule().")
        if _dilation(node) not in (None, [1], [1, 1], [1, 1, 1], 1):
            raise cannot_serve(node, rule, "a dilated pool cannot share relevance in proportion; use ZeroRule().")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        assert isinstance(self.rule, NormRule)
        (source,) = self.sources
        mean = _maximum(self.node).mean
        assert mean is not None
        z, pull = tape.derivative(lambda a: mean(a, *_window(self.node)), [tape.value(source)])
        denominator = self.rule.modify_denominator(z)
        s = tape.total(self.node, message) / denominator
        tape.sink(self.node, "epsilon", lambda: (denominator - z) * s)
        return [(source, Message(pull(s)[0]))]


def _maximum(node: Node) -> Maximum:
    options = op_of(node).options
    return options if isinstance(options, Maximum) else Maximum()


def _window(node: Node) -> list[Any]:
    """Arguments of the linear pool: kernel, stride, padding, ceil_mode; or output size, or dimensions."""
    rest = list(_own_arguments(node)[1:])
    if not _maximum(node).kernel:
        return rest
    kernel, stride, padding, _, ceil = (rest + [[], 0, 1, False][len(rest) - 1 :])[:5]
    return [kernel, stride or None, padding, ceil]


def _dilation(node: Node) -> Any:
    rest = list(_own_arguments(node)[1:])
    return rest[3] if _maximum(node).kernel and len(rest) > 3 else None


def _own_arguments(node: Node) -> tuple[Any, ...]:
    """The operator's arguments, also where it is called through `part`."""
    return node.args[2:] if node.target is part else node.args
