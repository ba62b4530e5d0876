"""Crops to what a neuron looks at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relprop.concepts.crops import blurred, field_of_view
from relprop.errors import ImageError


def test_the_box_holds_all_that_is_over_the_threshold() -> None:
    """The last row and column, too."""
    relevance = torch.zeros(3, 30, 40)
    relevance[1, 5:9, 36:40] = 1.0
    view = field_of_view(relevance, kernel=1)
    assert (view.rows, view.columns) == ((5, 9), (36, 40))
    assert view.visible.shape == (4, 4)
    assert view.visible.all()


def test_what_mattered_little_is_pale() -> None:
    relevance = torch.zeros(1, 10, 10)
    relevance[0, 2:6, 2:6] = 0.15
    relevance[0, 3, 3] = 1.0
    view = field_of_view(relevance, kernel=1)
    assert (view.rows, view.columns) == ((2, 6), (2, 6))
    assert view.visible.sum() == 1
    part = view.of(np.zeros((10, 10, 3), dtype=np.uint8), alpha=0.4)
    assert part[1, 1].tolist() == [0, 0, 0]
    assert part[0, 0].tolist() == [153, 153, 153]


@pytest.mark.parametrize("kind", ["nothing", "against", "one pixel"])
def test_where_there_is_no_box_it_is_all(kind: str) -> None:
    relevance = torch.zeros(1, 8, 8)
    if kind == "against":
        relevance[0, 3:5, 3:5] = -1.0
    if kind == "one pixel":
        relevance[0, 3, 4] = 1.0
    view = field_of_view(relevance, kernel=1)
    assert (view.rows, view.columns) == ((0, 8), (0, 8))
    assert view.visible.all() == (kind != "one pixel")


def test_the_blur_is_the_gaussian_of_that_width() -> None:
    """σ = 0.3 (9 - 1) + 0.8 = 3.2 for 19 pixels."""
    heat = torch.zeros(60, 60)
    heat[30, 30] = 1.0
    found = blurred(heat, 19)
    places = torch.arange(60) - 30
    weights = torch.exp(-0.5 * (places.double() / 3.2) ** 2) * (places.abs() <= 9)
    weights = weights / weights.sum()
    assert torch.allclose(found, weights[:, None] * weights, atol=1e-12)
    assert torch.allclose(blurred(torch.ones(7, 7), 19), torch.ones(7, 7, dtype=torch.float64))
    assert torch.equal(blurred(torch.rand(224, 300, generator=torch.manual_seed(0))) > 0, torch.ones(224, 300) > 0)


def test_the_kernel_is_in_proportion() -> None:
    for side, kernel in ((224, 19), (64, 5), (8, 1)):
        heat = torch.zeros(side, side)
        heat[side // 2, side // 2] = 1.0
        assert int((blurred(heat)[side // 2] > 0).sum()) == kernel


def test_refusals() -> None:
    with pytest.raises(ImageError, match="odd"):
        blurred(torch.ones(9, 9), 4)
    with pytest.raises(ImageError, match="not of a picture"):
        field_of_view(torch.ones(5, 3))
