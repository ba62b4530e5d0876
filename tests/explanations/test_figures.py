"""Figures: known relevance has the right colours at the right pixels, and each input the form that suits it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from relprop import LRP, Explanation, figures
from relprop.analyzers import Gradient, InputTimesGradient
from relprop.errors import ImageError
from relprop.explanations.figures.axes import BARS, as_picture
from relprop.explanations.figures.plot import CHANNELS, PANELS
from relprop.explanations.figures.view import views_of

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RED, BLUE, WHITE = (128, 0, 0), (0, 0, 77), (255, 255, 255)  # seismic's ends and its middle


def explained(relevance: torch.Tensor, given: torch.Tensor | None = None, **known: object) -> Explanation:
    expl = Explanation(relevance, torch.zeros(len(relevance), dtype=torch.int64), {"x": relevance}, **known)
    expl.__dict__["given"] = {} if given is None else {"x": given}
    return expl


def pixel(figure: Figure, axis: object, x: float, y: float) -> tuple[int, ...]:
    """The colour that is drawn at a place of an axis, in its own coordinates."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())
    column, line = axis.transData.transform((x, y))
    return tuple(int(c) for c in drawn[len(drawn) - 1 - round(line), round(column)][:3])


def near(found: tuple[int, ...], wanted: tuple[int, ...], by: int = 3) -> bool:
    return max(abs(f - w) for f, w in zip(found, wanted, strict=True)) <= by


def one_axis() -> tuple[Figure, object]:
    figure = Figure(figsize=(4, 4))
    return figure, figure.add_subplot()


# --- colours at places ---


def test_a_picture_has_the_right_colours_at_the_right_pixels() -> None:
    relevance = torch.zeros(3, 4)
    relevance[0, 1], relevance[2, 3], relevance[1, 0] = 2.0, -2.0, 1.0
    figure, axis = one_axis()
    figures.picture(axis, relevance)
    assert near(pixel(figure, axis, 1, 0), RED)
    assert near(pixel(figure, axis, 3, 2), BLUE)
    assert near(pixel(figure, axis, 2, 1), WHITE)
    assert near(pixel(figure, axis, 0, 1), (255, 0, 0), 5)  # half of the maximum


def test_heat_over_a_picture_is_clear_where_there_is_no_relevance() -> None:
    relevance, under = torch.zeros(2, 2), np.array([[0, 255], [0, 255]], np.uint8)
    relevance[0, 0] = 1.0
    figure, axis = one_axis()
    figures.picture(axis, relevance, under)
    assert near(pixel(figure, axis, 0, 1), (153,) * 3)  # black, made pale
    assert near(pixel(figure, axis, 1, 1), WHITE)
    red, green, blue = pixel(figure, axis, 0, 0)
    assert red > 100
    assert max(green, blue) < 30


def test_a_curve_is_red_where_it_speaks_for_and_grey_where_it_says_nothing() -> None:
    relevance = torch.zeros(21)
    relevance[3:8], relevance[13:18] = 1.0, -1.0
    figure, axis = one_axis()
    figures.series(axis, torch.ones(21), relevance)
    assert near(pixel(figure, axis, 5, 1), RED, 8)
    assert near(pixel(figure, axis, 15, 1), BLUE, 8)
    silent = min(pixel(figure, axis, 10, 1 + shift) for shift in (-4e-4, 0, 4e-4))  # a thin line, between two pixels
    assert max(silent) - min(silent) < 5
    assert silent[0] < 220


def test_the_colour_of_a_point_reaches_half_way_to_its_neighbours() -> None:
    relevance = torch.zeros(9)
    relevance[4] = 1.0
    _, axis = one_axis()
    figures.series(axis, torch.arange(9.0) ** 2, relevance, time=torch.arange(9.0) / 10)
    (lines,) = axis.collections
    coloured = [k for k, colour in enumerate(lines.get_colors()) if colour[3] > 0]
    assert coloured == [4]
    assert np.allclose(lines.get_segments()[4], [[0.35, 12.5], [0.4, 16.0], [0.45, 20.5]])


def test_bars_have_length_and_colour_of_their_relevance_and_add_up() -> None:
    relevance = torch.linspace(-1, 2, 30)
    figure, axis = one_axis()
    figures.row(axis, relevance, names=[f"f{i}" for i in range(30)], values=torch.arange(30.0))
    lengths = [bar.get_width() for bar in axis.patches]
    assert len(lengths) == BARS + 1
    assert sum(lengths) == pytest.approx(float(relevance.sum()), rel=1e-5)
    assert [label.get_text() for label in axis.get_yticklabels()][:2] == ["f29 = 29", "f28 = 28"]
    assert axis.get_yticklabels()[-1].get_text() == "10 others"
    red, _, blue = pixel(figure, axis, 0.5, 0)
    assert red > 150 > blue
    negative = next(i for i, length in enumerate(lengths) if length < 0)
    red, _, blue = pixel(figure, axis, lengths[negative] / 2, negative)
    assert blue > 100 > red


