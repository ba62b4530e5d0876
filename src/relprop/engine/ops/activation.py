"""Activations and other elementwise functions of one data input: relevance passes, `R_in = R_out`.

In the factored form `R = x·c` the same statement reads `c_in = c_out · f(x) / x`: for ReLU-like functions a mask. At
`x = 0` no relevance sits, but `c` goes on to layers in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, data_inputs, shape_of
from relprop.engine.graph.run import run_node
from relprop.engine.ops.registry import Local, alone, always, everywhere, inherits, op_of, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, R, Tape
from relprop.engine.ops.units import Unit
from relprop.rules import AffineRule, PassRule, Rule


@dataclass(frozen=True)
class Activation:
    """How the factored form goes through.

    Attributes:
        ratio: `"mask"`: `f(x)/x` is 1 where `f(x) ≠ 0`, else 0; `"identity"`: it is 1; `"divide"`: compute it;
            `"none"`: `f(0) ≠ 0`, so there is no factored form.
    """

    ratio: str = "divide"


def _clamped_from_below(node: Node, args: Sequence[bool]) -> bool:
    """`hardtanh(x, min, max)` and `clamp(x, min, max)` with `min >= 0`."""
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val"))
    return isinstance(low, (int, float)) and low >= 0


def _register(names: str, ratio: str, local: Local = alone, **facts: Any) -> None:
    register(names, "activation", local=local, options=Activation(ratio), **facts)


_A = ("ActivationLayer",)

_register("relu", "mask", nonneg=always, gate=1, layers=_A)
_register("dropout", "identity", nonneg=inherits, local=everywhere, layers=("DropoutLayer",))
_register("alpha_dropout feature_dropout native_dropout", "identity", nonneg=inherits, layers=("DropoutLayer",))
# f(0) = 0
_register("relu6", "divide", nonneg=always, layers=_A)
_register("silu gelu tanh hardswish", "divide", nonneg=inherits, gate=1, layers=_A)
_register("leaky_relu prelu elu selu celu mish softsign hardshrink softshrink tanhshrink rrelu", "divide",
          nonneg=inherits, layers=_A)  # fmt: skip
_register("asinh atan sinh expm1 erf sign pow round floor ceil trunc", "divide", nonneg=inherits)
_register("sin tan nan_to_num", "divide")
_register("asin arcsin arctan arcsinh atanh arctanh erfinv special_erf special_erfinv special_expm1 sgn fix frac "
          "deg2rad rad2deg special_round fmod remainder floor_divide", "divide")  # fmt: skip
_register("round_to_steps", "divide", nonneg=inherits)
_register("abs absolute sqrt square", "divide", nonneg=always)
# f(0) may be anything
_register("sigmoid hardsigmoid", "none", nonneg=always, gate=2, layers=_A)
_register("softplus", "none", nonneg=always, layers=_A)
_register("special_expit", "none", nonneg=always, gate=2)
_register("exp exp2 shifted_exponential cosh special_exp2 erfc special_erfc special_ndtr i0 special_i0 special_i0e",
          "none", nonneg=always)  # fmt: skip
_register("acos arccos acosh arccosh atan2 arctan2 copysign power lgamma digamma special_gammaln special_digamma "
          "special_psi special_log_ndtr special_entr special_logit special_log1p sinc special_sinc "
          "clip", "none")  # fmt: skip
_register("hardtanh clamp_min", "none", nonneg=_clamped_from_below, layers=_A)
_register("clamp", "none", nonneg=_clamped_from_below, same_ids=True, layers=_A)
_register("log_sigmoid threshold", "none", layers=_A)
_register("log log2 log10 log1p cos logit clamp_max clip_at_threshold", "none")


class ActivationStep(Step):
    """`R_in = R_out`, in the form that the input likes best."""

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        known = op_of(node).options
        self.ratio = (known if isinstance(known, Activation) else Activation(_ratio_of_unit(node))).ratio
        self.source = self.sources[0]
        same_shape = shape_of(node) == shape_of(self.source)
        self.stays_factored = (
            "c" in self.forms and self.ratio != "none" and plan.prefers[self.source] == "c" and same_shape
        )
        if self.stays_factored:
            self.read(*((node,) if self.ratio == "mask" else ()))
            self.limit = limit_at_zero(node) if self.ratio == "divide" else 0.0
        else:
            self.emits = R
            self.read(*((node,) if "c" in self.forms else ()))

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (AffineRule, PassRule)):
            raise cannot_serve(node, rule, "relevance passes through activations; use PassRule().")

    def run(self, tape: Tape) -> Tensor:
        """Saves the ratio `f(x) / x`, at `x = 0` its limit: one tensor to keep instead of two."""
        value: Tensor = super().run(tape)
        if self.stays_factored and self.ratio == "divide":
            tape.saved[self.node] = self._ratio(value.to(tape.dtype), tape.value(self.source), tape)
        return value

    def _ratio(self, y: Tensor, x: Tensor, tape: Tape) -> Tensor:
        """`y / x`, at `x = 0` its limit."""
        if tape.differentiable:  # the derivative of 0 / 0 is NaN, whatever takes its place
            at_zero = x == 0
            return torch.where(at_zero, self.limit, y / torch.where(at_zero, 1, x))
        return (y / x).nan_to_num_(self.limit)  # much faster on CPUs than to compare x with 0

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        if not self.stays_factored or message.c is None:
            return [(self.source, Message(R=tape.total(self.node, message)))]
        return [(self.source, Message(self._times_slope(message.c, tape), message.R))]

    def _times_slope(self, c: Tensor, tape: Tape) -> Tensor:
        """`c · f(x) / x`."""
        if self.ratio == "identity":
            return c
        if self.ratio == "mask":
            selected: Tensor = torch.ops.aten.threshold_backward(c, tape.value(self.node), 0)  # c where y > 0
            return selected
        ratio = tape.saved[self.node]
        return ratio.mul_(c) if tape.may_overwrite else ratio * c


def limit_at_zero(node: Node) -> float:
    """The limit of `f(x) / x` at `x = 0`, so that an input that is 0 by rounding explains as its neighbours do.

    0 where there is none, as for kinks and steps, and for functions with parameters of their own.
    """
    if len(node.all_input_nodes) != 1 or not callable(node.target):
        return 0.0
    x = 1e-6 * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64, device="cpu")
    ratios = run_node(node, lambda _: x) / x
    limit = ratios.mean()  # of an even number of both signs: the error is of second order
    return float(limit) if bool((ratios - limit).abs().max() < 1e-3) else 0.0


def _ratio_of_unit(node: Node) -> str:
    """A spelled-out activation has a factored form if it is 0 at 0, which can be asked where it has no constants."""
    if not isinstance(node.target, Unit) or len(node.args) != 1:
        return "none"
    return "divide" if not node.target(torch.zeros(1)).any() else "none"


class PassStep(Step):
    """The PassRule on a layer that keeps its shape: `R_in = R_out`, whatever the layer computes."""

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.emits = R
        self.read(*((node,) if self.forms & C else ()))

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "R"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        sources = data_inputs(node)
        if len(sources) != 1 or shape_of(sources[0]) != shape_of(node):
            shapes = " and ".join(str(shape_of(s)) for s in sources)
            raise cannot_serve(node, rule, f"it needs one input shaped like the output {shape_of(node)}, got {shapes}.")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        return [(self.sources[0], Message(R=tape.total(self.node, message)))]
