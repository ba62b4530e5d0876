"""Analyzers that average another one's answers: over noise, and over the way from a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relprop.analyzers.gradient import Function, FunctionAnalyzer, gradient
from relprop.errors import InputError
from relprop.targets import Seed


class SmoothGrad(FunctionAnalyzer):
    """`R = 1/n Σ_k ∂y(x + ε_k)/∂x` with `ε_k ~ N(0, (noise · (max x − min x))²)` (Smilkov et al. 2017).

    The explained entry is that of the input without noise.

    Args:
        samples: n. noise: the standard deviation, as a share of each sample's range.
        seed: of the random numbers, so that answers repeat.
        options: those of `Analyzer`.
    """

    def __init__(
        self, model: nn.Module, *, samples: int = 25, noise: float = 0.15, seed: int = 0, **options: Any
    ) -> None:
        if samples < 1 or noise < 0:
            raise InputError(f"SmoothGrad takes samples >= 1 and noise >= 0, got samples={samples}, noise={noise}.")
        super().__init__(model, **options)
        self.samples, self.noise, self.seed = samples, noise, seed

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        generator = torch.Generator(device=inputs[0].device).manual_seed(self.seed)
        fixed = _fixed(seed, function, inputs)
        totals = [torch.zeros_like(x) for x in inputs]
        for _ in range(self.samples):
            noisy = [x + self._deviation(x) * _normal(x, generator) for x in inputs]
            for total, g in zip(totals, gradient(function, noisy, fixed), strict=True):
                total += g / self.samples
        return totals

    def _deviation(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        spread = flat.amax(1) - flat.amin(1)
        return self.noise * spread.reshape(-1, *[1] * (x.dim() - 1))


class IntegratedGradients(FunctionAnalyzer):
    """`R_i = (x_i − r_i) ∫₀¹ ∂y(r + t (x − r))/∂x_i dt`, by the midpoint rule (Sundararajan et al. 2017).

    Sums to `y(x) − y(r)`, but for what the rule misses of the integral.

    Args:
        reference: r, a number or a tensor that broadcasts to the inputs.
        steps: points of the midpoint rule.
        options: those of `Analyzer`.
    """

    def __init__(self, model: nn.Module, *, reference: Tensor | float = 0.0, steps: int = 50, **options: Any) -> None:
        if steps < 1:
            raise InputError(f"IntegratedGradients takes steps >= 1, got {steps}.")
        super().__init__(model, **options)
        self.reference, self.steps = reference, steps

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        fixed = _fixed(seed, function, inputs)
        starts = [torch.as_tensor(self.reference, dtype=x.dtype, device=x.device).expand_as(x) for x in inputs]
        totals = [torch.zeros_like(x) for x in inputs]
        for k in range(self.steps):
            t = (k + 0.5) / self.steps
            between = [r + t * (x - r) for x, r in zip(inputs, starts, strict=True)]
            for total, g in zip(totals, gradient(function, between, fixed), strict=True):
                total += g / self.steps
        return [(x - r) * total for x, r, total in zip(inputs, starts, totals, strict=True)]


def _fixed(seed: Seed, function: Function, inputs: Sequence[Tensor]) -> Seed:
    """The seed that explains, at other inputs too, what it explains at these."""
    return Seed(seed.target.held(function(inputs)), seed.normalize)


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
