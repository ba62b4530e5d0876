"""Figures of known relevance look as they did when somebody looked at them, and what breaks one is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure
from PIL import Image
from support import golden

from relprop.explanations.figures import KINDS


@pytest.mark.parametrize("name", golden.FIGURES)
def test_a_figure_looks_as_it_did(name: str, tmp_path: Path) -> None:
    drawn = golden.pixels(golden.FIGURES[name])
    share = golden.unlike(drawn, golden.golden(name))
    if share > golden.LIMIT:
        Image.fromarray(drawn).save(tmp_path / f"{name}.png")
        pytest.fail(
            f"{share:.2%} of the pixels of {golden.FOLDER / name}.png are drawn in other colours in {tmp_path}. "
            "Look at both; if the new one is right, python scripts/golden_figures.py keeps it."
        )


def test_the_pictures_are_those_of_the_figures_and_small() -> None:
    files = sorted(golden.FOLDER.glob("*.png"))
    assert {file.stem for file in files if not file.stem.startswith("report-")} == set(golden.FIGURES)
    assert sum(file.stat().st_size for file in files) < 300_000
    assert set(KINDS) <= set(golden.FIGURES)


def without_title() -> Figure:
    figure = golden.picture()
    for part in figure.subfigs[0].subfigs:
        part.suptitle("")
    return figure


def without_names() -> Figure:
    figure = golden.row()
    figure.subfigs[0].axes[0].set_yticklabels([""] * 21)
    return figure


BROKEN: dict[str, tuple[str, Callable[[], Figure]]] = {
    "another colour map": ("picture", lambda: golden.picture(cmap="bwr")),
    "a paler colour map": ("picture", lambda: golden.picture(cmap="coolwarm")),
    "no title": ("picture", without_title),
    "no names": ("row", without_names),
    "another sign": ("row", lambda: golden.row(-1.0)),
    "upside down": ("channels", lambda: golden.channels(-2)),
    "another scale": ("picture", lambda: golden.picture(clip=70)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_breaks_a_figure_is_seen(broken: str) -> None:
    name, make = BROKEN[broken]
    assert golden.unlike(golden.pixels(make), golden.golden(name)) > 3 * golden.LIMIT


@pytest.mark.parametrize(
    ("name", "other"), [("row", {"text_antialiased": False}), ("tokens", {"text_hinting": "force_autohint"})]
)
def test_other_edges_of_letters_are_not(name: str, other: dict[str, Any]) -> None:
    drawn, kept = golden.pixels(golden.FIGURES[name], **other), golden.golden(name)
    assert not np.array_equal(drawn, kept)
    assert golden.unlike(drawn, kept) <= golden.LIMIT


def test_a_pixel_beside_is_alike_and_two_are_not() -> None:
    kept = golden.golden("picture")
    halves = (kept.astype(int) + np.roll(kept, 1, 1)) // 2
    assert golden.unlike(halves.astype(np.uint8), kept) == 0
    assert golden.unlike(np.roll(kept, 1, 1)[:, 1:-1], kept[:, 1:-1]) == 0
    assert golden.unlike(np.roll(kept, 3, 1)[:, 3:-3], kept[:, 3:-3]) > golden.LIMIT
    assert golden.unlike(kept[:-1], kept) == 1.0
