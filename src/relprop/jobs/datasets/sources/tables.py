"""Tables: Parquet files, and datasets that Hugging Face's `save_to_disk` wrote, read without its library."""

from __future__ import annotations

import bisect
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relprop.errors import JobError
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.samples import Index, Sample, Source
from relprop.jobs.datasets.sources.columns import choose, label_of, sample_of

GROUPS = 2
"""Row groups that are kept in memory."""


class ParquetSource(Source):
    """A Parquet file, or all in a folder or in its `data`, by name.

    The names of classes are those that Hugging Face wrote into the schema, if it did.
    """

    kind = "Parquet"

    def __init__(self, path: Path, column: str | None, label_column: str | None) -> None:
        self._parquet = needed("pyarrow.parquet", "reading Parquet")
        self.path = path
        files = [path] if path.is_file() else sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
        self._folder = path.parent if path.is_file() else path
        self._files = [self._opened(file) for file in files]
        names = self._files[0].schema_arrow.names
        self._column, self._labels = choose(names, column, label_column, path)
        self._groups = [(file, g) for file in self._files for g in range(file.num_row_groups)]
        self._names = [(file.name, file.stat().st_size) for file in files]
        self._starts = [0]
        for file, g in self._groups:
            self._starts.append(self._starts[-1] + file.metadata.row_group(g).num_rows)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def _opened(self, path: Path) -> Any:
        try:
            return self._parquet.ParquetFile(path)
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            raise JobError(f"{path} is no readable Parquet file: {error}") from error

    def index(self) -> Index:
        keys: list[str] = []
        sizes: list[int] = []
        labels: list[str | None] = []
        for file, (name, size) in zip(self._files, self._names, strict=True):
            rows = file.metadata.num_rows
            keys += [f"{name}#{row}" for row in range(rows)]
            sizes += [size] * rows
            labels += self._labels_in(file) if self._labels else [None] * rows
        return Index(keys, sizes, labels)

    def _labels_in(self, file: Any) -> list[str | None]:
        said = (file.schema_arrow.metadata or {}).get(b"huggingface")
        features = json.loads(said)["info"]["features"] if said else {}
        names = features.get(self._labels, {}).get("names")
        return [label_of(value, names) for value in file.read(columns=[self._labels])[self._labels].to_pylist()]

    def read(self, number: int) -> Sample:
        g = bisect.bisect_right(self._starts, number) - 1
        cell = self._group(g)[number - self._starts[g]].as_py()
        return sample_of(cell, f"row {number}", self._folder)

    def _group(self, g: int) -> Any:
        with self._lock:
            if g not in self._kept:
                file, group = self._groups[g]
                self._kept[g] = file.read_row_group(group, columns=[self._column])[self._column]
                while len(self._kept) > GROUPS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(g)
            return self._kept[g]


class ArrowSource(Source):
    """A dataset that was written with `save_to_disk`: Arrow files that are mapped into memory."""

    kind = "Hugging Face dataset"

    def __init__(self, path: Path, column: str | None, label_column: str | None) -> None:
        arrow = needed("pyarrow", "reading a Hugging Face dataset")
        if not (path / "state.json").is_file():
            splits = json.loads((path / "dataset_dict.json").read_text("utf-8"))["splits"]
            raise JobError(f"{path} has several splits: give one of {', '.join(str(path / name) for name in splits)}")
        self.path = path
        state = json.loads((path / "state.json").read_text("utf-8"))
        files = [path / each["filename"] for each in state["_data_files"]]
        try:
            tables = [arrow.ipc.open_stream(arrow.memory_map(str(file))).read_all() for file in files]
        except (OSError, ValueError) as error:
            raise JobError(f"{path} is no readable Hugging Face dataset: {error}") from error
        if state.get("_indices_data_files"):
            raise JobError(f"{path} was shuffled or selected from without copying: call flatten_indices() and save it")
        table = arrow.concat_tables(tables)
        column, self._labels = choose(table.column_names, column, label_column, path)
        self._cells = table[column]
        self._table, self._size = table, sum(file.stat().st_size for file in files)

    def index(self) -> Index:
        rows = len(self._cells)
        labels: Sequence[str | None] = [None] * rows
        if self._labels:
            info = json.loads((self.path / "dataset_info.json").read_text("utf-8"))
            names = (info.get("features") or {}).get(self._labels, {}).get("names")
            labels = [label_of(value, names) for value in self._table[self._labels].to_pylist()]
        return Index([str(row) for row in range(rows)], [self._size] * rows, labels)

    def read(self, number: int) -> Sample:
        return sample_of(self._cells[number].as_py(), f"row {number}", self.path)


def is_saved_dataset(path: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
