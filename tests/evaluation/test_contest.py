"""`contest`: who is first, by how much, with which certainty; and those that cannot run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from relprop import LRP, evaluate
from relprop.analyzers import Gradient, InputTimesGradient
from relprop.composites import Composite, EpsilonPlus
from relprop.errors import InputError
from relprop.evaluation import Contest, Evaluation, Metric, Patches, bootstrap, contest
from relprop.evaluation.bootstrap import drawn, interval, means, resampled
from relprop.evaluation.entrants import ANALYZERS, Ground, entrants
from relprop.rules import EpsilonRule, ZeroRule


class Planted(nn.Module):
    """Class 1 is the mean of the upper left quarter, class 0 that of the lower right one, plain sums."""

    def forward(self, x):
        return torch.stack([x[:, :, 4:, 4:].mean((1, 2, 3)), x[:, :, :4, :4].mean((1, 2, 3))], 1)


def inverted(model, inputs, target):
    return -LRP(model)(inputs, target=target).relevance


def broken(model, inputs, target):
    raise RuntimeError("no luck\ntoday")


def infinite(model, inputs, target):
    return torch.full_like(inputs, torch.inf)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(12, 3, 8, 8) + 0.5


@pytest.fixture
def masks() -> torch.Tensor:
    found = torch.zeros(12, 8, 8).bool()
    found[:, :4, :4] = True
    return found


OPTIONS = {"groups": Patches(size=2), "fill": 0.0, "steps": 16}


def scored(**rows: list[float]) -> Contest:
    """A contest whose scores are given."""
    evaluation = Evaluation(
        {k: {"srg": torch.tensor(v, dtype=torch.float64)} for k, v in rows.items()}, {"srg": "higher"}, {}
    )
    return Contest(evaluation)


def test_the_right_method_is_first_and_those_that_cannot_run_say_why(x: torch.Tensor, masks: torch.Tensor):
    methods = {"inverted": inverted, "broken": broken, "infinite": infinite, "right": ZeroRule(), "cam": "gradcam"}
    found = contest(Planted(), x, 1, methods, masks=masks, **OPTIONS)
    order = found.ranking()
    assert (order[0], order[-1]) == ("right", "inverted")
    assert set(order) == {"right", "inverted", "random", "centre"}
    assert set(found.failed) == {"broken", "infinite", "cam"}
    assert found.failed["broken"] == "RuntimeError: no luck"
    assert found.failed["infinite"].startswith("Relevance is not finite")
    assert found.failed["cam"].startswith("GradCAM finds no convolution")
    standing = {s.method: s for s in found.standings()}
    assert standing["inverted"].mean == pytest.approx(-standing["right"].mean)
    assert standing["inverted"].behind == pytest.approx(-2 * standing["right"].mean)
    assert standing["right"].wins == 1
    assert found.near() == ["right"]
    assert found.ranking("mass")[0] == "right"
    lines = str(found).splitlines()
    assert lines[1].split()[:2] == ["1", "right"]
    assert "broken: did not run: RuntimeError: no luck" in lines
    same = evaluate({"right": LRP(Planted())}, x, 1, ["srg", "mass"], masks, **OPTIONS)
    torch.testing.assert_close(same.scores["right"]["srg"], found.evaluation.scores["right"]["srg"])
    torch.testing.assert_close(same.scores["random"]["mass"], found.evaluation.scores["random"]["mass"])


def test_intervals_are_those_of_the_normal_law_where_samples_are_many():
    torch.manual_seed(1)
    x = torch.randn(400).double()
    low, high = interval(means(x[None], drawn(400, 4000, 0)), 0.95)
    error = float(x.std() / math.sqrt(400))
    assert float(low) == pytest.approx(float(x.mean()) - 1.96 * error, abs=0.15 * error)
    assert float(high) == pytest.approx(float(x.mean()) + 1.96 * error, abs=0.15 * error)
    assert float(interval(means(x[None], drawn(400, 4000, 0)), 0.5)[0]) > float(low) + error


def test_samples_without_a_score_do_not_count():
    holes = torch.tensor([[1.0, torch.nan, 3.0, torch.nan], [1.0, 2.0, 3.0, 4.0]]).double()
    draws = torch.tensor([[1.0, 5.0, 1.0, 0.0], [3.0, 0.0, 0.0, 1.0]]).double()
    torch.testing.assert_close(means(holes, draws), torch.tensor([[2.0, 1.0], [14 / 7, 7 / 4]]).double())
    assert drawn(5, 100, 3).sum(1).eq(5).all()
    assert not torch.equal(drawn(5, 100, 3), drawn(5, 100, 4))


def test_many_samples_are_drawn_a_few_times_at_once(monkeypatch: pytest.MonkeyPatch):
    scores = torch.stack([torch.arange(30.0), torch.arange(30.0).square()]).double()
    scores[0, 3] = torch.nan
    tables = [scores, scores - scores[1]]
    draws = drawn(30, 100, 7)
    for block in (1 << 23, 30 * 7, 1):
        monkeypatch.setattr(bootstrap, "BLOCK", block)
        for found, table in zip(resampled(tables, 100, 7), tables, strict=True):
            torch.testing.assert_close(found, means(table, draws), rtol=1e-12, atol=0)


def test_differences_are_those_of_the_same_samples():
    """Both vary by 100, and differ by 0.1 each time: far apart, though their own intervals overlap."""
    wide = [100.0 * k for k in range(20)]
    found = scored(
        first=[w + 0.1 for w in wide], second=wide, near=[w + (0.3 if k % 2 else -0.2) for k, w in enumerate(wide)]
    )
    standing = {s.method: s for s in found.standings()}
    assert found.ranking() == ["first", "near", "second"]
    assert standing["second"].behind_low == pytest.approx(-0.1)
    assert standing["second"].behind_high == pytest.approx(-0.1)
    assert standing["second"].low < standing["first"].low < standing["second"].high
    assert not standing["second"].near
    assert standing["near"].near, "0.05 ± 0.06 behind"
    assert 0.1 < standing["near"].wins < 0.5
    assert sum(s.wins for s in found.standings()) == pytest.approx(1)


def test_of_one_sample_there_is_no_interval():
    found = scored(one=[2.0], other=[1.0])
    assert math.isnan(found.standings()[0].low)
    assert "nan" not in str(found)
    lower = Contest(
        Evaluation({"a": {"d": torch.tensor([2.0, 3.0])}, "b": {"d": torch.tensor([1.0, 1.0])}}, {"d": "lower"}, {})
    )
    assert lower.ranking() == ["b", "a"]
    assert lower.standings()[1].behind == 1.5
    assert lower.standings()[0].wins == 1


def test_it_repeats_and_does_not_depend_on_the_batch(x: torch.Tensor, tmp_path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    methods = ["epsilon-plus", "smoothgrad", "occlusion"]
    files = []
    for k, batch in enumerate((64, 5)):
        found = contest(model, x, None, methods, steps=4, batch=batch)
        content = json.loads(found.to_json(tmp_path / f"{k}.json").read_text())
        assert content.pop("seconds").keys() == set(methods)
        files.append(content)
    assert list(files[0]["scores"]) == ["random", "centre", *methods]
    for name in methods:
        one, other = (torch.tensor(f["scores"][name]["srg"]) for f in files)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    again = contest(model, x, None, methods, steps=4).to_json(tmp_path / "again.json")
    content = json.loads(again.read_text())
    content.pop("seconds")
    assert content == files[0]
    read = Contest.from_json(again)
    assert read.ranking() == contest(model, x, None, methods, steps=4).ranking()
    assert [s["method"] for s in content["standings"]["srg"]] == read.ranking()
    other = contest(model, x, None, methods, steps=4, seed=1)
    assert other.evaluation.scores["random"]["srg"].tolist() != content["scores"]["random"]["srg"]


def test_methods_with_the_same_relevance_are_scored_once(x: torch.Tensor):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3, bias=False))
    methods = {"zero": "zero", "twice": InputTimesGradient(model), "gradient": "gradient"}
    found = contest(model, x, 1, methods, steps=4)
    assert found.same == {"twice": "zero"}
    assert "The same relevance as zero: twice." in str(found).splitlines()
    asks = Metric("own", lambda case: torch.full((12,), float(isinstance(case.method, LRP))))
    own = contest(model, x, 1, methods, [asks], baselines=())
    assert not own.same, "a metric of one's own may look at more than relevance"
    assert own.ranking() == ["zero", "twice", "gradient"]


def test_what_is_wrong_with_the_question_is_no_failure_of_methods(x: torch.Tensor):
    model = Planted()
    with pytest.raises(InputError, match="masks of shape"):
        contest(model, x, 1, ["zero"], masks=torch.ones(12, 4, 4), **OPTIONS)
    with pytest.raises(InputError, match="needs masks"):
        contest(model, x, 1, ["zero"], ["mass"], **OPTIONS)
    with pytest.raises(InputError, match="cannot rank"):
        contest(model, x, 1, ["zero"], ["gini", "srg"])
    with pytest.raises(InputError, match="nobody is named 'zro'; choose among composites, analyzers"):
        contest(model, x, 1, ["zro"])
    with pytest.raises(InputError, match="no method runs on this model: broken: RuntimeError: no luck"):
        contest(model, x, 1, {"broken": broken})
    with pytest.raises(InputError, match="nobody takes part"):
        contest(model, x, 1, [])
    with pytest.raises(InputError, match="two methods are named 'EpsilonPlus"):
        contest(model, x, 1, [EpsilonPlus(), EpsilonPlus()])
    with pytest.raises(InputError, match="confidence=1"):
        contest(model, x, 1, ["zero"], confidence=1)


def test_who_takes_part():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    ground = Ground(model, torch.rand(2, 3, 8, 8), Patches(size=2), high=2.0)
    assert set(ANALYZERS) < set(entrants(None, ground))
    assert "recommended" in entrants("composites", ground)
    given = [EpsilonPlus(1e-3), Composite(EpsilonRule()), EpsilonRule(0.5), Gradient(model)]
    made = {name: make() for name, make in entrants(given, ground).items()}
    assert list(made) == ["EpsilonPlus(epsilon=0.001)", "composite 2", "EpsilonRule(epsilon=0.5)", "Gradient"]
    assert made["composite 2"].composite == Composite(EpsilonRule())
    assert made["Gradient"] is given[3]
    low, high = ground.bounds()
    torch.testing.assert_close(low, ground.x.amin((0, 2, 3))[:, None, None])
    assert float(high) == 2
    assert entrants(["occlusion"], ground)["occlusion"]().patch == 2


def test_a_picture_has_a_row_for_each_method(x: torch.Tensor, masks: torch.Tensor, tmp_path: Path):
    found = contest(Planted(), x, 1, {"right": "zero", "inverted": inverted}, ["srg", "rank", "gini"], masks, **OPTIONS)
    figure = found.plot()
    assert [axis.get_title() for axis in figure.axes] == ["srg", "rank"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == found.ranking()[::-1]
    dots = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert dots == pytest.approx([s.mean for s in found.standings()[::-1]])
    figure.savefig(tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 5000
    assert evaluate.contest is contest