def test_tokens_stand_on_their_colours_and_are_readable() -> None:
    _, axis = one_axis()
    figures.tokens(axis, torch.tensor([1.0, 0.0, -1.0]), names=["good", "a", "bad"])
    fields = [patch.get_facecolor()[:3] for patch in axis.patches]
    assert [near(tuple(round(255 * c) for c in f), w) for f, w in zip(fields, (RED, WHITE, BLUE), strict=True)] == [
        True
    ] * 3
    assert [text.get_text() for text in axis.texts] == ["good", "a", "bad"]
    assert [text.get_color() for text in axis.texts] == ["white", "black", "white"]


def test_a_matrix_has_a_field_for_each_pair() -> None:
    relevance = torch.zeros(3, 3)
    relevance[0, 2], relevance[2, 0] = 1.0, -1.0
    figure, axis = one_axis()
    figures.matrix(axis, relevance, rows=["a", "b", "c"], columns=["d", "e", "f"])
    assert near(pixel(figure, axis, 2, 0), RED)
    assert near(pixel(figure, axis, 0, 2), BLUE)
    assert near(pixel(figure, axis, 1, 1), WHITE)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["d", "e", "f"]


def test_a_mask_has_a_border_and_contours_have_levels() -> None:
    mask = torch.zeros(9, 9)
    mask[3:6, 3:6] = 1
    figure, axis = one_axis()
    figures.picture(axis, torch.zeros(9, 9), mask=mask)
    assert near(pixel(figure, axis, 4, 2.5), (50, 205, 50), 40)
    assert near(pixel(figure, axis, 4, 4), WHITE)
    figure, axis = one_axis()
    figures.picture(axis, torch.linspace(0, 1, 9).expand(9, 9), contours=(0.5,))
    assert max(pixel(figure, axis, 4, 4)) < 160  # a line goes through the middle
    with pytest.raises(ImageError, match=r"the mask is \(2, 2\)"):
        figures.picture(axis, torch.zeros(9, 9), mask=torch.ones(2, 2))


# --- scales ---


def test_scales_are_centred_clipped_shared_or_reach_from_end_to_end() -> None:
    relevance = torch.cat([torch.linspace(-1, 3, 99), torch.tensor([100.0])])
    assert figures.Scale.of([relevance]) == figures.Scale(-100.0, 100.0)
    assert figures.Scale.of([relevance], clip=99).high < 5
    assert figures.Scale.of([relevance], scale="extrema") == figures.Scale(-1.0, 100.0)
    assert figures.Scale.of([torch.ones(2), -4 * torch.ones(3)]).high == 4.0
    assert figures.Scale.of([torch.zeros(3)]).high == 1.0
    sparse = torch.zeros(1000)
    sparse[0] = 5.0
    assert figures.Scale.of([sparse], clip=90).high == 5.0  # and not a scale that ends at 0
    for wrong, said in (({"scale": "log"}, "unknown scale"), ({"clip": 0}, "percentile"), ({"cmap": "x"}, "colormap")):
        with pytest.raises(ImageError, match=said):
            figures.Scale.of([relevance], **wrong).mappable()
    with pytest.raises(ImageError, match="1 relevance values are NaN"):
        figures.Scale.of([torch.tensor([1.0, float("nan")])])


def test_one_scale_has_one_bar_and_each_its_own_otherwise() -> None:
    expl = explained(torch.randn(3, 1, 4, 4))
    assert len(expl.plot(figure=Figure, shared=True).axes) == 3 + 1
    assert len(expl.plot(figure=Figure).axes) == 3 + 3
    shared = figures.compare([expl, explained(10 * expl.relevance)], ["one", "ten"], 0, figure=Figure)
    assert len(shared.axes) == 2 + 1
    assert shared.axes[-1].get_ylim()[1] == pytest.approx(float(10 * expl.relevance[0].abs().max()), rel=1e-5)


# --- forms ---


@pytest.mark.parametrize(
    ("shape", "ids", "kind"),
    [
        ((2, 3, 8, 8), False, "picture"),
        ((2, 7, 8, 8), False, "picture"),
        ((2, 1, 4, 8, 8), False, "volume"),
        ((2, 3, 50), False, "series"),
        ((2, 500), False, "series"),
        ((2, 12), False, "row"),
        ((2, 9, 4), True, "tokens"),
    ],
)
def test_each_input_has_a_form_that_suits_it_and_is_drawn(shape: tuple[int, ...], ids: bool, kind: str) -> None:
    relevance = torch.randn(shape)
    given = torch.arange(18).reshape(2, 9) if ids else torch.randn(shape)
    assert figures.kind_of(relevance, given) == kind
    figure = explained(relevance, given).plot(figure=Figure)
    FigureCanvasAgg(figure).draw()
    titles = [sub._suptitle.get_text() for part in figure.subfigs for sub in part.subfigs] or [
        sub._suptitle.get_text() for sub in figure.subfigs
    ]
    assert [title.partition(",")[0] for title in titles] == ["output 0", "output 0"]
    if ids:
        assert [text.get_text() for text in figure.axes[1].texts or figure.axes[0].texts]


