"""Whether relevance lies where it should: inside what is known to matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relprop.explanations.heatmaps import reduce


@dataclass(frozen=True)
class Share:
    """How much of the positive relevance lies inside the artefact, and how much of the picture that covers.

    Without any positive relevance, `relevance` is None.
    """

    relevance: float | None
    area: float


def positive_share(relevance: Tensor, mask: NDArray[np.bool_]) -> Share:
    """`Σ_{p in mask} R_p⁺ / Σ_p R_p⁺`, `R_p` summed over the channels of (C, H, W), and `|mask| / (H W)`."""
    positive = reduce(relevance, "sum").double().clamp(min=0)
    total = float(positive.sum())
    inside = float(positive[torch.from_numpy(mask)].sum())
    return Share(inside / total if total > 0 else None, float(mask.mean()))
