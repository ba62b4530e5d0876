"""Where relevance lies, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relprop.errors import InputError
from relprop.evaluation.localization import (
    Share,
    grid_pointing,
    mass_accuracy,
    mosaic,
    pointing_game,
    positive_share,
    rank_accuracy,
)


def test_positive_share_by_hand():
    # summed over channels: [[4, -1], [1, 3]]; the mask holds the 3 of 4 + 1 + 3 = 8, and 1 of 4 pixels
    relevance = torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[2.0, -2.0], [0.0, 0.0]]])
    mask = np.array([[False, False], [False, True]])
    assert positive_share(relevance, mask) == Share(3 / 8, 1 / 4)
    assert positive_share(-relevance.abs(), mask).relevance is None


RELEVANCE = torch.tensor([[[3.0, 1.0], [-8.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[-1.0, -1.0], [-1.0, -2.0]]])
MASKS = torch.tensor([[[1, 0], [1, 0]], [[1, 0], [0, 0]], [[1, 1], [0, 0]]]).bool()


def test_mass_by_hand():
    # 3 of 3 + 1, the negative 8 does not count; 1 of 4; no positive relevance
    found = mass_accuracy(RELEVANCE, MASKS)
    assert found[:2].tolist() == [3 / 4, 1 / 4]
    assert found[2].isnan()
    assert mass_accuracy(RELEVANCE[:1], torch.zeros(1, 2, 2).bool()).isnan().all(), "an empty mask has no share"


def test_rank_by_hand():
    # the top 2 are 3 and 1, one of them in the mask; the top 1 is any of four; the top 2 are two of three that tie
    assert rank_accuracy(RELEVANCE, MASKS).tolist() == pytest.approx([1 / 2, 1 / 4, (2 * 2 / 3) / 2])
    assert rank_accuracy(MASKS.double(), MASKS).tolist() == [1, 1, 1]
    assert rank_accuracy(-MASKS.double(), MASKS)[0].item() == 0


def test_pointing_by_hand():
    assert pointing_game(RELEVANCE, MASKS).tolist() == pytest.approx([1, 1 / 4, 2 / 3])
    far = torch.zeros(1, 9, 9)
    far[0, 4, 4] = 1
    mask = torch.zeros(1, 9, 9).bool()
    mask[0, 4, 7] = True
    assert [pointing_game(far, mask, t).item() for t in (0, 2, 3)] == [0, 0, 1]
    assert pointing_game(far, torch.zeros(1, 9, 9).bool(), 3).isnan()


def test_channels_are_summed_with_their_sign():
    relevance = torch.tensor([[[[2.0, 0.0]], [[-1.0, 1.0]]]])  # 1 and 1
    assert mass_accuracy(relevance, torch.tensor([[[True, False]]])).item() == 1 / 2


def test_mosaics_and_pointing_in_their_grid():
    pictures = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 2, 3)
    whole = mosaic(pictures)
    assert whole[0, 0].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2
    found = grid_pointing(whole.expand(4, 1, 4, 6), torch.arange(4))  # 0, 1, 2, 3 of 6
    assert found.tolist() == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6])
    assert grid_pointing(torch.ones(1, 6, 6), torch.tensor([4]), 3).item() == pytest.approx(1 / 9)
    assert grid_pointing(-torch.ones(1, 4, 4), torch.tensor([0])).item() == 0
    with pytest.raises(InputError, match="cells of one size"):
        grid_pointing(torch.ones(1, 5, 4), torch.tensor([0]))
    with pytest.raises(InputError, match="do not fill"):
        mosaic(pictures[:3])


def test_a_model_of_cells_explains_them_wholly():
    """A head that reads one cell, which an explanation has to find, and a uniform one does not."""
    x = mosaic(torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.1)
    weight = torch.zeros(4, 1, 4, 4)
    for cell in range(4):
        weight[cell, :, 2 * (cell // 2) :, 2 * (cell % 2) :][:, :2, :2] = 1
    truth = x[:, None] * weight  # of sample n and class k
    cells = torch.arange(4).repeat(2)
    assert grid_pointing(truth.flatten(0, 1), cells).tolist() == [1.0] * 8
    assert grid_pointing(torch.ones(8, 1, 4, 4), cells).tolist() == [1 / 4] * 8


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        mass_accuracy(RELEVANCE, torch.ones(3, 3, 3).bool())
