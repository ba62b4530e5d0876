"""Large columns as arrays of Zarr, with a row for each sample: the chunks of a shard are files of its own.

A chunk is written whole or not at all, as every file of results is. The shard's file of Parquet comes behind its chunks
and says what they are, so that it tells whether they are there; a shard that was interrupted keeps all in Parquet.

Files are those of Zarr's format 2, which all of its readers know, and `xarray.open_zarr` too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.errors import JobError
from relprop.jobs.datasets.columns import PLACES, ROWS, SCORES, is_large, schema_of
from relprop.jobs.datasets.disk import remove_leftovers, write_whole
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.manifest import Manifest
from relprop.jobs.datasets.samples import digest_of

ARRAYS = "arrays.zarr"
CONSOLIDATED = ".zmetadata"
SEALS = b"relprop.chunks"
"""In the metadata of a file of Parquet: the chunks that belong to it."""
LEVEL = 1
"""Of compression."""
Row = Mapping[str, Any]
Seals = Mapping[str, str]


class Chunks:
    """The arrays of a folder of results.

    Args:
        folder: of the results.
        manifest: of the job.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self._manifest = folder / ARRAYS, manifest
        self._rows = math.gcd(manifest.shard_size, ROWS)
        self._columns = [name for name in manifest.columns if is_large(name)]
        self._held: dict[str, tuple[str, NDArray[Any]]] = {}

    def write(self, first: int, rows: Sequence[Row]) -> dict[str, str]:
        """Write the chunks of a shard.

        Args:
            first: number of its first sample.
            rows: all of it.

        Returns:
            The seal of each chunk, its length and its digest, by the name of its file.

        Raises:
            JobError: samples have several shapes, or a file cannot be written.
        """
        known = [row for row in rows if row.get("error") is None]
        if not known:
            return {}
        self._declare(known)
        found: dict[str, str] = {}
        for start in range(0, len(rows), self._rows):
            for name in self._columns:
                data = self._encoded(name, rows[start : start + self._rows], known[0])
                if data is not None:
                    file = self._file(name, (first + start) // self._rows, known[0])
                    write_whole(self.folder / file, data)
                    found[file] = _seal(data)
        return found

    def copy(self, other: Chunks, seals: Seals) -> None:
        """Take the chunks of a shard from another folder of the same job.

        Raises:
            ValueError: they are not what was written.
            JobError: a file cannot be written.
        """
        if not seals:
            return
        for file, seal in seals.items():
            data = other._checked(file, seal)
            (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / file, data)
        if not self._declared():
            self._put(other._declared())

    def check(self, seals: Seals) -> None:
        """Raise `ValueError` where chunks are not whole, by their lengths. What is in them is looked at when read."""
        for file, seal in seals.items():
            path = self.folder / file
            if not path.exists() or path.stat().st_size != int(seal.partition(" ")[0]):
                raise ValueError(f"its chunk {file} is not whole")

    def attached(self, batch: Any, names: Sequence[str], seals: Seals) -> Any:
        """A batch of Arrow with these columns.

        Args:
            batch: rows of one shard as its file of Parquet has them, with `index` and `error`.
            names: of the columns, those in chunks among them.
            seals: of the shard's chunks.

        Raises:
            ValueError: a chunk is not what was written.
        """
        arrow = needed("pyarrow", "reading results")
        schema = schema_of(names)
        numbers = batch.column("index").to_numpy()
        valid = batch.column("error").is_null().to_numpy(zero_copy_only=False)
        columns = [
            self._column(field, numbers, valid, seals) if is_large(field.name) else batch.column(field.name)
            for field in schema
        ]
        return arrow.RecordBatch.from_arrays(columns, schema=schema)

    def clean(self, shards: Sequence[int] | None) -> None:
        """Take away what killed processes left half written of some shards; None: of all."""
        places = [path for path in self.folder.glob("**/") if path.is_dir()] if self.folder.exists() else []
        numbers = [n for shard in shards or () for n in self._numbers(shard)]
        names = ["*"] if shards is None else [name for n in numbers for name in (f"{n}", f"{n}.*")]
        for place in places:
            for name in names:
                remove_leftovers(place, name)

    def _numbers(self, shard: int) -> range:
        """Of the chunks of a shard."""
        rows = self._manifest.numbers(shard)
        return range(rows.start // self._rows, -(-rows.stop // self._rows))

    def _column(self, field: Any, numbers: Any, valid: Any, seals: Seals) -> Any:
        """A column of Arrow, null where there is no explanation."""
        arrow = needed("pyarrow", "reading results")
        rows = [self._row(field.name, int(n), seals) if ok else None for n, ok in zip(numbers, valid, strict=True)]
        if not arrow.types.is_list(field.type):
            return arrow.array(rows, field.type)
        ends = np.cumsum([0, *(0 if row is None else row.size for row in rows)])
        flat = [row.reshape(-1) for row in rows if row is not None]
        values = arrow.array(np.concatenate(flat) if flat else [], field.type.value_type)
        return arrow.ListArray.from_arrays(
            arrow.array(ends, arrow.int32()), values, type=field.type, mask=arrow.array(~valid)
        )

    def _row(self, name: str, number: int, seals: Seals) -> NDArray[Any]:
        """What an array has of a sample. The chunk that was read last stays in memory."""
        chunk, place = divmod(number, self._rows)
        mine = (file for file in seals if file.rpartition("/")[0] == array_name(name))
        file = next((file for file in mine if _number(file) == chunk), None)
        if file is None:
            raise ValueError(f"it names no chunk {chunk} of {name}")
        known = f"{file} {seals[file]}"
        if name not in self._held or self._held[name][0] != known:
            self._held[name] = known, self._read(name, file, seals[file])
        row: NDArray[Any] = self._held[name][1][place]
        return row

    def _read(self, name: str, file: str, seal: str) -> NDArray[Any]:
        arrow = needed("pyarrow", "reading results")
        said = json.loads((self.folder / array_name(name) / ".zarray").read_text("utf-8"))
        shape, kind = said["chunks"], np.dtype(said["dtype"])
        size = math.prod(shape) * kind.itemsize
        data = arrow.decompress(self._checked(file, seal), size, codec="zstd", asbytes=True)
        block: NDArray[Any] = np.frombuffer(data, kind).reshape(shape)
        return block

    def _checked(self, file: str, seal: str) -> bytes:
        data = (self.folder / file).read_bytes()
        if _seal(data) != seal:
            raise ValueError(f"its chunk {file} is not what was written")
        return data

    def _encoded(self, name: str, rows: Sequence[Row], example: Row) -> bytes | None:
        """The bytes of a chunk, filled up with NaN; None where no row has anything in it."""
        known = {i: row[name] for i, row in enumerate(rows) if row.get("error") is None}
        if not known:
            return None
        shape = _shape(name, example)
        block = np.full((self._rows, *shape), np.nan, _kind(name))
        for i, value in known.items():
            block[i] = np.asarray(value).reshape(shape)
        codec = needed("pyarrow", "writing Zarr").Codec("zstd", LEVEL)
        data: bytes = codec.compress(block.tobytes(), asbytes=True)
        return data

    def _file(self, name: str, chunk: int, example: Row) -> str:
        return f"{array_name(name)}/{_key(chunk, 1 + len(_shape(name, example)))}"

    def _declare(self, rows: Sequence[Row]) -> None:
        """Say which arrays there are, or find that it was said; the shape of one sample is that of all.

        Raises:
            JobError: it is not.
        """
        shapes = [[_shape(name, row) for name in self._columns] for row in rows]
        odd = next((row for row, shape in zip(rows, shapes, strict=True) if shape != shapes[0]), None)
        said, here = self._metadata(rows[0]), self._declared()
        if here and here != json.loads(json.dumps(said)):
            odd = rows[0]
        if odd is not None:
            raise JobError(
                f"{odd['key']} has shape {tuple(map(int, odd['shape']))} and others another one, which arrays of Zarr "
                "do not take: give size=, or sink='parquet'"
            )
        if not here:
            self._put(said)

    def _declared(self) -> dict[str, Any]:
        """What was said of the arrays, by file; nothing if it was not all said."""
        try:
            found: dict[str, Any] = json.loads((self.folder / CONSOLIDATED).read_text("utf-8"))["metadata"]
        except FileNotFoundError:
            return {}
        return found

    def _metadata(self, example: Row) -> dict[str, Any]:
        """What there is to say, by file."""
        made_with = json.dumps(dict(self._manifest.made_with), sort_keys=True)
        said: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": {"relprop.results": made_with}}
        if any(name.startswith(SCORES) for name in self._columns):
            said["scores/.zgroup"] = {"zarr_format": 2}
        for name in self._columns:
            shape = _shape(name, example)
            said[f"{array_name(name)}/.zarray"] = {
                "zarr_format": 2,
                "shape": [self._manifest.samples, *shape],
                "chunks": [self._rows, *shape],
                "dtype": _kind(name),
                "compressor": {"id": "zstd", "level": LEVEL},
                "fill_value": "NaN",
                "filters": None,
                "order": "C",
            }
            said[f"{array_name(name)}/.zattrs"] = {"_ARRAY_DIMENSIONS": dimensions(name, len(shape))}
        return said

    def _put(self, said: Mapping[str, Any]) -> None:
        """Write what is said of the arrays; the last file names all."""
        for file, content in {**said, CONSOLIDATED: {"metadata": said, "zarr_consolidated_format": 1}}.items():
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def chunks_of(folder: Path, manifest: Manifest) -> Chunks | None:
    """The arrays of a folder, where large columns are in some."""
    return Chunks(folder, manifest) if manifest.sink == "zarr" else None


def array_name(column: str) -> str:
    """What a column is called among arrays."""
    return f"scores/{column.removeprefix(SCORES).replace('/', '_')}" if column.startswith(SCORES) else column


def dimensions(column: str, places: int) -> list[str]:
    """Names of an array's dimensions.

    Args:
        column: its name.
        places: how many dimensions a sample has.
    """
    if column.startswith((SCORES, PLACES)):
        return ["sample", f"channel of {column.partition(':')[2]}"]
    names = ["channel"] if column == "relevance" else []
    pictured = ["y", "x"] if places - len(names) == 2 else [f"place {i}" for i in range(places - len(names))]
    return ["sample", *names, *pictured]


def seals_in(path: Path) -> dict[str, str]:
    """The chunks that belong to a file of Parquet, with their seals."""
    schema = needed("pyarrow.parquet", "reading results").read_schema(path)
    found: dict[str, str] = json.loads((schema.metadata or {}).get(SEALS, b"{}"))
    return found


def _key(chunk: int, dimensions: int) -> str:
    """The name of a chunk's file: its place in each dimension."""
    return ".".join([str(chunk), *["0"] * (dimensions - 1)])


def _seal(data: bytes) -> str:
    return f"{len(data)} {digest_of(data)}"


def _number(file: str) -> int:
    """That of a chunk, by the name of its file."""
    return int(file.rpartition("/")[2].partition(".")[0])


def _kind(column: str) -> str:
    return "<f2" if column == "heatmap" else "<f4"


def _shape(column: str, row: Row) -> tuple[int, ...]:
    """Of what a column holds of a sample."""
    if column == "heatmap_scale":
        return ()
    if column.startswith(SCORES):
        return (len(row[column]),)
    shape = tuple(map(int, row["shape"]))
    return shape if column == "relevance" else shape[1:] if len(shape) > 1 else shape
