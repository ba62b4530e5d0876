"""Results in other forms, as a stream: arrays in one HDF5 or Zarr file, and a safetensors file for each sample."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from relprop.errors import InputError, JobError
from relprop.explanations.files import replacing
from relprop.jobs.datasets.columns import METRIC, SCORES, rows_in
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.found import heatmaps_of
from relprop.jobs.datasets.opened import Results

NUMBERS = ("index", "target", "prediction", "amount", "arrived", "kept", "magnitude")
Arrays = Mapping[str, Any]
Make = Callable[[str, tuple[int, ...], Any], Any]


def save_results(results: Results, path: str | Path) -> None:
    """Write the samples that have an explanation, by what a path ends in.

    - `.h5`, `.hdf5`, `.zarr`: an array for each column, with a row for each sample: numbers, `heatmap` in units of
      relevance, `scores/LAYER`, `metric/NAME`, `relevance`. `index` says which row of the results it is.
    - anything else is a folder, with a file of safetensors for each sample, by its number.

    Args:
        results: of a job.
        path: of the file or folder; files are replaced.

    Raises:
        InputError: there are none, or they have several shapes, which one array does not take.
        MissingExtraError: h5py, zarr or safetensors is not installed.
    """
    place = Path(path).expanduser()
    ending = place.suffix.lower()
    if ending in (".h5", ".hdf5"):
        library = needed("h5py", "writing HDF5")
        with replacing(place) as temporary, library.File(temporary, "w") as file:
            _fill(results, lambda name, shape, kind: _of_hdf5(file, name, shape, kind))
            file.attrs.update(_about(results))
    elif ending == ".zarr":
        group = needed("zarr", "writing Zarr").open_group(str(place), mode="w")
        _fill(results, lambda name, shape, kind: _of_zarr(group, name, shape, kind))
        group.attrs.update(_about(results))
    else:
        _save_each(results, place)


def _about(results: Results) -> dict[str, str]:
    return {"relprop.results": json.dumps(dict(results.manifest.made_with), sort_keys=True)}


def _samples(results: Results) -> Iterator[tuple[dict[str, Any], Arrays]]:
    """Row by row what is known of a sample, and its arrays by name."""
    for batch in results.batches():
        for row in rows_in(batch):
            if row["error"] is None:
                yield row, _arrays(row)


def _arrays(row: Mapping[str, Any]) -> Arrays:
    found = {name: np.asarray(row[name]) for name in NUMBERS if row[name] is not None}
    if row.get("heatmap") is not None:
        found["heatmap"] = heatmaps_of([row])[0]
    if row.get("relevance") is not None:
        found["relevance"] = np.asarray(row["relevance"], np.float32).reshape(tuple(row["shape"]))
    for name, value in row.items():
        if name.startswith(SCORES):
            found[f"scores/{name.removeprefix(SCORES)}"] = np.asarray(value, np.float32)
        if name.startswith(METRIC):
            found[f"metric/{name.removeprefix(METRIC)}"] = np.asarray(value)
    return found


def _fill(results: Results, make: Make) -> None:
    total = sum(batch.column("error").null_count for batch in results.batches(["error"]))
    if not total:
        raise InputError("no sample has an explanation")
    made: dict[str, Any] = {}
    for i, (row, arrays) in enumerate(_samples(results)):
        for name, value in arrays.items():
            if name not in made:
                made[name] = make(name, (total, *value.shape), value.dtype)
            if tuple(made[name].shape[1:]) != value.shape:
                raise InputError(f"{row['key']}: {name} has shape {value.shape}, others {tuple(made[name].shape[1:])}")
            made[name][i] = value


def _of_hdf5(file: Any, name: str, shape: tuple[int, ...], kind: Any) -> Any:
    """An array with one sample a chunk, if a sample is more than a number."""
    several = {"chunks": (1, *shape[1:]), "compression": "gzip"} if len(shape) > 1 else {}
    return file.create_dataset(name, shape, kind, **several)


def _of_zarr(group: Any, name: str, shape: tuple[int, ...], kind: Any) -> Any:
    chunks = (1 if len(shape) > 1 else min(shape[0], 4096), *shape[1:])
    make = group.create_array if hasattr(group, "create_array") else group.create_dataset  # zarr 3, and before
    return make(name, shape=shape, chunks=chunks, dtype=kind)


def _save_each(results: Results, folder: Path) -> None:
    """A file for each sample, with what is known of it in the header."""
    library = needed("safetensors.numpy", "writing safetensors")
    if folder.exists() and not folder.is_dir():
        raise JobError(f"{folder} is a file: give a folder, or a path that ends in .h5 or .zarr")
    folder.mkdir(parents=True, exist_ok=True)
    for row, arrays in _samples(results):
        known = {name: row[name] for name in ("key", "label") if row[name] is not None}
        known["shape"] = row["shape"].tolist()
        with replacing(folder / f"{row['index']:06d}.safetensors") as temporary:
            tensors = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
            library.save_file(tensors, temporary, {"relprop.sample": json.dumps(known, sort_keys=True)})
