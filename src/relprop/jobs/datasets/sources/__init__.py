"""Where samples come from: one small class for each kind, chosen by what a path looks like.

What may live here: kinds of sources. Nothing that explains, and nothing that writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from relprop.errors import JobError
from relprop.jobs.datasets.samples import Source
from relprop.jobs.datasets.sources.arrays import Hdf5Source, ZarrSource
from relprop.jobs.datasets.sources.folder import FolderSource
from relprop.jobs.datasets.sources.lines import LinesSource
from relprop.jobs.datasets.sources.tables import ArrowSource, ParquetSource, is_saved_dataset
from relprop.jobs.datasets.sources.tar import TarSource

KINDS: tuple[tuple[str, Callable[[Path, str | None, str | None], Source]], ...] = (
    (".parquet", ParquetSource),
    (".jsonl", LinesSource),
    (".txt", LinesSource),
    (".tar", TarSource),
    (".zarr", ZarrSource),
    (".h5", Hdf5Source),
    (".hdf5", Hdf5Source),
)
"""By how a path ends. A folder of pictures, of Parquet files, or of a saved Hugging Face dataset has no ending."""


def open_source(source: str | Path, column: str | None = None, label_column: str | None = None) -> Source:
    """The samples at a path.

    Args:
        source: the path.
        column: of a table, an archive or a file of arrays: what holds the samples. None: the usual names.
        label_column: what holds their labels. None: the usual names.

    Raises:
        JobError: there is nothing at its path, or nothing that can be read.
    """
    path = Path(source).expanduser()
    if not os.path.exists(path):
        raise JobError(f"the source {path} does not exist")
    for ending, make in KINDS:
        if path.name.lower().endswith(ending):
            return make(path, column, label_column)
    if not path.is_dir():
        endings = ", ".join(ending for ending, _ in KINDS)
        raise JobError(f"the source {path} is neither a folder nor a file that ends in {endings}")
    if is_saved_dataset(path):
        return ArrowSource(path, column, label_column)
    if any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")):
        return ParquetSource(path, column, label_column)
    if any(path.glob("*.tar")):
        return TarSource(path, column, label_column)
    return FolderSource(path)
