"""Views as parts of a page: PNG files in base64, bars and coloured tokens."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from relprop.explanations.figures import Scale, View
from relprop.explanations.figures.axes import as_picture
from relprop.explanations.figures.plot import drawn
from relprop.explanations.heatmaps import heatmap, overlay
from relprop.explanations.report.parts import Bar, Field, Panel, Picture
from relprop.explanations.text.colours import NIGHT, WHITE, css, mix, readable

DPI = 100


def panel_of(view: View, label: str, value: str | None = None) -> Panel:
    """One view in the form that suits it.

    Args:
        view: of one sample.
        label: how it is called among others.
        value: below it; None: the view's title.
    """
    relevance = view.relevance
    total, limit = float(relevance.double().sum()), float(relevance.abs().max())
    made: dict[str, Any] = {}
    if view.kind == "picture":
        made["picture"] = _stack(view, label)
    elif view.kind == "row":
        names = view.names or [f"feature {k}" for k in range(len(relevance))]
        made["bars"] = bars_of(relevance, names, view.given)
    elif view.kind == "tokens":
        names = view.names or [str(k) for k in range(len(relevance))]
        made["tokens"] = [_field(str(name), float(r), limit) for name, r in zip(names, relevance, strict=True)]
    else:
        made["picture"] = _figure(view, label)
    return Panel(label, view.title if value is None else value, total, limit, **made)


def bars_of(relevance: Tensor, names: Sequence[str], values: Tensor | None = None, most: int = 20) -> list[Bar]:
    """The strongest features, and the sum of all others.

    Args:
        relevance: (F,).
        names: of the features.
        values: (F,), noted beside them.
        most: how many.
    """
    order = relevance.abs().argsort(descending=True, stable=True).tolist()
    limit = float(relevance.abs().max()) or 1.0
    shown = [
        Bar(str(names[k]), r, r / limit, "" if values is None else f"{float(values[k]):.4g}")
        for k in order[:most]
        for r in [float(relevance[k])]
    ]
    if len(order) > most:
        rest = float(relevance[order[most:]].double().sum())
        shown.append(Bar(f"{len(order) - most} others", rest, max(-1.0, min(1.0, rest / limit))))
    return shown


def _field(text: str, amount: float, limit: float) -> Field:
    light, night = mix(WHITE, amount, limit), mix(NIGHT, amount, limit)
    return Field(text, amount, (css(light), css(readable(light))), (css(night), css(readable(night))))


def _stack(view: View, label: str) -> Picture:
    """What was seen, both on top of each other, the heatmap; the heatmap alone where nothing lies under it."""
    from PIL import Image

    heat: Any = heatmap(view.relevance)
    under = view.picture if view.picture is not None else view.given
    images = [heat]
    if under is not None:
        seen = Image.fromarray((255 * as_picture(under)).round().astype(np.uint8))
        seen = seen if seen.size == heat.size else seen.resize(heat.size)
        images = [seen, overlay(seen, view.relevance), heat]
    return Picture([_png(image) for image in images], f"Heatmap for {label}: {view.title}", *heat.size)


def _figure(view: View, label: str) -> Picture:
    from matplotlib.figure import Figure

    figure: Any = drawn([[view]], [Scale.of([view.relevance])], (), Figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI)
    size = tuple(round(DPI * inches) for inches in figure.get_size_inches())
    return Picture([base64.b64encode(data.getvalue()).decode()], f"Relevance for {label}: {view.title}", *size)


def _png(image: Any) -> str:
    data = io.BytesIO()
    image.save(data, format="png", optimize=True)
    return base64.b64encode(data.getvalue()).decode()
