"""Means over changed inputs: with noise, and on the way from a reference; the gradients that are averaged so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relprop.analyzers.gradient import Function, FunctionAnalyzer, gradient
from relprop.errors import InputError
from relprop.targets import Seed

Reference = Tensor | float | Sequence[Tensor | float]
"""What inputs are compared with: a number or a tensor that broadcasts to each, or one for each of them."""


class SmoothGrad(FunctionAnalyzer):
    """`R = 1/n Σ_k ∂y(x + ε_k)/∂x` with `ε_k ~ N(0, (noise · (max x − min x))²)` (Smilkov et al. 2017).

    The explained entry is that of the input without noise. `NoiseAugmentation` of `Gradient`, for embeddings too.

    Args:
        samples: n. noise: the standard deviation, as a share of each sample's range.
        seed: of the random numbers, so that answers repeat. All samples of a batch get the same.
        options: those of `Analyzer`.
    """

    multiplies_by_inputs: bool = False

    def __init__(
        self, model: nn.Module, *, samples: int = 25, noise: float = 0.15, seed: int = 0, **options: Any
    ) -> None:
        check_noise(type(self).__name__, samples, noise)
        super().__init__(model, **options)
        self.samples, self.noise, self.seed = samples, noise, seed

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        output = function(inputs)
        fixed, batch = held(seed, output), output.shape[0]
        changed = noisy(inputs, batch, self.samples, self.noise, self.seed)
        return mean(gradient(function, each, fixed) for each in changed)


class IntegratedGradients(FunctionAnalyzer):
    """`R_i = (x_i − r_i) ∫₀¹ ∂y(r + t (x − r))/∂x_i dt`, by the midpoint rule (Sundararajan et al. 2017).

    Sums to `y(x) − y(r)`, but for what the rule misses of the integral. `InterpolationAugmentation` of `Gradient`, for
    embeddings too.

    Args:
        reference: r, a number or a tensor that broadcasts to the inputs, or one for each of several inputs.
        steps: points of the midpoint rule.
        options: those of `Analyzer`.
    """

    def __init__(self, model: nn.Module, *, reference: Reference = 0.0, steps: int = 50, **options: Any) -> None:
        check_steps(type(self).__name__, steps)
        super().__init__(model, **options)
        self.reference, self.steps = reference, steps

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        fixed, starts = held(seed, function(inputs)), references(self.reference, inputs)
        found = mean(gradient(function, each, fixed) for each in between(inputs, starts, self.steps))
        return [(x - r) * g for x, r, g in zip(inputs, starts, found, strict=True)]


def noisy(inputs: Sequence[Tensor], batch: int, samples: int, noise: float, seed: int) -> Iterator[list[Tensor]]:
    """Inputs with normal noise, so many times; drawn on the CPU, so that every device has the same.

    Args:
        inputs: floating point, (B, ...) each.
        batch: B. All samples get the same noise, times their own range, so that a batch's answers are those of its
            samples alone. Inputs of another first dimension, such as the instances of a bag, get noise everywhere.
        samples: how often.
        noise: the standard deviation, as a share of each sample's range.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    deviations = [noise * _range(x) for x in inputs]
    for _ in range(samples):
        changed = []
        for x, deviation in zip(inputs, deviations, strict=True):
            shape = x.shape[1:] if x.shape[0] == batch else x.shape
            changed.append(x + deviation * torch.randn(shape, generator=generator).to(x))
        yield changed


def between(inputs: Sequence[Tensor], starts: Sequence[Tensor], steps: int) -> Iterator[list[Tensor]]:
    """`r + t (x − r)` at the middles of so many equal steps of t from 0 to 1."""
    for k in range(steps):
        t = (k + 0.5) / steps
        yield [r + t * (x - r) for x, r in zip(inputs, starts, strict=True)]


def references(given: Reference, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The reference of each input, in its shape.

    Raises:
        InputError: there are more or fewer, or one does not broadcast.
    """
    several = list(given) if isinstance(given, (tuple, list)) else [given] * len(inputs)
    if len(several) != len(inputs):
        raise InputError(f"There are {len(several)} references for {len(inputs)} inputs: give one, or one for each.")
    tensors = [torch.as_tensor(r, dtype=x.dtype, device=x.device) for r, x in zip(several, inputs, strict=True)]
    for r, x in zip(tensors, inputs, strict=True):
        if r.dim() > x.dim() or any(
            n not in (1, m) for n, m in zip(reversed(r.shape), reversed(x.shape), strict=False)
        ):
            raise InputError(f"A reference of shape {tuple(r.shape)} does not broadcast to an input {tuple(x.shape)}.")
    return [r.expand_as(x) for r, x in zip(tensors, inputs, strict=True)]


def mean(several: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Of tensors in lists, entry by entry."""
    totals: list[Tensor] = []
    count = 0
    for each in several:
        totals = [total + x for total, x in zip(totals, each, strict=True)] if totals else list(each)
        count += 1
    return [total / count for total in totals]


def held(seed: Seed, output: Tensor) -> Seed:
    """The seed that explains, at other outputs too, what it explains at this one."""
    return Seed(seed.target.held(output), seed.normalize)


def check_noise(name: str, samples: int, noise: float) -> None:
    """Raise `InputError` for numbers of samples, or noise, that cannot be."""
    if samples < 1 or noise < 0:
        raise InputError(f"{name} takes samples >= 1 and noise >= 0, got samples={samples}, noise={noise}.")


def check_steps(name: str, steps: int) -> None:
    """Raise `InputError` for a number of steps that cannot be."""
    if steps < 1:
        raise InputError(f"{name} takes steps >= 1, got {steps}.")


def _range(x: Tensor) -> Tensor:
    """Largest less smallest entry of each sample, shaped to multiply it."""
    flat = x.reshape(x.shape[0], -1)
    return (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (x.dim() - 1))
