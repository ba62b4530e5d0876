"""`tune`: it finds what is known to be best, repeats, goes on after a kill, and says what others samples show."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from relprop import LRP, composites, evaluate
from relprop.composites import Composite, EpsilonGammaFlat, recommended
from relprop.errors import InputError, MissingExtraError
from relprop.evaluation import ByDepth, Choice, Metric, Number, Space, Tuned, tune
from relprop.evaluation.spaces import space_for
from relprop.evaluation.tuned import RECOMMENDED, TUNED
from relprop.rules import GeneralizedGammaRule

optuna = pytest.importorskip("optuna")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(12, 2, 8, 8)


def gamma_of(lrp: LRP) -> float:
    """γ of the second convolution."""
    rule = lrp.composite.assign(lrp.layers)[2]
    assert isinstance(rule, GeneralizedGammaRule)
    return rule.gamma


KNOWN = Metric("known", lambda case: torch.full((len(case.subject),), -(math.log10(gamma_of(case.method) / 0.03) ** 2)))
"""The best gamma is 0.03."""
ONE = Space(EpsilonGammaFlat, {"gamma": Number(1e-3, 10.0)}, {"gamma": 0.5})


def test_it_finds_the_best_and_its_code_is_the_composite(x: torch.Tensor, tmp_path: Path):
    found = tune(net(), x, 1, KNOWN, space=ONE, trials=30)
    assert found.tried[0].parameters == {"gamma": 0.5}, "it starts where the preset does"
    assert found.tried[0].score == pytest.approx(-(math.log10(0.5 / 0.03) ** 2))
    assert len({t.parameters["gamma"] for t in found.tried}) > 20, "each trial draws its own numbers"
    gamma = found.parameters["gamma"]
    assert 0.015 < gamma < 0.06
    assert found.composite == EpsilonGammaFlat(gamma=gamma)
    assert eval(found.code, vars(composites)) == found.composite
    gain, error = found.gain
    assert gain == pytest.approx(found.tried[0].score * -1 - math.log10(gamma / 0.03) ** 2)
    assert error == 0
    assert found.better
    assert str(found).splitlines()[0] == found.code
    assert "No gain" not in str(found)
    content = json.loads(found.to_json(tmp_path / "found.json").read_text())
    assert content["code"] == found.code
    assert len(content["tried"]) == 30
    best = found.plot().axes[0].lines[1].get_ydata()
    assert list(best) == [max(t.score for t in found.tried[: k + 1]) for k in range(30)]


def test_what_is_held_out_is_not_searched_by_and_scores_are_those_of_evaluate(x: torch.Tensor):
    model, seen = net(), []
    metric = Metric("asks", lambda case: (seen.append(case.subject.x), torch.zeros(len(case.subject)))[1])
    tune(model, x, None, metric, trials=2, held_out=0.25)
    searched, held = seen[0], seen[-1]
    assert (len(searched), len(held)) == (9, 3)
    rows = [int((x == row).flatten(1).all(1).nonzero()) for part in (searched, held) for row in part]
    assert sorted(rows) == list(range(12))
    found = tune(model, x, torch.arange(12) % 3, "srg", trials=2, steps=4)
    part = found.held_out.evaluation
    methods = {TUNED: LRP(model, found.composite), RECOMMENDED: LRP(model, recommended(model))}
    whole = evaluate(methods, x, torch.arange(12) % 3, ["srg"], steps=4)
    for name in methods:
        others = {round(v, 5) for v in whole.scores[name]["srg"].tolist()}
        assert {round(v, 5) for v in part.scores[name]["srg"].tolist()} <= others


def test_a_search_that_was_stopped_goes_on_and_finds_the_same(x: torch.Tensor, tmp_path: Path):
    whole = tune(net(), x, 1, KNOWN, space=ONE, trials=16)
    calls = 0

    def dies(case):
        nonlocal calls
        calls += 1
        if calls in (1, 5, 14):
            raise KeyboardInterrupt
        return KNOWN.function(case)

    for name in ("search.db", "search.log"):
        calls, storage = 0, tmp_path / name
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                tune(net(), x, 1, Metric("known", dies), space=ONE, trials=16, storage=storage)
        kept = f"sqlite:///{storage}" if name.endswith(".db") else None
        if kept:  # a process that was killed leaves a trial that runs for ever
            optuna.load_study(study_name="relprop", storage=kept).ask()
        again = tune(net(), x, 1, KNOWN, space=ONE, trials=16, storage=storage)
        assert [t.parameters for t in again.tried] == [t.parameters for t in whole.tried]
        assert again.code == whole.code
        more = tune(net(), x, 1, KNOWN, space=ONE, trials=17, storage=storage)
        assert len(more.tried) == 17


def test_a_storage_of_another_search_is_refused(x: torch.Tensor, tmp_path: Path):
    storage, model = tmp_path / "a.log", net()
    tune(model, x, 1, KNOWN, space=ONE, trials=1, storage=storage)
    with pytest.raises(InputError, match="another score: give another file"):
        tune(model, x, 1, "aopc", space=ONE, trials=1, storage=storage)
    with torch.no_grad():
        model[0].bias += 1
    with pytest.raises(InputError, match="another model and samples"):
        tune(model, x + 1, 1, KNOWN, space=ONE, trials=1, storage=storage)


def test_composites_that_cannot_run_are_left_out(x: torch.Tensor):
    space = Space(EpsilonGammaFlat, {"gamma": Choice((-1.0, 0.5))}, {"gamma": -1.0})
    found = tune(net(), x, 1, KNOWN, space=space, trials=8)
    assert found.tried[0].score is None
    assert found.parameters == {"gamma": 0.5}
    with pytest.raises(InputError, match="none of 2 composites runs"):
        tune(net(), x, 1, KNOWN, space=Space(EpsilonGammaFlat, {"gamma": Choice((-1.0,))}, {"gamma": -1.0}), trials=2)


def test_where_nothing_is_gained_it_says_so(x: torch.Tensor):
    noise = Metric("noise", lambda case: torch.zeros(len(case.subject)))
    found = tune(net(), x, 1, noise, space=ONE, trials=2)
    assert not found.better
    assert str(found).splitlines()[-1] == (
        "No gain that other samples show: stay with recommended(model), EpsilonGammaFlat()."
    )
    assert isinstance(found, Tuned)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"held_out": 0.9}, "leaves 1 to search by"),
        ({"trials": 0}, "trials >= 1"),
        ({"score": "gini"}, "good from bad"),
    ],
)
def test_what_is_wrong_is_said(x: torch.Tensor, options: dict, said: str):
    with pytest.raises(InputError, match=said):
        tune(net(), x, 1, **{"score": "srg", **options})


class Attention(nn.Module):
    """The smallest that the name fits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Conv2d(1, 4, 2, 2), nn.Linear(4, 2)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.out((tokens + nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)).mean(1))


@pytest.mark.parametrize("model", [net(), Attention(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))])
def test_each_kind_of_model_has_a_space_that_starts_somewhere(model: nn.Module):
    space = space_for(model)
    assert set(space.start) == set(space.parameters)
    study = optuna.create_study()
    study.enqueue_trial(space.first())
    assert space.suggest(study.ask()) == {
        k: (v, v) if isinstance(space.parameters[k], ByDepth) and v is not None else v for k, v in space.start.items()
    }
    for _ in range(5):
        composite = space.preset(**space.suggest(study.ask()))
        assert isinstance(composite, Composite)
        assert eval(composite.name, vars(composites)) == composite, "the print is all of it"
    image = torch.rand(6, 1, 4, 4) if isinstance(model, Attention) else None
    if image is not None:
        assert len(tune(model, image, 0, trials=2, steps=2).tried) == 2


def test_where_optuna_is_missing(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"relprop\[tune\]"):
        tune(net(), x, 1)
