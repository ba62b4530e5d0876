"""The columns of a folder of results, and rows as a file of Parquet.

| column | what it holds |
|---|---|
| `index`, `key`, `label` | number of the sample, its name, its label as the source has it |
| `digest` | of the bytes that were read |
| `error` | why there is no explanation, else null |
| `prediction`, `top_class`, `top_value` | the largest output, the largest five, and their values |
| `target`, `amount` | what was explained: number of the class, and the output's value |
| `arrived`, `kept`, `magnitude` | Σ R at the input, what biases, ε and other sinks kept of ±1, Σ abs R |
| `shape` | of the input, (C, H, W) |
| `tokens` | of a text |
| `heatmap`, `heatmap_scale` | R summed over channels, or of each token, as a part of its largest magnitude; and that |
| `scores:LAYER` | R at a layer, summed over places, for each channel |
| `places:LAYER` | of each channel the place where R is largest, row by row, on request |
| `metric:NAME` | of the evaluation, on request |
| `contest:METHOD:NAME` | the same of each method of a contest |
| `refused`, `twins` | of methods that could not explain it, and why; pairs with the same relevance of it |
| `relevance` | R itself, (C, H, W) row by row, on request |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.job import Job

SCORES = "scores:"
"""In front of a layer's name."""
PLACES = "places:"
"""Likewise."""
METRIC = "metric:"
"""In front of a metric's name."""
CONTEST = "contest:"
"""In front of a method's name, `:` and a metric's."""
REFUSED, TWINS = "refused", "twins"
TORN = (OSError, ValueError, NotImplementedError)
"""What reading a file raises that is not whole: errors of Arrow are among them."""
LISTS = ("int32", "float16", "float32")
ROWS = 64
"""In a row group: what a reader holds in memory at once."""
Attached = Callable[[Any], Any]


def columns_of(job: Job, layers: Sequence[str], methods: Sequence[str] = (), *, tokens: bool = False) -> list[str]:
    """The names of a job's columns.

    Args:
        job: what is asked for.
        layers: whose channels have scores.
        methods: of its contest.
        tokens: the samples are texts.
    """
    names = ["index", "key", "label", "digest", "error", "prediction", "top_class", "top_value"]
    names += ["target", "amount", "arrived", "kept", "magnitude", "shape"]
    names += ["tokens"] if tokens else []
    names += ["heatmap", "heatmap_scale"] if "heatmap" in job.keep else []
    names += [f"{SCORES}{layer}" for layer in layers]
    names += [f"{PLACES}{layer}" for layer in layers] if "places" in job.keep else []
    if methods:
        names += [f"{CONTEST}{method}:{name}" for method in methods for name in job.scored_by] + [REFUSED, TWINS]
    else:
        names += [f"{METRIC}{name}" for name in job.metrics]
    return names + (["relevance"] if "relevance" in job.keep else [])


def is_large(name: str) -> bool:
    """Whether a column holds an array of each sample, which `sink="zarr"` keeps apart."""
    return name in ("heatmap", "heatmap_scale", "relevance") or name.startswith(SCORES)


