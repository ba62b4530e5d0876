"""How sure a mean is: intervals from samples that are drawn again (Efron 1979)."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn(samples: int, times: int, seed: int) -> Tensor:
    """How often each sample is drawn, in each of so many draws with replacement, (times, samples)."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(samples, (times, samples), generator=generator)
    return torch.zeros(times, samples, dtype=torch.float64).scatter_add_(
        1, picks, torch.ones_like(picks, dtype=torch.float64)
    )


def means(scores: Tensor, draws: Tensor) -> Tensor:
    """The mean of each row of scores, (M, B), in each draw, (M, times). NaN: a sample that has no score.

    Rows see the same draws, so that their differences vary as those of paired samples do.
    """
    known, scores = ~scores.isnan(), scores.double()
    return (scores.nan_to_num(0.0) @ draws.T) / (known.double() @ draws.T)


def interval(found: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """The middle part of each row, (M, times), as its lower and upper end, (M,)."""
    outside = (1 - confidence) / 2
    ends = torch.tensor([outside, 1 - outside], dtype=found.dtype)
    low, high = found.nanquantile(ends, dim=1)
    return low, high
