"""A folder of results, read as far as it is looked at: rows, tables, and sums that stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from relprop.analyzers.lrp import LRP
from relprop.concepts import References
from relprop.errors import InputError, JobError
from relprop.evaluation import Contest
from relprop.jobs.datasets.chunks import Chunks, chunks_of, seals_in
from relprop.jobs.datasets.columns import (
    CONTEST,
    REFUSED,
    ROWS,
    TORN,
    TWINS,
    check_schema,
    is_large,
    rows_in,
    schema_of,
)
from relprop.jobs.datasets.contestants import contest_of, methods_in
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.found import Found, heatmaps_of
from relprop.jobs.datasets.labelled import as_dataset, labelled_columns, needed_columns
from relprop.jobs.datasets.manifest import Manifest
from relprop.jobs.datasets.parts import Failure, failures, part_files, torn
from relprop.jobs.datasets.referring import reference_columns, references_of
from relprop.jobs.datasets.samples import Source
from relprop.jobs.datasets.sources import open_source


@dataclass(frozen=True, eq=False)
class Results(Sequence[Found]):
    """The rows of a folder. Nothing is read before it is asked for.

    Iteration and sums hold some rows at a time; a table, a data frame and `heatmaps` hold all of them.

    Attributes:
        folder: that they lie in.
        manifest: what they were made with.
        filter: an expression of `pyarrow.compute`; rows that it does not hold of are left out. None: all.
    """

    folder: Path
    manifest: Manifest
    filter: Any = None

    def where(self, expression: Any) -> Results:
        """Only the rows that an expression holds of.

        Args:
            expression: of `pyarrow.compute`, such as `pc.field("prediction") == 3`.
        """
        return replace(self, filter=expression if self.filter is None else self.filter & expression)

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return list(self.manifest.columns)

    @property
    def classes(self) -> list[str] | None:
        """Names of the model's classes."""
        return None if self.manifest.classes is None else list(self.manifest.classes)

    @property
    def methods(self) -> list[str]:
        """The methods of the job's contest, in their order; none where it held none."""
        return methods_in(self.columns)

    @property
    def complete(self) -> bool:
        """Whether every sample of the job has a row."""
        return len(part_files(self.folder)) == self.manifest.shards

    @property
    def failed(self) -> list[Failure]:
        """The samples without an explanation."""
        return list(failures(part_files(self.folder)))

    def batches(self, columns: Sequence[str] | None = None, rows: int = ROWS) -> Iterator[Any]:
        """Record batches of Arrow, one after the other.

        Args:
            columns: their names; None: all.
            rows: in a batch, at most.

        Raises:
            JobError: a file is torn.
        """
        for path in part_files(self.folder):
            yield from self._read(path, columns, rows)

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """A table of Arrow.

        Args:
            columns: their names; None: all but the large ones, `heatmap` and `relevance`.
        """
        arrow = needed("pyarrow", "reading results")
        names = [n for n in self.columns if n not in ("heatmap", "relevance")] if columns is None else list(columns)
        batches = list(self.batches(names))
        if batches:
            return arrow.Table.from_batches(batches)
        self._dataset(part_files(self.folder))
        return schema_of(names).empty_table()

    def pandas(self, columns: Sequence[str] | None = None) -> Any:
        """A data frame of pandas.

        Args:
            columns: as in `table`.
        """
        needed("pandas", "a data frame")
        return self.table(columns).to_pandas()

    def xarray(self, columns: Sequence[str] | None = None) -> Any:
        """A dataset of xarray with a dimension `sample`, whose coordinates are `key` and what else is text.

        Heatmaps are in units of relevance; samples without an explanation are NaN.

        Args:
            columns: their names. None: all but `relevance`, `tokens` and what a contest noted.

        Raises:
            InputError: there is no such column, or samples have several shapes, which one array does not take.
            MissingExtraError: xarray is not installed.
        """
        names = labelled_columns(self.columns, columns)
        return as_dataset(self.batches(needed_columns(names)), names)

    def joined(self, other: Any, on: str = "key", columns: Sequence[str] | None = None) -> Any:
        """A table with what else is known of the samples.

        Args:
            other: a table of Arrow, a data frame of pandas, or a mapping from a key to a label, which is `known` then.
            on: the column that both have.
            columns: as in `table`.
        """
        arrow = needed("pyarrow", "joining tables")
        if isinstance(other, Mapping):
            other = arrow.table({on: list(other), "known": list(other.values())})
        elif not isinstance(other, arrow.Table):
            other = arrow.Table.from_pandas(other, preserve_index=False)
        names = None if columns is None else list(dict.fromkeys(["index", on, *columns]))
        return self.table(names).join(other, on).sort_by("index")

    def means(self, column: str, by: str | None = None) -> dict[Any, Any]:
        """The mean of a column of each group, in a stream: of numbers a number, of lists of one length an array.

        Args:
            column: its name; `"heatmap"` in units of relevance.
            by: the column whose values make groups. None: one group, None.

        Raises:
            InputError: lists of several lengths.
        """
        totals: dict[Any, Any] = {}
        counts: dict[Any, int] = {}
        needs = [column, *(["heatmap_scale", "shape"] if column == "heatmap" else []), *([by] if by else [])]
        for batch in self.batches(list(dict.fromkeys(needs))):
            for row in rows_in(batch):
                if row[column] is None:
                    continue
                value = heatmaps_of([row])[0] if column == "heatmap" else np.asarray(row[column])
                group = row[by] if by else None
                if group in totals and np.shape(totals[group]) != value.shape:
                    raise InputError(f"{column} has several shapes, {np.shape(totals[group])} and {value.shape}")
                totals[group] = totals.get(group, 0) + value.astype(np.float64)
                counts[group] = counts.get(group, 0) + 1
        return {group: total / counts[group] if np.ndim(total) else float(total) / counts[group]
                for group, total in totals.items()}  # fmt: skip

    def counts(self, by: str) -> dict[Any, int]:
        """How many rows have each value of a column.

        Args:
            by: its name.
        """
        found: dict[Any, int] = {}
        for batch in self.batches([by]):
            for value in batch.column(by).to_pylist():
                found[value] = found.get(value, 0) + 1
        return found

    def contest(self, confidence: float = 0.95, resamples: int = 2000) -> Contest:
        """The ranking of a job's `contest`, of the rows that are there: `where` makes that of a class.

        Args:
            confidence: of its intervals.
            resamples: how often samples are drawn for them.

        Raises:
            InputError: the job held none, or no method ran.
        """
        names = [name for name in self.columns if name.startswith(CONTEST) or name in ("error", REFUSED, TWINS)]
        return contest_of(self.table(names), self.manifest.evaluation, confidence, resamples)

    def references(self, lrp: LRP, layer: str, **options: Any) -> References:
        """The samples that matter most to each channel of a layer, of a job that kept `scores` and `places`.

        They are those that `References.collect` finds in the same samples, with labels if the job explained those.

        Args:
            lrp: the job's analyzer, made anew.
            layer: its name.
            **options: of `References`.

        Raises:
            InputError: the job explained something else, with another analyzer, or kept too little.
        """
        return references_of(self.batches(reference_columns(layer)), self.manifest, lrp, layer, **options)

    def heatmaps(self, columns: Sequence[str] = ()) -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
        """All heatmaps that there are in one array, (N, H, W), and other columns of their rows.

        Args:
            columns: names of those.

        Raises:
            InputError: there are none, or pictures have several sizes.
        """
        names = list(dict.fromkeys(["heatmap", "heatmap_scale", "shape", *columns]))
        maps: list[Any] = []
        rows: list[dict[str, Any]] = []
        for batch in self.batches(names):
            for row in (row for row in rows_in(batch) if row["heatmap"] is not None):
                maps += heatmaps_of([row])
                rows.append({name: row[name] for name in columns})
        if not maps or len({each.shape for each in maps}) > 1:
            raise InputError("there are no heatmaps" if not maps else "the heatmaps have several sizes")
        return np.stack(maps), rows

    def changed(self, source: str | Path, column: str | None = None, label_column: str | None = None) -> list[str]:
        """The keys of samples whose bytes are others now, or cannot be read any more. All are read for that.

        Args:
            source: of the job.
            column: as in the job.
            label_column: as in the job.
        """
        opened = open_source(source, column, label_column)
        numbers = {key: number for number, key in enumerate(opened.index().keys)}
        digests = (row for batch in self.batches(["key", "digest"]) for row in batch.to_pylist() if row["digest"])
        return [row["key"] for row in digests if row["digest"] != _digest(opened, numbers.get(row["key"]))]

    @overload
    def __getitem__(self, index: int) -> Found: ...
    @overload
    def __getitem__(self, index: slice) -> list[Found]: ...
    def __getitem__(self, index: int | slice) -> Found | list[Found]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"row {index} of {length}")
        index %= length
        for path, (first, count) in zip(part_files(self.folder), self._places, strict=True):
            if index < first + count:
                return Found(self._row(path, index - first))
        raise IndexError(index)

    def _row(self, path: Path, place: int) -> dict[str, Any]:
        """The row at a place among those of a file that the filter leaves."""
        rows = self._dataset([path])
        rows = rows if self.filter is None else rows.filter(self.filter)
        try:
            batch = rows.take([place]).to_batches()[0]
            (found,) = rows_in(self._attaching(path, self.columns)(batch))
        except TORN as error:
            raise JobError(torn(path, error)) from error
        return found

    def __iter__(self) -> Iterator[Found]:
        for batch in self.batches():
            yield from map(Found, rows_in(batch))

    def __len__(self) -> int:
        return sum(count for _, count in self._places)

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """First row and number of rows of each file."""
        places, first = [], 0
        for path in part_files(self.folder):
            count = self._dataset([path]).count_rows(filter=self.filter)
            places.append((first, count))
            first += count
        return places

    def _read(self, path: Path, columns: Sequence[str] | None, rows: int) -> Iterator[Any]:
        names = self.columns if columns is None else list(columns)
        try:
            found = self._dataset([path]).to_batches(columns=self._beside(names), filter=self.filter, batch_size=rows)
            yield from map(self._attaching(path, names), found)
        except TORN as error:
            known = self.columns
            unknown = [name for name in names if name not in known]
            if unknown:
                raise InputError(f"there is no column {unknown[0]!r}; there are {', '.join(known)}") from error
            raise JobError(torn(path, error)) from error

    @cached_property
    def _chunks(self) -> Chunks | None:
        return chunks_of(self.folder, self.manifest)

    def _beside(self, names: Sequence[str]) -> list[str]:
        """What is read from Parquet to make a batch with these columns."""
        if self._chunks is None:
            return list(names)
        return list(dict.fromkeys([*(name for name in names if not is_large(name)), "index", "error"]))

    def _attaching(self, path: Path, names: Sequence[str]) -> Callable[[Any], Any]:
        """What adds columns from elsewhere to a batch of one file."""
        chunks = self._chunks
        if chunks is None:
            return lambda batch: batch
        seals = seals_in(path)
        return lambda batch: chunks.attached(batch, names, seals)

    def _dataset(self, paths: Sequence[Path]) -> Any:
        library = needed("pyarrow.dataset", "reading results")
        if not paths:
            raise JobError(f"{self.folder} has no results yet")
        options = library.ParquetFragmentScanOptions(page_checksum_verification=True)
        form = library.ParquetFileFormat(default_fragment_scan_options=options)
        try:
            found = library.dataset([str(path) for path in paths], format=form)
            check_schema(found.schema, self.manifest.in_parquet)
            return found
        except TORN as error:
            raise JobError(torn(paths[0], error)) from error

    def __repr__(self) -> str:
        state = "" if self.complete else f" of {self.manifest.samples}, not complete"
        return f"Results({str(self.folder)!r}: {len(self)} rows{state}; {self.manifest.made_with['model']})"


def _digest(source: Source, number: int | None) -> str | None:
    """That of a sample as it is now, or None."""
    try:
        return None if number is None else source.read(number).digest
    except Exception:  # files break in every way that there is
        return None


def open_results(folder: str | Path) -> Results:
    """The results of a job, finished or not.

    Args:
        folder: `out` of the job.

    Raises:
        JobError: there are none.
    """
    path = Path(folder).expanduser()
    return Results(path, Manifest.read(path))
