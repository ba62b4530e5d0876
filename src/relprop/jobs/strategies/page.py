"""A page on a dataset: wrong predictions first, then class by class the strategies, as one file that needs no other.

Its script filters what is there; without it, everything is shown.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from relprop.errors import RelpropError
from relprop.evaluation.localization import positive_share
from relprop.explanations.files import replacing
from relprop.explanations.heatmaps import heatmap
from relprop.explanations.shown import one_line
from relprop.jobs.datasets.columns import SCORES, rows_in
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.found import heatmaps_of
from relprop.jobs.strategies.clusters import Plane, plane_by
from relprop.jobs.strategies.finding import OfClass, Strategies
from relprop.models import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    Pictures = Callable[[str], Image] | str | Path | None
Masks = Mapping[str, NDArray[np.bool_]]

SHOWN = 5
"""Samples of a strategy, and outliers of a class."""
WRONG = 24
"""Wrong predictions."""
LISTED = 5000
"""Lines in the list of all samples."""
CONCEPTS = 12
"""Channels in the table of classes by concepts."""
EDGE = 96
"""Pixels of a small picture."""
SAID = {"tsne": "t-SNE", "umap": "UMAP"}
COLOURS = ("#3b6fb6", "#d1495b", "#2e9e6b", "#e0a030", "#7a5ba6", "#4aa6b5", "#a65628", "#777777")


@dataclass(frozen=True)
class Placed:
    """Where a sample belongs, by which it is filtered.

    Attributes:
        key: its name.
        of_class: number of its class among those of the page.
        group: number of its strategy in it, from 1 on.
        wrong: whether its prediction is not its label; None: it has none.
    """

    key: str
    of_class: int
    group: int
    wrong: bool | None


@dataclass(frozen=True)
class Shown(Placed):
    """A sample on the page, what is said of it, and its pictures as addresses of data."""

    said: str
    picture: str | None
    heat: str


def page(
    found: Strategies,
    *,
    pictures: Pictures = None,
    masks: Masks | None = None,
    title: str = "Strategies",
    plane: Plane = "tsne",
) -> str:
    """A page on a dataset, as HTML that needs no other file.

    Args:
        found: the strategies.
        pictures: the folder of the samples, or a function from a key to a picture. None: heatmaps alone are shown.
        masks: of some samples by key, (H, W): how much of the positive relevance of a strategy lies in them.
        title: of the page; it may hold any characters.
        plane: how samples are laid into the plane, by `tsne` or by `umap`.

    Raises:
        InputError: there is no such way.
        MissingExtraError: Jinja2, Pillow, matplotlib or umap-learn is not installed.
    """
    jinja = needed("jinja2", "a page on a dataset")
    environment = jinja.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["line"] = lambda text: one_line(str(text))
    script = _beside("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    beside = {"style": _beside("page.css"), "script": script, "digest": digest}
    template = environment.from_string(_beside("page.html"))
    text: str = template.render(_content(found, pictures, masks or {}, title, plane) | beside)
    return text


def _beside(name: str) -> str:
    return (resources.files("relprop.jobs.strategies") / name).read_text("utf-8")


def save_page(path: str | Path, found: Strategies, **options: Any) -> None:
    """Write `page` to a file, whole or not at all.

    Args:
        path: of the file.
        found: the strategies.
        options: of `page`.

    Raises:
        RelpropError: the file cannot be written.
    """
    text = page(found, **options)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, "utf-8")


def _content(found: Strategies, pictures: Pictures, masks: Masks, title: str, plane: Plane) -> dict[str, Any]:
    laid = plane_by(plane)
    wrong = _wrong(found)
    wanted = {row["key"] for row in wrong[:WRONG]}
    for each in found:
        wanted |= {key for s in each.strategies for key in s.keys[:SHOWN]} | set(each.outliers(SHOWN))
    heats, shares = _heats(found, wanted, masks)
    places = _places(found)
    shown = _Shower(found, places, pictures, heats)
    manifest = found.results.manifest
    return {
        "title": title,
        "facts": {name: manifest.made_with[name] for name in ("model", "composite", "target", "relprop")},
        "samples": manifest.samples,
        "failed": len(found.results.failed),
        "on": found.on,
        "plane": SAID[plane],
        "wrong_count": len(wrong),
        "labelled": sum(row["label"] is not None for each in found for row in each.rows),
        "wrong": [shown(row["key"], _mistake(row, found)) for row in wrong[:WRONG]],
        "classes": [_class(each, found, shown, shares, _points(each, places, laid(each.vectors))) for each in found],
        "listed": _listed(found, places),
        "among": len(places),
        "concepts": _concepts(found),
        "masked": bool(shares),
    }


def _places(found: Strategies) -> dict[str, Placed]:
    """Where each sample belongs."""
    places = {}
    for number, each in enumerate(found):
        for row, group in zip(each.rows, each.clusters.labels.tolist(), strict=True):
            wrong = None if row["label"] is None else _is_wrong(row, found)
            places[row["key"]] = Placed(row["key"], number, group + 1, wrong)
    return places


def _listed(found: Strategies, places: Mapping[str, Placed]) -> list[dict[str, Any]]:
    """Lines about samples in words: wrong predictions first, then class by class and strategy by strategy."""
    rows = {row["key"]: row for each in found for row in each.rows}
    order = sorted(places.values(), key=lambda place: (not place.wrong, place.of_class, place.group, place.key))
    return [
        {
            "sample": place,
            "prediction": _class_name(rows[place.key]["prediction"], found.results.classes),
            "value": rows[place.key]["top_value"][0],
            "label": "" if place.wrong is None else rows[place.key]["label"],
            "strategy": f"{found[place.of_class].name} {place.group}",
        }
        for place in order[:LISTED]
    ]


def _class(
    each: OfClass, found: Strategies, shown: _Shower, shares: Mapping[str, float], points: list[dict[str, Any]]
) -> dict[str, Any]:
    rows = {row["key"]: row for row in each.rows}
    strategies = []
    for s in each.strategies:
        known = [shares[key] for key in s.keys if key in shares]
        labelled = [rows[key] for key in s.keys if rows[key]["label"] is not None]
        strategies.append(
            {
                "colour": COLOURS[s.group % len(COLOURS)],
                "count": len(s),
                "sameness": s.sameness,
                "wrong": sum(_is_wrong(row, found) for row in labelled) if labelled else None,
                "share": float(np.mean(known)) if known else None,
                "mean": None if s.heatmap is None else _drawn(s.heatmap, 2 * EDGE),
                "samples": [shown(key) for key in s.keys[:SHOWN]],
            }
        )
    return {
        "name": each.name,
        "count": len(each.rows),
        "gap": each.gap,
        "eigenvalues": [float(value) for value in each.clusters.eigenvalues[:12]],
        "k": each.clusters.k,
        "strategies": strategies,
        "outliers": [shown(key) for key in each.outliers(SHOWN)],
        "points": points,
    }


def _points(each: OfClass, placed: Mapping[str, Placed], places: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Places on a plane of 200 by 200."""
    low, high = places.min(0), places.max(0)
    scaled = 10 + 180 * (places - low) / np.maximum(high - low, 1e-12)
    return [
        {"x": f"{x:.1f}", "y": f"{y:.1f}", "colour": COLOURS[group % len(COLOURS)], "sample": placed[row["key"]]}
        for (x, y), group, row in zip(scaled.tolist(), each.clusters.labels.tolist(), each.rows, strict=True)
    ]