def schema_of(columns: Sequence[str]) -> Any:
    """The schema of files with these columns.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    arrow = needed("pyarrow", "a job over a dataset")
    whole, half, single = (arrow.list_(arrow.field("element", getattr(arrow, t)())) for t in LISTS)
    kinds = {"index": arrow.int64(), **dict.fromkeys(("prediction", "target"), arrow.int32())}
    kinds |= dict.fromkeys(("key", "label", "digest", "error"), arrow.string())
    kinds |= dict.fromkeys(("amount", "arrived", "kept", "magnitude"), arrow.float64())
    kinds |= dict.fromkeys(("tokens", REFUSED), arrow.list_(arrow.field("element", arrow.string())))
    kinds |= {TWINS: whole, "top_class": whole, "top_value": single, "shape": whole}
    kinds |= {"heatmap": half, "heatmap_scale": arrow.float32(), "relevance": single}
    begun = {METRIC: arrow.float64(), CONTEST: arrow.float64(), PLACES: whole}
    for name in columns:
        kinds.setdefault(name, begun.get(f"{name.partition(':')[0]}:", single))
    return arrow.schema([(name, kinds[name]) for name in columns])


def encoded(rows: Sequence[dict[str, Any]], schema: Any) -> bytes:
    """Rows as the bytes of a Parquet file; equal rows make equal bytes.

    Args:
        rows: one for each sample; what a row lacks is null.
        schema: of the file.
    """
    arrow, parquet = needed("pyarrow", "writing Parquet"), needed("pyarrow.parquet", "writing Parquet")
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    file = BytesIO()
    parquet.write_table(
        arrow.Table.from_arrays(columns, schema=schema),
        file,
        compression="zstd",
        row_group_size=ROWS,
        use_dictionary=["label"],
        write_statistics=[
            field.name for field in schema if not is_large(field.name)
        ],  # nobody asks heatmaps for theirs
        write_page_checksum=True,
    )
    return file.getvalue()


def decoded(path: Any, columns: Sequence[str], attached: Attached | None = None) -> list[dict[str, Any]]:
    """The rows of a file with these columns, with arrays where columns hold lists.

    Args:
        path: of the file.
        columns: that are in it.
        attached: adds others to a batch of Arrow.

    Raises:
        OSError, ValueError, NotImplementedError: it is no whole file.
    """
    parquet = needed("pyarrow.parquet", "reading Parquet")
    counted(path, columns)
    table = parquet.read_table(path, page_checksum_verification=True, partitioning=None)
    batches = table.to_batches() if attached is None else map(attached, table.to_batches())
    return [row for batch in batches for row in rows_in(batch)]


def rows_in(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch of Arrow, with arrays of NumPy where columns hold lists of numbers."""
    columns = {name: _cells(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    for i in range(batch.num_rows):
        yield {name: cells[i] for name, cells in columns.items()}


def _cells(column: Any) -> list[Any]:
    """One entry for each row; a million numbers one by one, as Arrow would hand them out, take a second."""
    arrow = needed("pyarrow", "reading results")
    if not arrow.types.is_list(column.type) or column.type.value_type == arrow.string():
        found: list[Any] = column.to_pylist()
        return found
    values, ends = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return [values[a:b] if ok else None for a, b, ok in zip(ends[:-1], ends[1:], valid, strict=True)]


def _column(cells: Sequence[Any], kind: Any) -> Any:
    """An array of Arrow, as `_cells` reads it."""
    arrow = needed("pyarrow", "writing Parquet")
    if not arrow.types.is_list(kind) or kind.value_type == arrow.string():
        return arrow.array(cells, kind)
    flat = [np.asarray(cell) for cell in cells if cell is not None]
    ends = np.cumsum([0, *(0 if cell is None else len(cell) for cell in cells)])
    values = arrow.array(np.concatenate(flat) if flat else [], kind.value_type)
    missing = arrow.array([cell is None for cell in cells])
    return arrow.ListArray.from_arrays(arrow.array(ends, arrow.int32()), values, type=kind, mask=missing)


def counted(path: Any, columns: Sequence[str]) -> int:
    """How many rows a file with these columns has, by its end.

    Raises:
        OSError, ValueError, NotImplementedError: it is no whole file.
    """
    file = needed("pyarrow.parquet", "reading Parquet").ParquetFile(path)
    check_schema(file.schema_arrow, columns)
    rows: int = file.metadata.num_rows
    return rows


def check_schema(found: Any, columns: Sequence[str]) -> None:
    """Raise `ValueError` where the schema, on which Parquet has no checksum, is not that of these columns."""
    if not found.equals(schema_of(columns)):
        raise ValueError("its columns are not those of the job")
