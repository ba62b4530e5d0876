"""How sure a mean is: intervals from samples that are drawn again (Efron 1979)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 1 << 23
"""Numbers that are drawn at once: of many samples a few draws after the other."""


def resampled(tables: Sequence[Tensor], times: int, seed: int) -> list[Tensor]:
    """The means of each table, (M, B), in the same draws, (M, times). Memory does not grow with B times draws."""
    samples, generator = tables[0].shape[1], torch.Generator().manual_seed(seed)
    several: list[list[Tensor]] = [[] for _ in tables]
    for first in range(0, times, max(1, BLOCK // samples)):
        draws = _drawn(samples, min(max(1, BLOCK // samples), times - first), generator)
        for found, table in zip(several, tables, strict=True):
            found.append(means(table, draws))
    return [torch.cat(found, 1) for found in several]


def drawn(samples: int, times: int, seed: int) -> Tensor:
    """How often each sample is drawn, in each of so many draws with replacement, (times, samples)."""
    return _drawn(samples, times, torch.Generator().manual_seed(seed))


def _drawn(samples: int, times: int, generator: torch.Generator) -> Tensor:
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
