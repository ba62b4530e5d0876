"""The files of results in a folder: each holds the rows of a fixed range of samples, and is there whole or not."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relprop.errors import JobError
from relprop.jobs.datasets.chunks import SEALS, Chunks, chunks_of, seals_in
from relprop.jobs.datasets.columns import TORN, counted, decoded, encoded, schema_of
from relprop.jobs.datasets.disk import remove_leftovers, write_whole
from relprop.jobs.datasets.explaining import Row
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.manifest import Manifest

NAMES = re.compile(r"part-(\d+)\.parquet")


@dataclass(frozen=True)
class Failure:
    """A sample without an explanation: its number, its name, and why."""

    index: int
    key: str
    error: str


@dataclass(frozen=True)
class Parts:
    """The files of a folder, with what belongs into each.

    Attributes:
        folder: that they lie in.
        manifest: of the job.
    """

    folder: Path
    manifest: Manifest

    def path(self, shard: int) -> Path:
        """The file of a shard whose samples all have rows."""
        return self.folder / f"part-{shard:06d}.parquet"

    def begun(self, shard: int) -> Path:
        """The file of a shard that was interrupted on request."""
        return self.folder / f"begun-{shard:06d}.parquet"

    def rows(self, shard: int) -> dict[int, Row]:
        """The rows that are there, by number of the sample. A torn file counts as none, with a warning."""
        for path, read in ((self.path(shard), self._whole), (self.begun(shard), self._begun)):
            if path.exists():
                try:
                    return {row["index"]: row for row in read(path)}
                except TORN as error:
                    _warn_of_torn(path, error)
        return {}

    def _begun(self, path: Path) -> list[Row]:
        return decoded(path, self.manifest.columns)

    def _whole(self, path: Path) -> list[Row]:
        chunks, manifest = self.chunks, self.manifest
        if chunks is None:
            return decoded(path, manifest.columns)
        seals = seals_in(path)
        return decoded(path, manifest.in_parquet, lambda batch: chunks.attached(batch, manifest.columns, seals))

    @property
    def chunks(self) -> Chunks | None:
        """The arrays of Zarr, where large columns are in some."""
        return chunks_of(self.folder, self.manifest)

    def is_whole(self, shard: int) -> bool:
        """Whether all rows of a shard are there, by the file's end. A torn file is reported, and made anew."""
        path = self.path(shard)
        if not path.exists():
            return False
        try:
            found = counted(path, self.manifest.in_parquet)
            if self.chunks is not None:
                self.chunks.check(seals_in(path))
        except TORN as error:
            _warn_of_torn(path, error)
            return False
        return found == len(self.manifest.numbers(shard))

    def write(self, shard: int, rows: Mapping[int, Row]) -> None:
        """Write what is known of a shard.

        Raises:
            JobError: it cannot be written.
        """
        whole = len(rows) == len(self.manifest.numbers(shard))
        ordered = [rows[number] for number in sorted(rows)]
        if not whole:
            write_whole(self.begun(shard), encoded(ordered, schema_of(self.manifest.columns)))
            return
        schema = schema_of(self.manifest.in_parquet)
        if self.chunks is not None:
            seals = self.chunks.write(self.manifest.numbers(shard).start, ordered)
            schema = schema.with_metadata({SEALS: json.dumps(seals)})
        write_whole(self.path(shard), encoded(ordered, schema))
        self.begun(shard).unlink(missing_ok=True)

    def copy(self, shard: int, other: Parts) -> None:
        """Take a shard whose samples all have rows from another folder of the same job.

        Raises:
            JobError: it cannot be written, or is not what was written there.
        """
        path = other.path(shard)
        if self.chunks is not None and other.chunks is not None:
            try:
                self.chunks.copy(other.chunks, seals_in(path))
            except TORN as error:
                raise JobError(torn(path, error)) from error
        write_whole(self.path(shard), path.read_bytes())

    def clean(self, shards: Sequence[int] | None) -> None:
        """Take away what killed processes left half written of some shards; None: of all, and of what else there is."""
        names = ["*"] if shards is None else [f"*-{shard:06d}.parquet" for shard in shards]
        for name in names:
            remove_leftovers(self.folder, name)
        if self.chunks is not None:
            self.chunks.clean(shards)

    def missing(self, shard: int, *, retry: bool) -> tuple[dict[int, Row], list[int]]:
        """The rows that stay, and the numbers of samples that have to be explained.

        Args:
            shard: its number.
            retry: those that failed, too.
        """
        numbers = self.manifest.numbers(shard)
        if not retry and self.is_whole(shard):
            return {}, []
        if retry and self.is_whole(shard) and not any(True for _ in failures([self.path(shard)])):
            return {}, []
        rows = {n: row for n, row in self.rows(shard).items() if n in numbers and not (retry and row.get("error"))}
        return rows, [number for number in numbers if number not in rows]


def part_files(folder: Path) -> list[Path]:
    """The files of results in a folder, by number."""
    return sorted(path for path in folder.iterdir() if NAMES.fullmatch(path.name))


def failures(files: Iterable[Path]) -> Iterator[Failure]:
    """The samples that have no explanation.

    Raises:
        JobError: a file is torn.
    """
    parquet = needed("pyarrow.parquet", "reading results")
    for path in files:
        try:
            table = parquet.read_table(path, columns=["index", "key", "error"], partitioning=None)
        except TORN as error:
            raise JobError(torn(path, error)) from error
        for row in table.filter(table["error"].is_valid()).to_pylist():
            yield Failure(row["index"], row["key"], row["error"])


def torn(path: Path, error: Exception) -> str:
    """What is said of a file that is not whole."""
    first = (str(error).splitlines() or [""])[0]
    return f"{path} is torn ({first}): run the job again, which makes its samples anew"


def _warn_of_torn(path: Path, error: Exception) -> None:
    warnings.warn(f"{path.name} is torn ({str(error).splitlines()[0]}); its samples are explained anew", stacklevel=3)