def test_every_form_has_its_panels() -> None:
    assert set(PANELS) == set(figures.KINDS)


def test_of_many_channels_the_strongest_are_drawn_in_their_order() -> None:
    relevance = torch.zeros(1, 40, 20)
    relevance[0, ::3] = torch.arange(1.0, 15.0)[:, None]
    figure = explained(relevance, relevance).plot(figure=Figure)
    labels = [axis.get_ylabel() for axis in figure.axes[:CHANNELS]]
    assert labels == [f"channel {i}" for i in range(6, 40, 3)]


def test_channels_by_themselves_and_how_they_become_one() -> None:
    relevance = torch.zeros(1, 9, 4, 4)
    relevance[0, 2, 1, 1], relevance[0, 7, 1, 1] = 3.0, -4.0
    figure = explained(relevance).plot(kind="channels", figure=Figure)
    assert [axis.get_title() for axis in figure.axes[:6]] == [f"channel {k}" for k in (0, 1, 2, 3, 4, 7)]
    places = {
        how: float(view_of(explained(relevance), how).relevance[1, 1])
        for how in (None, "sum", "abs", "norm", "max_abs")
    }
    assert places == {None: -1.0, "sum": -1.0, "abs": 7.0, "norm": 5.0, "max_abs": 4.0}
    tokens = explained(torch.tensor([[[3.0, -4.0]]]), torch.tensor([[1]]))
    assert float(view_of(tokens, "norm").relevance) == 5.0
    volume = explained(relevance[:, :, None])
    assert float(view_of(volume, "norm").relevance[0, 1, 1]) == 5.0


def test_a_derivative_is_drawn_by_its_norm() -> None:
    net, x = (
        nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False)),
        torch.rand(1, 2, 2, 2),
    )
    found = Gradient(net)(x, target=0)
    assert torch.allclose(view_of(found, None).relevance, found.relevance[0].square().sum(0).sqrt())
    shares = InputTimesGradient(net)(x, target=0)
    assert torch.allclose(view_of(shares, None).relevance, shares.relevance[0].sum(0))


def view_of(expl: Explanation, how: str | None) -> figures.View:
    (view,) = views_of(expl, [0], how=how)
    return view


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    expl = explained(torch.randn(2, 3, 8, 8))
    for options, said in (
        ({"kind": "heat"}, "choose one of picture"),
        ({"kind": "row"}, "picture and channels and volume would do"),
        ({"samples": 5}, "no sample 5: the explanation is of 2"),
        ({"layer": "conv"}, "had no layers="),
        ({"of": "y"}, "no input 'y'; known: x"),
        ({"picture": [1]}, "1 pictures for 2 samples"),
    ):
        with pytest.raises(ImageError, match=said):
            expl.plot(figure=Figure, **options)
    with pytest.raises(ImageError, match="has no form of its own"):
        explained(torch.randn(2, 3, 4, 5, 6, 7)).plot(figure=Figure)
    with pytest.raises(ImageError, match="2 names for 12 features"):
        explained(torch.randn(1, 12)).plot(names=["a", "b"], figure=Figure)
    with pytest.raises(ImageError, match="1 titles for 2"):
        figures.compare([expl, expl], ["one"])


def test_layers_inputs_and_classes_of_a_real_explanation() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    x = torch.rand(1, 3, 8, 8)
    expl = LRP(net, classes=["cat", "<script>"])(x, target=1, layers=["0"])
    assert torch.equal(expl.given["input"], x)
    figure = expl.plot(layer="0", figure=Figure)
    assert len(figure.axes) == 2  # no picture of that size lies under it
    assert "Σ R at 0" in "".join(s._suptitle.get_text() for s in figure.subfigs[0].subfigs)
    title = expl.plot(figure=Figure).subfigs[0].subfigs[0]._suptitle.get_text()
    assert title.startswith(f"<script> = {float(expl.amount):.4g}, Σ R = ")


def test_pictures_in_all_their_forms_become_numbers_from_0_to_1() -> None:
    bytes_, floats = np.full((2, 3, 3), 51, np.uint8), torch.full((3, 2, 3), 0.2)
    for given in (bytes_, Image.fromarray(bytes_), floats, np.full((2, 3), 0.2), torch.full((1, 2, 3), 0.2)):
        assert as_picture(given).shape == (2, 3, 3)
        assert np.allclose(as_picture(given), 0.2)
    stretched = as_picture(torch.linspace(-2, 2, 24).reshape(4, 2, 3))  # four channels: their mean
    assert (stretched.min(), stretched.max()) == (0.0, 1.0)
    with pytest.raises(ImageError, match="is no picture"):
        as_picture(np.zeros(3))
