"""What the terms of a rule do to inputs, weights and biases, as named functions: `keep`, `positive`, ...

Being named and comparable, they let the engine see that two terms share a modified weight, or that a term vanishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.errors import RuleError

Modifier = Callable[[Tensor], Tensor]
"""What a term makes of its input, weight or bias: a function of one tensor that keeps its shape."""


def keep(t: Tensor) -> Tensor:
    """`t`."""
    return t


def positive(t: Tensor) -> Tensor:
    """`t⁺ = max(t, 0)`."""
    return t.clamp(min=0)


def negative(t: Tensor) -> Tensor:
    """`t⁻ = min(t, 0)`."""
    return t.clamp(max=0)


def absolute(t: Tensor) -> Tensor:
    """`|t|`."""
    return t.abs()


def square(t: Tensor) -> Tensor:
    """`t²`."""
    return t.square()


def ones(t: Tensor) -> Tensor:
    """1, shaped like `t`."""
    return torch.ones_like(t)


@dataclass(frozen=True)
class Boost:
    """`t + γ·t⁺`."""

    gamma: float

    def __call__(self, t: Tensor) -> Tensor:
        return t + self.gamma * positive(t)


@dataclass(frozen=True)
class Combined:
    """`Σ_k coef_k f_k(t)`."""

    summands: tuple[tuple[float, Modifier], ...]

    def __call__(self, t: Tensor) -> Tensor:
        total = torch.zeros_like(t)
        for coefficient, modifier in self.summands:
            total += coefficient * modifier(t)
        return total


@dataclass(frozen=True, eq=False)
class Constant:
    """A fixed value, broadcast to the input's shape: the bounds of the z^B-rule."""

    value: float | Tensor

    def same_for_all(self, dims: int) -> bool:
        """The value does not differ between the samples of an input of so many dimensions, the batch first."""
        return not isinstance(self.value, Tensor) or self.value.dim() < dims or self.value.shape[0] == 1

    def __call__(self, t: Tensor) -> Tensor:
        if not isinstance(self.value, Tensor):  # filled on the device, which nobody has to wait for
            return torch.full((), self.value, dtype=t.dtype, device=t.device).expand_as(t)
        value = self.value.to(dtype=t.dtype, device=t.device)
        try:
            return value.expand_as(t)
        except RuntimeError:
            raise RuleError(
                f"A bound of shape {tuple(value.shape)} does not broadcast to an input of shape {tuple(t.shape)}: give "
                "a number, for bounds per channel a tensor of shape (C, 1, 1) (pictures), (C, 1) (signals) or (F,) "
                "(features), or for bounds per sample the same with the batch in front."
            ) from None


def is_local(modifier: Modifier) -> bool:
    """It makes each entry from that entry alone."""
    if isinstance(modifier, Constant):
        return not isinstance(modifier.value, Tensor) or modifier.value.dim() == 0
    if isinstance(modifier, Combined):
        return all(is_local(summand) for _, summand in modifier.summands)
    return isinstance(modifier, Boost) or modifier in (keep, positive, negative, absolute, square, ones)
