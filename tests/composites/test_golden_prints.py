"""The printed tables are as they were, and the documentation shows exactly them.

    RELPROP_REGENERATE=1 python -m pytest tests/composites/test_golden_prints.py

writes them anew; look at the difference, and put it into the page.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from support.pages import DOCS, blocks_of, run_page

from relprop import LRP
from relprop.composites import (
    CPLRP,
    AttnLRP,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGamma,
    EpsilonGammaBox,
    EpsilonGammaFlat,
    EpsilonPlus,
    EpsilonPlusFlat,
    ResLRP,
)

GOLDEN = Path(__file__).parent / "golden"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@cache
def tutorial_model():
    """The network that the tutorial's first block makes, without its softmax."""
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    first = "\n".join(blocks_of(text)[0].lines)
    globs = run_page(f"```pycon\n{first}\n>>> from relprop import strip_softmax\n```\n", "tutorial.md")
    return globs["strip_softmax"](globs["model"])  # type: ignore[operator]


# name of the file, what is printed, the page that shows it
PRINTS: dict[str, tuple[Callable[[], object], str]] = {
    "epsilon_plus": (EpsilonPlus, "composites.md"),
    "epsilon_plus_flat": (EpsilonPlusFlat, "composites.md"),
    "epsilon_alpha2_beta1": (EpsilonAlpha2Beta1, "composites.md"),
    "epsilon_alpha2_beta1_flat": (EpsilonAlpha2Beta1Flat, "composites.md"),
    "epsilon_gamma_box": (lambda: EpsilonGammaBox(low=-3.0, high=3.0), "composites.md"),
    "epsilon_gamma": (EpsilonGamma, "composites.md"),
    "epsilon_gamma_flat": (EpsilonGammaFlat, "composites.md"),
    "res_lrp": (ResLRP, "composites.md"),
    "attn_lrp": (AttnLRP, "composites.md"),
    "cp_lrp": (CPLRP, "composites.md"),
    "lrp_zero": (lambda: LRP(tutorial_model()), "tutorial.md"),
    "lrp_epsilon_plus_flat": (lambda: LRP(tutorial_model(), EpsilonPlusFlat()), "tutorial.md"),
}


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def terminal(no_terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PRINTS)
def test_a_print_is_as_it_was(name: str):
    printed = f"{PRINTS[name][0]()}\n"
    if os.environ.get("RELPROP_REGENERATE"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / f"{name}.txt").write_text(printed, encoding="utf-8")
    assert printed == golden(name), (
        "if that is meant: RELPROP_REGENERATE=1 python -m pytest tests/composites/test_golden_prints.py"
    )


@pytest.mark.parametrize("name", PRINTS)
def test_the_documentation_shows_exactly_that_print(name: str):
    page = PRINTS[name][1]
    shown = ["\n".join(block.lines) for block in blocks_of((DOCS / page).read_text(encoding="utf-8"))]
    assert any(f"\n{golden(name)}" in f"\n{block}\n" for block in shown), (
        f"put tests/composites/golden/{name}.txt into docs/{page}"
    )


def test_every_golden_file_has_a_test():
    assert {file.name for file in GOLDEN.iterdir()} == {f"{name}.txt" for name in PRINTS}


# ------------------------------------------------------------------------------------------------------ colours


@pytest.mark.parametrize("name", PRINTS)
def test_a_terminal_gets_the_same_text_in_colour(name: str, terminal: None):
    coloured = str(PRINTS[name][0]())
    assert ANSI.search(coloured)
    assert ANSI.sub("", coloured) + "\n" == golden(name)


def test_rules_are_coloured_and_what_was_fused_away_is_dim(terminal: None):
    lines = str(LRP(tutorial_model(), EpsilonPlusFlat())).split("\n")
    (fused,) = [line for line in lines if "fused into" in line]
    assert fused.startswith("\x1b[2m")
    assert "\x1b[36mFlatRule()\x1b[0m" in lines[1]
    assert all("\x1b[36m" in line for line in lines[1:-1] if line != fused)


@pytest.mark.parametrize("name", ["epsilon_plus_flat", "lrp_epsilon_plus_flat"])
def test_no_color_wins_over_a_terminal(name: str, terminal: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert f"{PRINTS[name][0]()}\n" == golden(name)


@pytest.mark.parametrize("name", ["epsilon_plus_flat", "lrp_epsilon_plus_flat"])
def test_a_repr_is_never_coloured(name: str, terminal: None):
    assert repr(PRINTS[name][0]()) + "\n" == golden(name)
