"""Files of arrays: HDF5 and Zarr. Bytes (N, H, W, 3) are pictures, floating point (N, C, H, W) are a model's inputs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relprop.errors import JobError
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.samples import Content, Index, Sample, Source, digest_of
from relprop.jobs.datasets.sources.columns import choose, label_of


class ArraySource(Source):
    """An array of samples, with an array of labels beside it or without one."""

    def __init__(self, path: Path, arrays: Any, column: str | None, label_column: str | None) -> None:
        self.path = path
        samples, labels = choose(list(arrays), column, label_column, path)
        self._samples, self._labels = arrays[samples], None if labels is None else arrays[labels]
        self._lock = threading.Lock()
        shape, kind = self._samples.shape, self._samples.dtype.kind
        self._pictures = kind == "u" and self._samples.dtype.itemsize == 1 and len(shape) == 4 and shape[3] in (1, 3)
        if not self._pictures and not (kind == "f" and len(shape) > 1):
            raise JobError(
                f"{path}: {samples} has shape {tuple(shape)} and type {self._samples.dtype}; give bytes (N, H, W, 3), "
                "which are pictures, or floating point (N, ...), which are a model's inputs"
            )

    def index(self) -> Index:
        rows = self._samples.shape[0]
        size = int(self._samples.dtype.itemsize * np.prod(self._samples.shape[1:]))
        labels = [None] * rows if self._labels is None else [label_of(value) for value in self._labels[:].tolist()]
        return Index([str(row) for row in range(rows)], [size] * rows, labels)

    def read(self, number: int) -> Sample:
        with self._lock:
            values = np.ascontiguousarray(self._samples[number])
        return Sample(self._content(values), digest_of(values.tobytes()))

    def example(self) -> Content | None:
        return None if self._pictures else self.read(0).content

    def _content(self, values: Any) -> Content:
        if not self._pictures:
            return torch.from_numpy(values.astype(np.float32, copy=False))
        image = needed("PIL.Image", "reading pictures")
        picture: Content = image.fromarray(values if values.shape[2] == 3 else values[..., 0])
        return picture


class Hdf5Source(ArraySource):
    """Datasets of an HDF5 file."""

    kind = "HDF5"

    def __init__(self, path: Path, column: str | None, label_column: str | None) -> None:
        library = needed("h5py", "reading HDF5")
        try:
            arrays = library.File(path, "r")
        except OSError as error:
            raise JobError(f"{path} is no readable HDF5 file: {error}") from error
        super().__init__(path, arrays, column, label_column)


class ZarrSource(ArraySource):
    """Arrays of a Zarr group."""

    kind = "Zarr"

    def __init__(self, path: Path, column: str | None, label_column: str | None) -> None:
        library = needed("zarr", "reading Zarr")
        try:
            arrays = dict(library.open_group(str(path), mode="r").arrays())
        except Exception as error:  # zarr's own types, by version
            raise JobError(f"{path} is no readable Zarr group: {error}") from error
        super().__init__(path, arrays, column, label_column)
