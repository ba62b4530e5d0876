"""Results as a dataset of xarray: arrays with names for their dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.errors import InputError
from relprop.jobs.datasets.chunks import dimensions
from relprop.jobs.datasets.columns import PLACES, REFUSED, SCORES, TWINS, rows_in
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.found import heatmaps_of

RAGGED = ("tokens", REFUSED, TWINS)
"""Columns with another length for each sample."""
TEXTS = ("key", "label", "digest", "error")
DIMENSIONS = {"top_class": ("sample", "rank"), "top_value": ("sample", "rank"), "shape": ("sample", "axis")}


def labelled_columns(known: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """The columns that become arrays.

    Args:
        known: those that there are.
        columns: those that were asked for. None: all that are neither ragged nor as large as the inputs.

    Raises:
        InputError: there is no such column, or it is ragged.
    """
    if columns is None:
        return [name for name in known if name not in (*RAGGED, "heatmap_scale", "relevance")]
    for name in columns:
        if name not in known or name in RAGGED:
            why = (
                "has another length for each sample"
                if name in known
                else f"does not exist; there are {', '.join(known)}"
            )
            raise InputError(f"the column {name!r} {why}")
    return list(columns)


def needed_columns(names: Sequence[str]) -> list[str]:
    """What has to be read to make arrays of columns."""
    scale = ["heatmap_scale"] if "heatmap" in names else []
    return list(dict.fromkeys([*names, *scale, *(["shape"] if {"heatmap", "relevance"} & set(names) else [])]))


def as_dataset(batches: Iterable[Any], names: Sequence[str]) -> Any:
    """A dataset of xarray, in memory.

    Args:
        batches: of Arrow.
        names: of the columns that become arrays.

    Raises:
        InputError: samples have several shapes.
        MissingExtraError: xarray is not installed.
    """
    library = needed("xarray", "a dataset of xarray")
    cells: dict[str, list[Any]] = {name: [] for name in names}
    for batch in batches:
        for row in rows_in(batch):
            for name in names:
                cells[name].append(_cell(name, row))
    arrays = {name: _variable(name, values) for name, values in cells.items()}
    texts = {name: arrays.pop(name) for name in (*TEXTS, "index") if name in arrays}
    return library.Dataset(arrays, coords=texts)


def _cell(name: str, row: dict[str, Any]) -> Any:
    if row[name] is None:
        return None
    if name == "heatmap":
        return heatmaps_of([row])[0]
    if name == "relevance":
        return np.asarray(row[name], np.float32).reshape(tuple(row["shape"]))
    return row[name]


def _variable(name: str, values: list[Any]) -> tuple[Sequence[str], NDArray[Any]]:
    """An array with the names of its dimensions, the samples first."""
    if name in TEXTS:
        return ("sample",), np.array(values, dtype=object)
    array = _stacked(name, values)
    if name in ("heatmap", "relevance") or name.startswith((SCORES, PLACES)):
        return dimensions(name, array.ndim - 1), array
    return DIMENSIONS.get(name, ("sample",)), array


def _stacked(name: str, values: list[Any]) -> NDArray[Any]:
    """One array with a row for each sample, NaN where there is nothing."""
    known = [np.asarray(value) for value in values if value is not None]
    shapes = list(dict.fromkeys(value.shape for value in known))
    if len(shapes) > 1:
        raise InputError(f"{name} has several shapes, {shapes[0]} and {shapes[1]}: leave it out, or give the job size=")
    if len(known) == len(values) and known:
        return np.stack(known)
    kind = known[0].dtype if known and known[0].dtype.kind == "f" else np.dtype(np.float64)
    found = np.full((len(values), *(shapes[0] if shapes else ())), np.nan, kind)
    for i, value in enumerate(values):
        if value is not None:
            found[i] = value
    return found
