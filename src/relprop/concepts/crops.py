"""What of a picture a hidden neuron looks at: a crop to its receptive field, as far as it mattered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from relprop.errors import ImageError

KERNEL, OF_SIDE = 19, 224
"""Pixels that relevance is blurred over, in a picture of so many."""


@dataclass(frozen=True)
class Crop:
    """A part of a picture.

    Attributes:
        rows: first row, and the one behind the last. columns: the same.
        visible: the pixels of the part that mattered; the others are shown pale.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    visible: NDArray[np.bool_]

    def of(self, picture: NDArray[np.uint8], alpha: float = 0.3) -> NDArray[np.uint8]:
        """The part of a picture (H, W, 3), what did not matter shining through white.

        Args:
            picture: as the model saw it.
            alpha: how much of what did not matter is left.
        """
        part = picture[slice(*self.rows), slice(*self.columns)].astype(np.float64)
        strength = np.where(self.visible, 1.0, alpha)[..., None]
        shown: NDArray[np.uint8] = (strength * part + (1 - strength) * 255).round().astype(np.uint8)
        return shown


def blurred(heat: Float[Tensor, "H W"], kernel: int | None = None) -> Float[Tensor, "H W"]:
    """A Gaussian blur of `σ = 0.3 ((k - 1) / 2 - 1) + 0.8`, mirrored at the border.

    Args:
        heat: one number per pixel.
        kernel: k, pixels, odd. None: 19 in a picture of 224, and in proportion.

    Raises:
        ImageError: a kernel that is not odd.
    """
    side = min(heat.shape)
    k = 2 * (side * KERNEL // OF_SIDE // 2) + 1 if kernel is None else kernel
    if k < 1 or k % 2 == 0:
        raise ImageError(f"kernel={k}: give an odd number of pixels.")
    half = min(k // 2, side - 1)
    places = torch.arange(-half, half + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (places / (0.3 * (k / 2 - 1.5) + 0.8)) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(heat.double()[None, None], (half,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[0, 0]


def field_of_view(
    relevance: Float[Tensor, "C H W"], *, kernel: int | None = None, threshold: float = 0.1, visible: float = 0.2
) -> Crop:
    """The smallest box around all pixels whose blurred relevance is over a share of its maximum.

    Args:
        relevance: of a picture for one neuron, see `ReferenceSample.field`.
        kernel: as in `blurred`.
        threshold: the share that the box holds. Where it would hold one pixel only, it is the whole picture.
        visible: the share that is shown in full.

    Raises:
        ImageError: relevance that is not of a picture.
    """
    if relevance.dim() != 3:
        raise ImageError(f"Relevance of shape {tuple(relevance.shape)} is not of a picture (C, H, W).")
    heat = blurred(relevance.sum(0), kernel)
    heat = heat / heat.max() if heat.max() > 0 else torch.ones_like(heat)
    inside = heat > threshold
    rows, columns = _extent(inside.any(1)), _extent(inside.any(0))
    if (rows[1] - rows[0]) * (columns[1] - columns[0]) <= 1:
        rows, columns = (0, heat.shape[0]), (0, heat.shape[1])
    return Crop(rows, columns, (heat > visible)[slice(*rows), slice(*columns)].numpy())


def _extent(hit: Tensor) -> tuple[int, int]:
    """First place that is hit, and the one behind the last."""
    places = hit.nonzero()[:, 0].tolist()
    return places[0], places[-1] + 1
