"""Rules that are no affine formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from relprop.rules.base import Rule
from relprop.rules.stabilizer import Stabilizer


@dataclass(frozen=True, repr=False)
class PassRule(Rule):
    """`R_in = R_out`, for layers that keep the shape."""


@dataclass(frozen=True, repr=False)
class LayerNormRule(Rule):
    """LN-rule for normalizations: mean and standard deviation count as constants (Ali et al. 2022).

    For `y = (a − mean(a)) / σ`: `R_i = a_i (s_i − mean(s))` with `s = R / (a − mean(a))`. The learned scale and shift
    that follow are treated by the 0-rule.
    """

    stabilizer: Stabilizer = field(default=1e-9, kw_only=True)


@dataclass(frozen=True, repr=False)
class FunctionRule(Rule):
    """A function of the user's, for a module registered as one layer (see `relprop.register_module`).

    Args:
        function: `function(forward, inputs, output, relevance) -> relevance of the inputs`.
    """

    function: Callable[..., Any]
