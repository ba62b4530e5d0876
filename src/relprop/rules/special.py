"""Rules that are no affine formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from relprop.errors import RuleError
from relprop.rules.base import Rule
from relprop.rules.stabilizer import STABILIZER, Stabilizer, stabilize

AttentionMode = Literal["attnlrp", "cp", "half"]
SoftmaxBias = Literal["absorb", "ignore", "distribute", "keep"]
RopeShare = Literal["constant", "half"]


@dataclass(frozen=True, repr=False)
class PassRule(Rule):
    """`R_in = R_out`, for layers with one input, shaped like their output. A layer of another shape is a RuleError."""


@dataclass(frozen=True, repr=False)
class LayerNormRule(Rule):
    """LN-rule for normalizations: mean and standard deviation count as constants (Ali et al. 2022).

    For `y = (a − mean(a)) / σ`: `R_i = a_i (s_i − mean(s))` with `s = R / (a − mean(a))`. The learned scale and shift
    that follow are treated by the 0-rule.
    """

    stabilizer: Stabilizer = field(default=STABILIZER, kw_only=True)

    def modify_denominator(self, z: Tensor) -> Tensor:
        return stabilize(z, self.stabilizer)


@dataclass(frozen=True, repr=False)
class FunctionRule(Rule):
    """A function of the user's, for a module registered as one layer (see `relprop.register_module`).

    Args:
        function: `function(forward, inputs, output, relevance) -> relevance of the inputs`.
    """

    function: Callable[..., Any]


@dataclass(frozen=True, repr=False)
class StopRule(Rule):
    """Relevance stops: the layer's output counts as a constant, as attention weights do in CP-LRP (Ali et al. 2022)."""


@dataclass(frozen=True, repr=False)
class ProductRule(Rule):
    """For products of data with data, `z = Π_k x_k`.

    Args:
        share: `"uniform"`: each of the n factors gets `R/n`; `"signal"`: factors that an activation such as a sigmoid
            or a SiLU computed are gates and get nothing, the others share (Arras et al. 2017, signal takes all). Where
            all are activated, those by a sigmoid or a softmax are the gates: `silu(x) * sigmoid(y)` has the signal x.
        rope: how the products share that a rotary position consists of, `x · cos + rot(x) · sin`: `"constant"`: data
            take all, as in any product with a constant; `"half"`: the position keeps half, in the sink `rotary`
            (PA-LRP, Bakish et al. 2025).
    """

    share: Literal["uniform", "signal"] = "uniform"
    rope: RopeShare = "constant"

    def __post_init__(self) -> None:
        _one_of(self, "share", self.share, ("uniform", "signal"))
        _one_of(self, "rope", self.rope, ("constant", "half"))

    def _shows(self, name: str) -> bool:
        return super()._shows(name) and (name != "rope" or self.rope != "constant")


@dataclass(frozen=True, repr=False)
class SoftmaxRule(Rule):
    """AttnLRP's rule for a softmax `s = softmax(x)`, its Taylor expansion at `x` (Achtibat et al. 2024).

    Args:
        bias: `"absorb"`: `R_i = x_i (R_i − s_i Σ_j R_j)`, the expansion's bias keeps the rest; `"ignore"`: the bias is
            left out of the denominators; `"distribute"`: what it would keep is spread evenly over the inputs; `"keep"`:
            all of it stays here, in the sink `softmax`.
    """

    bias: SoftmaxBias = "absorb"

    def __post_init__(self) -> None:
        if self.bias == "omit":  # type: ignore[comparison-overlap]  # its name before 0.1.0
            raise RuleError('SoftmaxRule: bias="omit" is called "ignore" now, as it is in all other rules.')
        _one_of(self, "bias", self.bias, ("absorb", "ignore", "distribute", "keep"))


@dataclass(frozen=True, repr=False)
class AttentionRule(Rule):
    """For fused attention `softmax(q kᵀ) v`.

    Args:
        mode: `"attnlrp"`: half of the relevance goes to the values, a quarter each is sent through the softmax to
            queries and keys (Achtibat et al. 2024); `"cp"`: attention weights are constants, values take it all (Ali
            et al. 2022); `"half"`: values get their half of the product, attention weights keep theirs in the sink
            `softmax` (the half-rule for gates, Jafari et al. 2024, where the gate is the softmax).
    """

    mode: AttentionMode = "attnlrp"

    def __post_init__(self) -> None:
        _one_of(self, "mode", self.mode, ("attnlrp", "cp", "half"))


def _one_of(rule: Rule, name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RuleError(f"{type(rule).__name__}: {name}={value!r} is none of {', '.join(allowed)}.")
