"""Which column holds samples and which their labels, and what a cell of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relprop.errors import ImageError, JobError
from relprop.jobs.datasets.samples import Sample, picture_sample

SAMPLES = ("image", "picture", "img", "images", "data", "x", "bytes", "text", "sentence", "path", "file")
LABELS = ("label", "labels", "class", "cls", "y", "target")


def choose(names: Sequence[str], column: str | None, label_column: str | None, where: object) -> tuple[str, str | None]:
    """The names of the column of samples and of that of labels, None where there is none.

    Args:
        names: of the columns that there are.
        column: the one that was asked for.
        label_column: likewise.
        where: what errors speak of.

    Raises:
        JobError: there is no such column.
    """
    for name in (column, label_column):
        if name is not None and name not in names:
            raise JobError(f"{where} has no column {name!r}; it has {', '.join(names)}")
    samples = column or next((name for name in SAMPLES if name in names), None)
    if samples is None:
        raise JobError(f"{where} has the columns {', '.join(names)}: say with column= which one holds the samples")
    return samples, label_column or next((name for name in LABELS if name in names and name != samples), None)


def sample_of(cell: Any, name: str, folder: Path) -> Sample:
    """A sample of a table's cell: a picture's bytes, a struct of them, the path of a file, or a text.

    Raises:
        ImageError: the cell is empty, or its picture is not readable.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, (bytes, bytearray)):
        return picture_sample(bytes(cell), name)
    if not isinstance(cell, str) or not cell:
        raise ImageError(f"{name} is empty" if cell is None or cell == "" else f"{name} is no picture: {cell!r:.60}")
    try:
        data = (folder / cell).read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: {cell} cannot be read: {error.strerror}") from error
    return picture_sample(data, cell)


def label_of(value: Any, names: Sequence[str] | None = None) -> str | None:
    """A label as text, by its name where there are names."""
    if value is None:
        return None
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)
