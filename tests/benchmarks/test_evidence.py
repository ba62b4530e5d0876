"""The page of evidence says what the figures say."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from relprop import Evaluation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("evidence_page")


def measured(**srg: list[float]) -> Evaluation:
    return Evaluation({name: {"srg": torch.tensor(x).double()} for name, x in srg.items()}, {"srg": "higher"}, {})


def test_who_is_first_and_who_cannot_be_told_from_it(page: ModuleType):
    found = measured(one=[1.0, 3.0, 5.0], near=[2.0, 2.0, 4.9], worse=[0.9, 2.9, 4.9], random=[0.0, 0.1, -0.1])
    told = page.first(found, "srg")
    assert told.startswith("**one** is first with 3.000 ± 1.155")
    assert "near" in told  # lower by 0.03 ± 0.6
    assert "worse" not in told  # lower by 0.1 each time
    rows = [line.split(" | ") for line in page.table(found).splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == ["one", "near", "worse", "random"]
    assert rows[2][-1] == "-0.100 ± 0.000 |"


def test_the_winner_is_best_where_it_is_worst(page: ModuleType):
    a = measured(left=[10.0, 10.0], middle=[8.0, 8.0], right=[1.0, 1.0], gradient=[90.0, 90.0])
    b = measured(left=[1.0, 1.0], middle=[7.0, 7.0], right=[10.0, 10.0], gradient=[90.0, 90.0])
    winner, shares = page.overall({"a": a, "b": b})
    assert winner == "middle"
    assert shares == {"SRG of a": pytest.approx(0.8), "SRG of b": pytest.approx(0.7)}
    text = page.render({"a": ("About a.", a), "b": ("About b.", b)})
    assert "**middle** is the one whose smallest share is largest (SRG of a 80%; SRG of b 70%)" in text
    assert text.index("## A\n\nAbout a.") < text.index("## B\n\nAbout b.")


def test_the_page_has_every_method(page: ModuleType):
    evidence = importlib.import_module("evidence")
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    subject = evidence.demo_subject(2)
    for name in evidence.methods(subject):
        assert f"\n| {name} |" in text
    assert text.startswith(page.INTRODUCTION)
