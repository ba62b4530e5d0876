"""What a browser shows of a report about known relevance: the parts without letters, whose fonts differ by machine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.browser import opened
from support.golden import explained, waves

from relprop.explanations.figures.view import views_of
from relprop.explanations.report import Curve, Trust, page
from relprop.explanations.report.drawn import panel_of
from relprop.explanations.report.parts import Bar, Sample

WIDTH = 360
SHOTS = ("report-slider", "report-light", "report-dark")
"""A picture under the slider; sinks and curves by day; the same by night."""


def write(path: Path) -> None:
    """A page about one picture."""
    (view,) = views_of(explained(waves(3, 9, 12), waves(3, 9, 12).abs().clamp(0, 1)), [0])
    sinks = [Bar("inputs", 0.7, 1.0), Bar("biases", -0.35, -0.5), Bar("ε", 0.07, 0.1)]
    share = [k / 8 for k in range(9)]
    lines = (("own", 3.0), ("random", 1.0), ("centre", 0.5))
    curves = [Curve(name, name, share, [1 - x**power for x in share]) for name, power in lines]  # type: ignore[arg-type]
    sample = Sample("known", [panel_of(view, "star")], [], sinks, "books", Trust((), curves))
    path.write_text(page([sample], "Known relevance", {}), "utf-8")


def shots(folder: Path) -> dict[str, np.ndarray]:
    """(H, W, 3) by their names. Skips the test where there is no browser."""
    path = folder / "golden.html"
    write(path)
    found: dict[str, np.ndarray] = {}
    for scheme in ("light", "dark"):
        with opened(path, viewport={"width": WIDTH, "height": 900}, color_scheme=scheme) as seen:
            if scheme == "light":
                found["report-slider"] = np.concatenate([_stack(seen, at) for at in ("0", "50", "100")], 1)
            tracks = [_shot(each) for each in seen.locator(".track").all()]
            found[f"report-{scheme}"] = _below([*tracks, _shot(seen.locator("svg"))])
    return found


def _stack(seen: Any, at: str) -> np.ndarray:
    seen.locator("input.mix").fill(at)
    return _shot(seen.locator(".stack"))


def _shot(element: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def _below(parts: list[np.ndarray]) -> np.ndarray:
    """Pictures of several widths below each other, on grey."""
    wide = max(part.shape[1] for part in parts)
    padded = [np.pad(p, ((0, 4), (0, wide - p.shape[1]), (0, 0)), constant_values=128) for p in parts]
    return np.concatenate(padded)
