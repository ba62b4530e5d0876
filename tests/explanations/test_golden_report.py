"""A report in Chromium looks as it did: the slider, the bars and the curves, by day and by night."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from support.golden import LIMIT, golden, unlike
from support.golden_report import SHOTS, shots


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return shots(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", SHOTS)
def test_a_part_looks_as_it_did(name: str, seen: dict[str, np.ndarray]) -> None:
    share = unlike(seen[name], golden(name))
    assert share <= LIMIT, f"{name}: {share:.2%}; look at it, and python scripts/golden_figures.py keeps what is right"


def test_the_night_and_another_place_of_the_slider_are_seen(seen: dict[str, np.ndarray]) -> None:
    assert unlike(seen["report-dark"], golden("report-light")) > 0.5
    parts = np.split(seen["report-slider"], 3, 1)
    assert all(unlike(parts[i], parts[j]) > 0.1 for i, j in ((0, 1), (1, 2), (0, 2)))