class _Shower:
    """Samples as the page shows them."""

    def __init__(
        self,
        found: Strategies,
        places: Mapping[str, Placed],
        pictures: Pictures,
        heats: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self._places = places
        self._rows = {row["key"]: row for each in found for row in each.rows}
        self._names, self._heats = found.results.classes, heats
        self._pictures: Callable[[str], Image] | None
        if isinstance(pictures, (str, Path)):
            folder = Path(pictures).expanduser()
            self._pictures = lambda key: open_picture(folder / key)
        else:
            self._pictures = pictures

    def __call__(self, key: str, said: str = "") -> Shown:
        heat = _drawn(self._heats[key], EDGE) if key in self._heats else ""
        said = said or _class_name(self._rows[key]["prediction"], self._names)
        return Shown(**vars(self._places[key]), said=said, picture=self._picture(key), heat=heat)

    def _picture(self, key: str) -> str | None:
        if self._pictures is None:
            return None
        try:
            image = self._pictures(key).convert("RGB")
        except (RelpropError, OSError, KeyError):  # the page shows what is still there
            return None
        image.thumbnail((EDGE, EDGE))
        return _address(image)


def _heats(
    found: Strategies, wanted: set[str], masks: Masks
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """Heatmaps of some samples, and of those with a mask how much of the positive relevance lies in it."""
    heats: dict[str, NDArray[np.float32]] = {}
    shares: dict[str, float] = {}
    if "heatmap" not in found.results.columns:
        return heats, shares
    for batch in found.results.batches(["key", "heatmap", "heatmap_scale", "shape"]):
        for row in rows_in(batch):
            key = row["key"]
            if row["heatmap"] is None or (key not in wanted and key not in masks):
                continue
            heat = heatmaps_of([row])[0]
            if key in wanted:
                heats[key] = heat
            if key in masks:
                share = positive_share(torch.from_numpy(heat)[None], masks[key]).relevance
                if share is not None:
                    shares[key] = share
    return heats, shares


def _wrong(found: Strategies) -> list[dict[str, Any]]:
    """Rows whose prediction is not their label, the surest first."""
    rows = [row for each in found for row in each.rows if row["label"] is not None and _is_wrong(row, found)]
    return sorted(rows, key=lambda row: -row["top_value"][0])


def _is_wrong(row: Mapping[str, Any], found: Strategies) -> bool:
    names = found.results.classes
    said = {str(row["prediction"]), _class_name(row["prediction"], names).casefold()}
    return str(row["label"]).casefold() not in said


def _mistake(row: Mapping[str, Any], found: Strategies) -> str:
    return f"{_class_name(row['prediction'], found.results.classes)}, labelled {row['label']}"


def _class_name(index: int, names: list[str] | None) -> str:
    return names[index] if names is not None else f"class {index}"


def _concepts(found: Strategies) -> dict[str, Any] | None:
    """Mean scores of the channels that matter most, by class."""
    columns = [name for name in found.results.columns if name.startswith(SCORES)]
    if not columns:
        return None
    means = {g: m for g, m in found.results.means(columns[0], by="target").items() if g is not None}
    if not means:
        return None
    table = np.stack(list(means.values()))
    top = np.sort(np.argsort(-np.abs(table).max(0), kind="stable")[:CONCEPTS])
    limit = float(np.abs(table[:, top]).max()) or 1.0
    rows = []
    for target in sorted(means):
        cells = [float(means[target][channel]) for channel in top]
        shades = [{"value": f"{v:.2f}", "red": v > 0, "strength": f"{abs(v) / limit:.2f}"} for v in cells]
        rows.append({"name": _class_name(target, found.results.classes), "cells": shades})
    return {"layer": columns[0].removeprefix(SCORES), "channels": top.tolist(), "rows": rows}


def _drawn(heat: NDArray[np.float32], edge: int) -> str:
    values = torch.from_numpy(np.ascontiguousarray(heat))
    values = values[None] if values.dim() == 1 else values
    drawn = heatmap(values, size=edge if min(values.shape) < edge else None)
    image: Any = drawn
    if max(image.size) > 4 * EDGE:
        image.thumbnail((edge, edge))
    return _address(image)


def _address(image: Image) -> str:
    file = BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
