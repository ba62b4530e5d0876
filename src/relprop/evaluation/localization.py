"""Whether relevance lies where it should: inside what is known to matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from relprop.errors import InputError
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


def mass_accuracy(relevance: Tensor, masks: Tensor) -> Tensor:
    """`Σ_{p in mask} R_p⁺ / Σ_p R_p⁺` of each sample, (B,), relevance mass accuracy (Arras et al. 2022).

    Args:
        relevance: (B, C, H, W), summed over channels, or (B, *places).
        masks: bool, (B, *places).

    Returns:
        NaN for samples without positive relevance, and for those whose mask is empty.
    """
    positive, masks = _positive(relevance, masks)
    share = (positive * masks).sum(1) / positive.sum(1)
    return share.masked_fill(~masks.any(1), torch.nan)


def rank_accuracy(relevance: Tensor, masks: Tensor) -> Tensor:
    """`|mask ∩ the K most relevant places| / K` of each sample, (B,), K the mask's size (Arras et al. 2022).

    Places with the same relevance count as if drawn at random: each is there with the same probability.

    Args:
        relevance: as in `mass_accuracy`.
        masks: bool, (B, *places).

    Returns:
        NaN for samples whose mask is empty.
    """
    flat, masks = _flat(relevance, masks)
    k = masks.sum(1)
    least = flat.sort(1, descending=True).values.gather(1, (k - 1).clamp(min=0)[:, None])
    above, tied = flat > least, flat == least
    taken = (k - above.sum(1)) / tied.sum(1)
    found = (above & masks).sum(1) + taken * (tied & masks).sum(1)
    return (found / k).masked_fill(k == 0, torch.nan)


def pointing_game(relevance: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """1 for samples whose most relevant place lies in the mask, else 0, (B,) (Zhang et al. 2018).

    Args:
        relevance: as in `mass_accuracy`.
        masks: bool, (B, *places).
        tolerance: of pictures: how many pixels away from the mask is still a hit; 15 in the paper.

    Returns:
        NaN for samples whose mask is empty. Several most relevant places count by the part of them in the mask.
    """
    empty = ~masks.flatten(1).any(1)
    if tolerance:
        rows, columns = torch.meshgrid(*[torch.arange(-tolerance, tolerance + 1)] * 2, indexing="ij")
        disc = (rows**2 + columns**2 <= tolerance**2).to(torch.float32).to(masks.device)
        masks = F.conv2d(masks[:, None].float(), disc[None, None], padding=tolerance)[:, 0] > 0.5
    flat, masks = _flat(relevance, masks)
    top = flat == flat.amax(1, keepdim=True)
    return ((top & masks).sum(1) / top.sum(1)).masked_fill(empty, torch.nan)


def grid_pointing(relevance: Tensor, cells: Tensor, side: int = 2) -> Tensor:
    """`Σ_{p in cell} R_p⁺ / Σ_p R_p⁺` on mosaics, (B,), the grid pointing game (Böhle et al. 2021, Rao et al. 2022).

    Relevance is of the class that is in one cell. `1 / side²` if it lies anywhere alike.

    Args:
        relevance: of mosaics of `side` times `side` pictures.
        cells: the number of the explained cell of each sample, row by row, (B,).
        side: cells in a row.

    Returns:
        0 for samples without positive relevance.
    """
    maps = reduce(relevance, "sum") if relevance.dim() == 4 else relevance
    height, width = maps.shape[1:]
    if height % side or width % side:
        raise InputError(f"relevance {height} by {width} cannot be cut into {side} by {side} cells of one size.")
    rows = torch.arange(height, device=maps.device) // (height // side)
    columns = torch.arange(width, device=maps.device) // (width // side)
    masks = (rows[:, None] * side + columns)[None] == cells.to(maps.device)[:, None, None]
    return mass_accuracy(maps, masks).nan_to_num(0.0)


def mosaic(pictures: Tensor, side: int = 2) -> Tensor:
    """Pictures (N side², C, H, W) as mosaics (N, C, side H, side W), row by row."""
    n, c, h, w = pictures.shape
    if n % side**2:
        raise InputError(f"{n} pictures do not fill mosaics of {side} by {side}.")
    tiles = pictures.reshape(-1, side, side, c, h, w)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, c, side * h, side * w)


def _flat(relevance: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    maps = reduce(relevance, "sum") if relevance.dim() == masks.dim() + 1 else relevance
    if maps.shape != masks.shape:
        raise InputError(
            f"masks of shape {tuple(masks.shape)} do not fit relevance of shape {tuple(relevance.shape)}: give one "
            "bool for each place, (B, *places)."
        )
    return maps.double().flatten(1), masks.to(maps.device).bool().flatten(1)


def _positive(relevance: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    flat, masks = _flat(relevance, masks)
    return flat.clamp(min=0), masks
