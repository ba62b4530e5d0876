"""The page of evidence says what the figures say; what was measured is not measured again."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from relprop import Evaluation
from relprop.composites import Composite, recommended
from relprop.evaluation import Contest
from relprop.rules import EpsilonRule, ZeroRule

ROOT = Path(__file__).parents[2]


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(name)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("evidence_page", monkeypatch)


def found(page: ModuleType, recommended: str, why: str = "", **srg: list[float]) -> Any:
    named = {name.replace("_", ":", 1): torch.tensor(x).double() for name, x in srg.items()}
    evaluation = Evaluation({name: {"srg": x} for name, x in named.items()}, {"srg": "higher"}, {"samples": 3})
    return page.Found("a model", "About it.", Contest(evaluation, {"broken": "No."}), recommended, why)


def test_the_table_has_all_methods_and_marks_those_near_the_first(page: ModuleType):
    told = found(
        page, "near", one=[1.0, 3.0, 5.0], near=[2.0, 2.0, 4.9], worse=[0.9, 2.9, 4.9], random=[0.0, 0.1, -0.1]
    )
    rows = [line.split(" | ") for line in page.table(told).splitlines()[2:6]]
    assert [row[0].strip("| ") for row in rows] == ["one", "**near**", "worse", "random"]
    assert rows[1][-1] == "-0.033 ± 0.578 ≈ |"
    assert rows[2][-1] == "-0.100 ± 0.000 |"
    assert "These do not run on this model: broken (No)." in page.table(told)


def test_the_verdict_counts_composites_alone_and_captums_methods_apart(page: ModuleType):
    scores = {"best": [5.0, 5.0, 5.2], "mine": [4.9, 5.2, 5.0], "gradient": [9.0, 9.0, 9.0], "random": [0.0, 0.0, 0.0]}
    first = found(page, "best", "Its reason.", captum_Saliency=[1.0, 1.0, 1.0], **scores)
    near = found(page, "mine", "Its reason.", captum_Saliency=[5.5, 5.5, 5.0], **scores)
    far = found(page, "mine", "Its reason.", **(scores | {"best": [6.0, 6.0, 6.0]}))
    assert page.place(first, "srg") == (1, True, True)
    assert page.place(near, "srg") == (2, True, False)
    assert page.place(far, "srg") == (2, False, None)
    assert "the first of all composites; above all of Captum's methods, of which Saliency" in page.told(first)
    assert "within one standard error of the first, best (-0.033 ± 0.120); not above" in page.told(near)
    assert "Its reason." not in page.told(first)
    assert "Its reason." in page.told(near), "one of Captum's methods is better"
    assert "not within one standard error" in page.told(far)
    assert page.told(far).endswith("\nIts reason.\n")
    text = page.render({"a": first, "b": far}, None, {"voices": "no sound"})
    assert "| a model | best | SRG | 1 | yes | yes |" in text
    assert "| a model | mine | SRG | 2 | no | none runs |" in text
    assert "## voices\n\nNot measured: no sound." in text


def test_what_was_measured_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    evidence, models = module("evidence", monkeypatch), module("evidence_models", monkeypatch)
    calls = []

    def counted(model, inputs, target):
        calls.append(len(inputs))
        return torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0))

    model = nn.Sequential(nn.Linear(4, 2))
    methods = {"zero": Composite(ZeroRule()), "EpsilonRule": Composite(EpsilonRule()), "own": counted, "cam": "gradcam"}
    subject = models.Subject("it", "About.", model, torch.rand(3, 4), 0, methods, options={"steps": 2})
    assert subject.recommended == "EpsilonRule"
    once = evidence.measure(subject, tmp_path)
    again = evidence.measure(subject, tmp_path)
    assert len(calls) == 1
    assert once.ranking() == again.ranking()
    assert set(once.ranking()) == {"zero", "EpsilonRule", "own", "random", "centre"}
    assert once.failed == again.failed
    assert "finds no convolution" in once.failed["cam"]


def test_recommended_takes_part_whatever_the_list_is(monkeypatch: pytest.MonkeyPatch):
    models = module("evidence_models", monkeypatch)
    model = nn.Sequential(nn.Linear(4, 2))
    assert recommended(model) in models.taking_part(model, [Composite(ZeroRule())]).values()
    assert len(models.taking_part(model, [recommended(model)])) == len(models.taking_part(model, []))


def test_spans_end_with_their_samples(monkeypatch: pytest.MonkeyPatch):
    sequences = module("evidence_sequences", monkeypatch)
    labels = sequences.Spans(size=2, lengths=(5, 2)).labels(torch.zeros(2, 6, 3))
    assert labels.tolist() == [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0]]
    x, masks, pitches = sequences.tones(20, torch.Generator().manual_seed(0))
    assert masks.sum(1).eq(512).all()
    loud = (x.square() * masks).sum(1) / x.square().sum(1)
    assert loud.min() > 0.99
    assert pitches.min() >= 110
    assert pitches.max() <= 880


def test_the_page_is_of_these_models_and_methods(page: ModuleType, monkeypatch: pytest.MonkeyPatch):
    models = module("evidence_models", monkeypatch)
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert text.startswith(page.INTRODUCTION)
    for make, name in (
        (models.demo_network, "The demo's network"),
        (models.demo_transformer, "The demo's transformer"),
    ):
        (section,) = [part for part in text.split("\n## ") if part.startswith(name)]
        subject = make(True)
        for method in subject.methods:
            assert f"| {method} |" in section or f"| **{method}** |" in section or f"{method} (" in section, method
        assert f"| **{subject.recommended}** |" in section
        assert not math.isnan(float(section.split(f"| **{subject.recommended}** | ")[1].split(" ")[0]))
