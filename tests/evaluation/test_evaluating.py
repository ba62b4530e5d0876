"""`evaluate`: methods held against each other and against chance, its table, its picture, its file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import relprop
from relprop import LRP, Evaluation, evaluate, strip_softmax
from relprop.analyzers import Gradient, InputTimesGradient, NoiseAugmentation
from relprop.errors import InputError
from relprop.evaluation import METRICS, Constant, Metric, Occluder, Patches, Subject, shapley_values


class Planted(nn.Module):
    """Class 1 is the mean of the upper left quarter, class 0 that of the lower right one, plain sums."""

    def forward(self, x):
        return torch.stack([x[:, :, 4:, 4:].mean((1, 2, 3)), x[:, :, :4, :4].mean((1, 2, 3))], 1)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(6, 3, 8, 8) + 0.5


@pytest.fixture
def masks() -> torch.Tensor:
    found = torch.zeros(6, 8, 8).bool()
    found[:, :4, :4] = True
    return found


def inverted(model, inputs, target):
    return -LRP(model)(inputs, target=target).relevance


def test_right_inverted_and_random_explanations_are_told_apart(x: torch.Tensor, masks: torch.Tensor):
    model = Planted()
    methods = {"LRP": LRP(model), "inverted": inverted, "given": LRP(model)(x, target=1).relevance}
    found = evaluate(methods, x, 1, masks=masks, groups=Patches(size=2), fill=Constant(0.0), steps=16)
    assert set(found.scores) == {"LRP", "inverted", "given", "random", "centre"}
    assert found.ranking("srg")[0] in ("LRP", "given")
    assert found.ranking("srg")[-1] == "inverted"
    for metric in ("mass", "rank", "pointing"):
        assert found.mean("LRP", metric) == 1
    assert math.isnan(found.mean("inverted", "mass")), "it has no positive relevance"
    assert found.mean("inverted", "rank") == 0
    assert found.mean("random", "mass") == pytest.approx(1 / 4, abs=0.05)
    torch.testing.assert_close(found.scores["LRP"]["srg"], -found.scores["inverted"]["srg"])
    assert found.gain("LRP", "given", "srg") == (0, 0)


def test_exact_shapley_values_have_the_right_order_where_a_gradient_has_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1)).double()
    x = torch.randn(40, 8, dtype=torch.float64)
    options = {"groups": None, "baselines": ("random",), "steps": 8, "fill": 0.0}
    truth = shapley_values(Occluder(Subject(model, x, 0), relprop.evaluation.Features()))
    found = evaluate({"Shapley": truth, "gradient": Gradient(model)}, x, 0, ["srg"], **options)
    assert found.ranking("srg") == ["Shapley", *sorted(["gradient", "random"], key=lambda m: -found.mean(m, "srg"))]
    assert found.gain("Shapley", "gradient", "srg")[0] > 3 * found.gain("Shapley", "gradient", "srg")[1]


def test_all_metrics_have_numbers_and_a_metric_of_ones_own_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(72, 3))
    x = torch.rand(3, 1, 8, 8)
    own = Metric("total", lambda case: case.relevance.flatten(1).sum(1), None)
    options = {"baselines": ("random",), "steps": 4, "batch": 2}
    masks = torch.ones(3, 8, 8)
    found = evaluate(InputTimesGradient(model), x, None, [*METRICS, own], masks, **options)
    mine = found.scores["InputTimesGradient"]
    assert list(mine) == [*METRICS, "total"]
    finite = {name for name, scores in mine.items() if scores.shape == (3,) and scores.isfinite().all()}
    assert finite | {"relative_srg"} == set(mine), "which has none where occlusion makes the output grow"
    assert (mine["emprt"].abs() > 1e-3).any(), "0 would be the trained model again"
    assert (mine["bottom_up"] < 0.99).all()
    expected = InputTimesGradient(model)(x).relevance.flatten(1).sum(1)
    torch.testing.assert_close(mine["total"], expected.double())
    assert found.scores["random"]["emprt"].isnan().all()
    again = evaluate(InputTimesGradient(model), x, None, ["srg", "emprt"], **(options | {"batch": 64}))
    for metric in ("srg", "emprt"):
        torch.testing.assert_close(again.scores["InputTimesGradient"][metric], mine[metric], atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="tells no good from bad"):
        found.ranking("total")


def test_table_picture_and_file(x: torch.Tensor, tmp_path: Path):
    found = evaluate({"LRP": LRP(Planted())}, x, 1, ["srg", "deletion"], groups=Patches(size=4), fill=0.0)
    lines = str(found).splitlines()
    assert lines[0].split() == ["method", "srg", "↑", "deletion", "↓"]
    cell = f"{found.mean('LRP', 'srg'):.3f} ± {found.error('LRP', 'srg'):.3f}"
    assert lines[1].startswith("LRP ")
    assert cell in lines[1]
    srg = found.scores["LRP"]["srg"]
    assert found.error("LRP", "srg") == pytest.approx(float(srg.std()) / math.sqrt(6))
    told = lines[-1]
    for word in ("samples: 6", "Patches(score='sum', size=4)", "Constant", "track: logit", "steps: 4", "seed: 0"):
        assert word in told
    read = Evaluation.from_json(found.to_json(tmp_path / "found.json"))
    assert str(read) == str(found)
    torch.testing.assert_close(read.curves["LRP"].mif, found.curves["LRP"].mif)
    pytest.importorskip("matplotlib")
    figure = read.plot()
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert [title.split("\n")[0] for title in titles] == ["LRP", "random", "centre"]
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(float(found.curves["LRP"].mif[:, 0].mean()))
    assert "<td>LRP</td>" in found._repr_html_()
    with pytest.raises(InputError, match="no curves"):
        evaluate(LRP(Planted()), x, 1, ["gini"], baselines=()).plot()


def test_a_stripped_softmax_is_stripped_for_the_curves_too():
    torch.manual_seed(0)

    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head(x).softmax(-1)

    model, x = Probabilities(), torch.rand(2, 6)
    found = evaluate({"LRP": LRP(strip_softmax(model))}, x, 1, ["srg"], baselines=())
    torch.testing.assert_close(found.curves["LRP"].mif[:, 0], model.head(x)[:, 1].detach().double())


def test_an_analyzer_on_another_model():
    torch.manual_seed(0)
    one, other, x = nn.Linear(4, 2), nn.Linear(4, 2), torch.rand(3, 4)
    lrp = LRP(one)
    before = lrp(x, target=0).relevance
    moved = lrp.on(other)
    torch.testing.assert_close(moved(x, target=0).relevance, LRP(other)(x, target=0).relevance)
    torch.testing.assert_close(lrp(x, target=0).relevance, before)
    smooth = NoiseAugmentation(LRP(one), samples=3)
    expected = NoiseAugmentation(LRP(other), samples=3)(x, target=0).relevance
    torch.testing.assert_close(smooth.on(other)(x, target=0).relevance, expected)
    evaluated = evaluate({"smooth": smooth, "LRP": LRP(one)}, x, 0, ["srg", "emprt"], baselines=())
    assert evaluated.scores["smooth"]["emprt"].isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ["srq"]}, "unknown metrics"),
        ({"metrics": ["mass"]}, "needs masks="),
        ({"masks": torch.ones(6, 4, 4)}, "do not fit"),
        ({"baselines": ["edges"]}, "unknown baselines"),
        ({"analyzers": {}}, "nothing to evaluate"),
        ({"analyzers": inverted}, "model="),
        ({"analyzers": {"a": LRP(Planted()), "b": LRP(Planted())}}, "different models"),
    ],
)
def test_what_does_not_fit_is_said(x: torch.Tensor, arguments: dict, message: str):
    given = {"analyzers": LRP(Planted()), "inputs": x, "targets": 1} | arguments
    with pytest.raises(InputError, match=message):
        evaluate(**given)


def test_superpixels_follow_colours():
    pytest.importorskip("skimage")
    x = torch.zeros(2, 3, 16, 16)
    x[0, :, :, 6:], x[1, :, 10:] = 1, 1
    labels = relprop.evaluation.Superpixels(count=4).labels(x)
    for picture, regions in zip(x, labels, strict=True):
        inside = [picture[0][regions == number].unique().numel() for number in regions.unique()]
        assert inside == [1] * len(inside), "no region crosses the edge"
