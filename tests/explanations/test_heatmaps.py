"""Pictures of relevance: every colour stands for a number, and the same number has the same colour."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from relprop.errors import ImageError, MissingExtraError
from relprop.explanations.heatmaps import REDUCTIONS, heatmap, overlay, reduce, terminal


def pixels(image):
    return np.asarray(image).tolist()


def colour(level, cmap="seismic"):
    """The 8-bit colour that matplotlib has at a level in [0, 1]."""
    return [round(255 * channel) for channel in matplotlib.colormaps[cmap](float(level))[:3]]


# --- reduce ---

# Two channels of one row of three pixels: (3, 4), (1, -1), (-2, 0).
CHANNELS = torch.tensor([[[3.0, 1.0, -2.0]], [[4.0, -1.0, 0.0]]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sum", [7.0, 0.0, -2.0]),
        ("abs", [7.0, 2.0, 2.0]),
        ("abs_sum", [7.0, 0.0, 2.0]),
        ("norm", [5.0, 2**0.5, 2.0]),
        ("max_abs", [4.0, 1.0, 2.0]),
    ],
)
def test_reduce_by_hand(how, expected):
    torch.testing.assert_close(reduce(CHANNELS, how), torch.tensor([expected]))
    batch = torch.stack([CHANNELS, 2 * CHANNELS])
    torch.testing.assert_close(
        reduce(batch, how), torch.tensor([[expected], [[2 * e for e in expected]]]).reshape(2, 1, 3)
    )


def test_the_table_above_has_every_reduction():
    assert set(REDUCTIONS) == {"sum", "abs", "abs_sum", "norm", "max_abs"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_float32(dtype):
    # 2048 + 1 is 2048 in float16, and 256 + 1 is 256 in bfloat16
    large = 2048.0 if dtype is torch.float16 else 256.0
    relevance = torch.tensor([large, 1.0, 1.0, 1.0], dtype=dtype).reshape(4, 1, 1)
    assert reduce(relevance).item() == large + 3


def test_reduce_names_the_choices():
    with pytest.raises(ImageError, match=r"unknown reduction 'mean'; choose one of sum, abs, abs_sum, norm, max_abs"):
        reduce(CHANNELS, "mean")
    with pytest.raises(ImageError, match=r"not \(3, 4\)"):
        reduce(torch.zeros(3, 4))


# --- heatmap: numbers to colours ---


def test_centered_scale_by_hand():
    # The largest magnitude is 2, so -2, -1, 0, 1 lie at (R / 2 + 1) / 2 = 0, 0.25, 0.5, 0.75.
    relevance = torch.tensor([[-2.0, -1.0, 0.0, 1.0]])
    assert pixels(heatmap(relevance)) == [[colour(0), colour(0.25), colour(0.5), colour(0.75)]]


def test_extrema_scale_by_hand():
    relevance = torch.tensor([[-1.0, 0.0, 3.0]])
    expected = [[colour(0, "viridis"), colour(0.25, "viridis"), colour(1, "viridis")]]
    assert pixels(heatmap(relevance, scale="extrema", cmap="viridis")) == expected


def test_zero_is_neutral_whatever_else_there_is():
    for relevance in (torch.tensor([[0.0, 5.0]]), torch.tensor([[0.0, -1e-30]]), torch.zeros(1, 2)):
        assert pixels(heatmap(relevance))[0][0] == colour(0.5)


def test_no_relevance_is_a_picture_without_colour():
    neutral = colour(0.5)
    assert pixels(heatmap(torch.zeros(3, 2, 2))) == [[neutral, neutral], [neutral, neutral]]
    assert pixels(heatmap(torch.zeros(3, 1, 1), scale="extrema")) == [[colour(0)]]


@pytest.mark.parametrize("factor", [1e-42, 7.0, 1e42])
def test_the_unit_of_relevance_does_not_matter(factor):
    relevance = torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert pixels(heatmap(factor * relevance)) == pixels(heatmap(relevance))


def test_clip_gives_the_end_colour_to_what_lies_beyond():
    # 99 pixels of 1 and one of 1000: alone it would leave all others at 1/1000 of the scale.
    relevance = torch.ones(10, 10)
    relevance[0, 0] = 1000.0
    assert pixels(heatmap(relevance))[5][5] == colour(0.5 + 0.5 / 1000)
    clipped = pixels(heatmap(relevance, clip=95))
    assert clipped[5][5] == clipped[0][0] == colour(1)


def test_clip_keeps_sparse_relevance():
    # The 99th percentile of |R| is 0 here, and says nothing about the only pixel that has relevance.
    relevance = torch.zeros(100, 100)
    relevance[3, 4], relevance[7, 7] = 2.0, -1.0
    drawn = pixels(heatmap(relevance, clip=99))
    assert (drawn[3][4], drawn[7][7], drawn[0][0]) == (colour(1), colour(0.25), colour(0.5))


def test_gamma_lifts_weak_relevance_of_both_signs():
    relevance = torch.tensor([[1.0, 0.25, -0.25]])
    assert pixels(heatmap(relevance, gamma=0.5)) == [[colour(1), colour(0.75), colour(0.25)]]


def test_a_shared_scale_compares_pictures():
    relevance = torch.tensor([[[[1.0]]], [[[4.0]]]])
    assert [pixels(image) for image in heatmap(relevance)] == [[[colour(1)]], [[colour(1)]]]
    assert [pixels(image) for image in heatmap(relevance, shared=True)] == [[[colour(0.625)]], [[colour(1)]]]


# --- heatmap: shapes and sizes ---


def test_a_batch_gives_a_list_and_one_sample_a_picture():
    assert isinstance(heatmap(torch.ones(4, 5)), Image.Image)
    assert heatmap(torch.ones(3, 4, 5)).size == (5, 4)
    assert [image.size for image in heatmap(torch.ones(1, 3, 4, 5))] == [(5, 4)]
    assert len(heatmap(torch.ones(2, 3, 4, 5))) == 2


def test_enlarging_repeats_pixels():
    relevance = torch.tensor([[1.0, -1.0]])
    small, large = pixels(heatmap(relevance)), pixels(heatmap(relevance, size=(3, 6)))
    assert large == [[small[0][0]] * 3 + [small[0][1]] * 3] * 3


def test_shrinking_averages_so_that_no_relevance_is_dropped():
    # One of four pixels has relevance 1: its block has 1/4, the other -1/2.
    relevance = torch.tensor([[1.0, 0.0, -1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    assert pixels(heatmap(relevance, size=(1, 2))) == [[colour(0.5 + 0.5 * 0.5), colour(0)]]


def test_size_of_the_shorter_side_keeps_the_aspect_ratio():
    assert heatmap(torch.ones(20, 10), size=30).size == (30, 60)
    assert heatmap(torch.ones(20, 10), size=5, resample="bicubic").size == (5, 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_dtype_draws_the_same(dtype):
    relevance = torch.tensor([[[1.0, -0.5], [0.25, 0.0]]])  # exact in each of them
    assert pixels(heatmap(relevance.to(dtype))) == pixels(heatmap(relevance))


def test_relevance_in_an_autograd_graph_is_drawn_and_left_alone():
    relevance = torch.tensor([[1.0, -2.0]], requires_grad=True)
    heatmap(relevance * 1.0)
    assert relevance.tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize(
    ("relevance", "options", "message"),
    [
        (torch.tensor([[1.0, float("nan")]]), {}, "1 of 2 relevance values are NaN or infinite"),
        (torch.tensor([[float("inf")]]), {}, "NaN or infinite"),
        (torch.zeros(4), {}, r"shape \(4\)"),
        (torch.zeros(1, 1, 1, 1, 1), {}, r"\(1, 1, 1, 1, 1\)"),
        (torch.zeros(0, 3, 4, 4), {}, "empty"),
        (torch.zeros(2, 2, dtype=torch.int64), {}, "torch.int64"),
        (np.zeros((2, 2)), {}, "ndarray"),
        (torch.zeros(2, 2), {"cmap": "seismicc"}, "unknown colormap 'seismicc'; did you mean seismic"),
        (torch.zeros(2, 2), {"reduce": "mean"}, "unknown reduction 'mean'"),
        (torch.zeros(2, 2), {"scale": "log"}, "unknown scale 'log'; choose one of centered, extrema"),
        (torch.zeros(2, 2), {"size": 4, "resample": "cubic"}, "unknown resampling 'cubic'; .*nearest, bicubic"),
        (torch.zeros(2, 2), {"clip": 0}, "percentile"),
        (torch.zeros(2, 2), {"clip": 101}, "percentile"),
        (torch.zeros(2, 2), {"gamma": 0}, "gamma must be positive"),
        (torch.zeros(2, 2), {"size": (0, 4)}, "at least one pixel"),
    ],
)
def test_errors_name_the_culprit(relevance, options, message):
    with pytest.raises(ImageError, match=message):
        heatmap(relevance, **options)


# --- overlay ---


@pytest.fixture
def photograph():
    rows, columns = np.mgrid[0:8, 0:6]
    return Image.fromarray(np.stack([rows * 30, columns * 40, rows * 10], -1).astype(np.uint8))


def test_without_relevance_the_overlay_has_no_colour_but_shows_the_picture(photograph):
    drawn = np.asarray(overlay(photograph, torch.zeros(3, 8, 6))).astype(int)
    assert (drawn[..., 0] == drawn[..., 1]).all()
    assert (drawn[..., 1] == drawn[..., 2]).all()
    grey = np.asarray(photograph.convert("L")).astype(int)
    assert np.corrcoef(drawn[..., 0].ravel(), grey.ravel())[0, 1] > 0.999


def test_more_relevance_hides_more_of_the_picture():
    flat = Image.new("RGB", (4, 1), "grey")
    drawn = np.asarray(overlay(flat, torch.tensor([[0.0, 0.2, 0.5, 1.0]]))).astype(int)
    distance = np.abs(drawn - drawn[0, 0]).sum(-1)[0]
    assert (np.diff(distance) > 0).all()


def test_the_sign_decides_the_colour():
    drawn = pixels(overlay(Image.new("RGB", (2, 1), "grey"), torch.tensor([[1.0, -1.0]])))
    (red, _, blue), (red_against, _, blue_against) = drawn[0]
    assert red > blue + 50
    assert blue_against > red_against + 50


def test_alpha_1_shows_the_bare_colour_where_relevance_is_strongest():
    drawn = pixels(overlay(Image.new("RGB", (2, 1), "black"), torch.tensor([[1.0, 0.0]]), alpha=1.0))
    assert drawn[0][0] == colour(1)


def test_overlay_has_the_size_of_the_picture_unless_told_otherwise(photograph):
    relevance = torch.ones(3, 4, 3)
    assert overlay(photograph, relevance).size == photograph.size
    assert overlay(photograph, relevance, size=(16, 12)).size == (12, 16)
    batch = overlay([photograph, photograph], torch.ones(2, 3, 8, 6))
    assert [image.size for image in batch] == [photograph.size] * 2


def test_overlay_refuses_what_does_not_lie_on_the_picture(photograph):
    with pytest.raises(ImageError, match=r"6 x 8 \(width x height\), relevance 8 x 8"):
        overlay(photograph, torch.ones(3, 8, 8))
    with pytest.raises(ImageError, match="2 pictures for relevance of 1"):
        overlay([photograph] * 2, torch.ones(1, 3, 8, 6))
    with pytest.raises(ImageError, match="opacity"):
        overlay(photograph, torch.ones(3, 8, 6), alpha=1.5)


# --- terminal ---


def test_a_cell_shows_two_pixels():
    relevance = torch.tensor([[1.0, -1.0], [0.0, 0.5]])
    text = terminal(relevance, width=2)
    assert text.plain == "▀▀"
    shown = [(list(span.style.color.triplet), list(span.style.bgcolor.triplet)) for span in text.spans]
    assert shown == [(colour(1), colour(0.5)), (colour(0), colour(0.75))]


def test_terminal_pictures_are_as_wide_as_asked(photograph):
    for picture in (photograph, torch.ones(3, 8, 6)):
        lines = terminal(picture, width=12).plain.split("\n")
        assert [len(line) for line in lines] == [12] * 8  # twice as wide as the picture, two rows to a line
    with pytest.raises(ImageError, match="index it first"):
        terminal(torch.ones(1, 3, 8, 6))
    with pytest.raises(ImageError, match="width"):
        terminal(photograph, width=0)


# --- optional packages ---


@pytest.mark.parametrize("package", ["PIL", "matplotlib"])
def test_a_missing_package_says_how_to_get_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what makes `import` fail
    with pytest.raises(MissingExtraError, match=r"pip install 'relprop\[images\]'"):
        heatmap(torch.ones(2, 2))


def test_importing_relprop_imports_no_optional_package():
    code = (
        "import sys, relprop, relprop.explanations.heatmaps, relprop.models, relprop.cli\n"
        "optional = {'PIL', 'matplotlib', 'torchvision', 'timm', 'transformers', 'typer', 'safetensors'}\n"
        "print(sorted(optional & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
