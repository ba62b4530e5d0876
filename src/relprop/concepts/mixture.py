"""Gaussian mixtures with diagonal covariances, in float64, the same for the same seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import InputError


@dataclass(frozen=True)
class Mixture:
    """`p(x) = Σ_m w_m N(x; μ_m, diag v_m)`, of n components in f dimensions.

    Full covariances would be singular: layers have more features than classes have samples.

    Attributes:
        weights: w, which add up to 1.
        means: μ.
        variances: v.
    """

    weights: Float[Tensor, " n"]
    means: Float[Tensor, "n f"]
    variances: Float[Tensor, "n f"]

    def joint(self, x: Float[Tensor, "B f"]) -> Float[Tensor, "B n"]:
        """`log w_m N(x; μ_m, v_m)`."""
        x = x.double()
        exponents = [
            ((x - mean).square() / v + v.log()).sum(1) for mean, v in zip(self.means, self.variances, strict=True)
        ]
        constant = x.shape[1] * math.log(2 * math.pi)
        return self.weights.log() - (torch.stack(exponents, 1) + constant) / 2

    def log_density(self, x: Float[Tensor, "B f"]) -> Float[Tensor, " B"]:
        """`log p(x)`."""
        return self.joint(x).logsumexp(1)

    def nearest(self, x: Float[Tensor, "B f"]) -> Int[Tensor, " B"]:
        """The component that each x most likely is of."""
        return self.joint(x).argmax(1)

    @classmethod
    def fit(
        cls, x: Float[Tensor, "N f"], n: int, *, floor: float = 1e-2, seed: int = 0, restarts: int = 4, steps: int = 200
    ) -> Mixture:
        """Maximum likelihood by expectation maximization from k-means++ centres, the best of several starts.

        Args:
            x: samples.
            n: components.
            floor: the least variance of a feature, as a share of the mean variance of all.
            seed: of the starts.
            restarts: how many there are.
            steps: of each at most.

        Raises:
            InputError: there are fewer samples than components, or all are the same.
        """
        x = x.double()
        variance = float(x.var(0, unbiased=False).mean()) if len(x) else 0.0
        if len(x) < n or not variance > 0:
            raise InputError(f"{len(x)} vectors, of mean variance {variance:.2g}, are too few for {n} prototypes.")
        generator = torch.Generator().manual_seed(seed)
        found = [cls._climbed(x, _centres(x, n, generator), floor * variance, steps) for _ in range(restarts)]
        return max(found, key=lambda mixture: float(mixture.log_density(x).mean()))

    @classmethod
    def _climbed(cls, x: Tensor, centres: Tensor, least: float, steps: int) -> Mixture:
        n = len(centres)
        share = torch.nn.functional.one_hot(torch.cdist(x, centres).argmin(1), n).double()
        before = -math.inf
        for _ in range(steps):
            mixture = cls._of(x, share, least)
            joint = mixture.joint(x)
            now = float(joint.logsumexp(1).mean())
            if now - before < 1e-7 * abs(now):
                break
            before, share = now, joint.softmax(1)
        return mixture

    @classmethod
    def _of(cls, x: Tensor, share: Float[Tensor, "N n"], least: float) -> Mixture:
        """The most likely one, given which share of each sample is of which component."""
        count = share.sum(0).clamp(min=1e-8)
        means = share.T @ x / count[:, None]
        spread = [s @ (x - mean).square() / c for s, mean, c in zip(share.T, means, count, strict=True)]
        return cls(count / count.sum(), means, torch.stack(spread).clamp(min=least))


def _centres(x: Float[Tensor, "N f"], n: int, generator: torch.Generator) -> Float[Tensor, "n f"]:
    """k-means++: each centre a sample, drawn by its squared distance to the nearest centre so far."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    while len(chosen) < n:
        distance = torch.cdist(x, x[chosen]).amin(1).square()
        chosen.append(int(torch.multinomial(distance + 1e-300, 1, generator=generator)))
    return x[chosen]
