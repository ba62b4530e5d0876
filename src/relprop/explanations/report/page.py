"""The page itself, from its template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from relprop.errors import ImageError
from relprop.explanations.files import replacing
from relprop.explanations.pages import rendered
from relprop.explanations.report.checks import Curve
from relprop.explanations.report.collect import Item, collected
from relprop.explanations.report.parts import Sample

WIDTH, HEIGHT = 320, 180  # of the plot of occlusion, in its own units


def save_report(path: str | Path, items: Sequence[Item], title: str | None = None, **options: Any) -> None:
    """Write a page about samples of explanations, whole or not at all. See `Explanation.report`.

    Args:
        path: of the file.
        items: a section each.
        title: of the page; None: the analyzer and the model.
        **options: `targets`, `layers`, `trust`, `kind`.

    Raises:
        ImageError: there are no samples, or the relevance has no form of its own.
        RelpropError: the file cannot be written.
    """
    if not items:
        raise ImageError("there is nothing to report on: give at least one sample")
    settings = items[0].explanation.settings
    title = title or " explains ".join(filter(None, (settings.get("analyzer"), settings.get("model")))) or "Explanation"
    text = page([collected(item, **options) for item in items], title, settings)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, "utf-8")


def page(samples: Sequence[Sample], title: str, settings: Mapping[str, str]) -> str:
    """A page of HTML that needs no other file and sends no request.

    Args:
        samples: a section each.
        title: of the page.
        settings: what to say to get the same explanations again.
    """
    script = _beside("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    plots = [None if each.trust is None or not each.trust.curves else plot(each.trust.curves) for each in samples]
    return rendered(
        "report.html",
        title=title,
        samples=samples,
        plots=plots,
        settings=settings,
        code=code(settings),
        script=script,
        style=_beside("page.css"),
        digest=digest,
        width=WIDTH,
        height=HEIGHT,
    )


def plot(curves: Sequence[Curve]) -> dict[str, Any]:
    """Points of the lines, in the plot's units, and the numbers at the ends of its axis."""
    ys = [y for curve in curves for y in curve.y]
    low, high = min(ys), max(ys)
    span = high - low or 1.0
    lines = [
        (
            curve,
            " ".join(
                f"{x * WIDTH:.1f},{(high - y) / span * HEIGHT:.1f}" for x, y in zip(curve.x, curve.y, strict=True)
            ),
        )
        for curve in curves
    ]
    return {"lines": lines, "low": low, "high": high}


def code(settings: Mapping[str, str]) -> str:
    """Lines of Python that make the analyzer again, as far as they are known."""
    versions = f"# relprop {settings.get('relprop', '?')}, torch {settings.get('torch', '?')}"
    if "artifact" in settings:
        target = f", target={settings['target']}" if "target" in settings else ""
        return "\n".join([versions, "import relprop", f"explained = relprop.load({settings['artifact']!r})(x{target})"])
    composite, options = settings.get("composite", ""), settings.get("options", "")
    arguments = ", ".join(filter(None, ("model", composite, options)))
    name = settings.get("analyzer", "LRP")
    lines = [versions, "from relprop import LRP" if name == "LRP" else f"from relprop.analyzers import {name}"]
    known = composite.partition("(")[0]
    lines += [f"from relprop.composites import {known}"] if known.isidentifier() else []
    if "spec" in settings:
        lines += ["from relprop.models import load_model, open_picture", f"loaded = load_model({settings['spec']!r})"]
        lines += ["model, x = loaded.model, loaded.preprocess(open_picture('...'))"]
    target = settings.get("target", "None")
    lines += (
        [f"from relprop.targets import {target.partition('(')[0]}"] if target[:1].isupper() and "(" in target else []
    )
    return "\n".join([*lines, f"explained = {name}({arguments})(x, target={target})"])


@cache
def _beside(name: str) -> str:
    return (resources.files("relprop.explanations.report") / name).read_text("utf-8")
