"""A project that ViRelAy opens: HDF5 files of samples, relevance and groups, and the YAML that names them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relprop.errors import InputError, JobError
from relprop.explanations.files import replacing
from relprop.jobs.datasets.columns import rows_in
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.found import heatmaps_of
from relprop.jobs.datasets.opened import Results
from relprop.jobs.strategies.clusters import Plane, plane_by
from relprop.jobs.strategies.finding import OfClass, Strategies
from relprop.models import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

PROJECT, LABELS = "project.yaml", "label_map.json"
DATASET, ATTRIBUTION, ANALYSIS = "dataset.h5", "attribution.h5", "analysis.h5"
SPECTRAL = "spectral"
DEFAULT = "strategies"
EIGENVECTORS = 32
NEEDED = ("index", "key", "label", "prediction", "target", "top_class", "top_value", "shape")


def save_virelay(
    folder: str | Path,
    found: Strategies,
    *,
    pictures: Callable[[str], Image] | str | Path,
    name: str = "relprop",
    plane: Plane = "tsne",
) -> Path:
    """Write a project of ViRelAy (Anders et al. 2021). Samples are written one by one.

    Args:
        folder: for its files.
        found: the strategies.
        pictures: the folder of the samples, or a function from a key to a picture; they are resized to the heatmaps.
        name: of the project.
        plane: the embedding beside the spectral one, `tsne` or `umap`.

    Returns:
        The project's file, for `virelay PROJECT`.

    Raises:
        InputError: heatmaps of several sizes, or none; or no such embedding.
        MissingExtraError: h5py or umap-learn is not installed.
    """
    library = needed("h5py", "a project of ViRelAy")
    laid = plane_by(plane)
    place, results = Path(folder).expanduser(), found.results
    rows = _rows(results)
    classes = _classes(results, rows)
    place.mkdir(parents=True, exist_ok=True)
    height, width = rows[0]["shape"][-2:]
    if any(row["shape"] != rows[0]["shape"] or len(row["shape"]) != 3 for row in rows):
        raise InputError("ViRelAy shows pictures of one size: give the job size=")
    opened = _opener(pictures)
    with replacing(place / DATASET) as path, library.File(path, "w") as file:
        _write_pictures(file, rows, classes, lambda key: _seen(opened(key), height, width))
    with replacing(place / ATTRIBUTION) as path, library.File(path, "w") as file:
        _write_relevance(file, results, rows, classes)
    with replacing(place / ANALYSIS) as path, library.File(path, "w") as file:
        number = {row["key"]: i for i, row in enumerate(rows)}
        for each, (group, names) in zip(found, _categories(found), strict=True):
            _write_class(file.create_group(group), each, number, names, (plane, laid(each.vectors)))
    entries = [{"index": i, "word_net_id": f"{i:08d}", "name": text} for i, text in enumerate(classes)]
    with replacing(place / LABELS) as path:
        path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", "utf-8")
    project = place / PROJECT
    with replacing(project) as path:
        path.write_text(_project(name, results, found, height, width), "utf-8")
    return project


def _rows(results: Results) -> list[dict[str, Any]]:
    rows = [row for batch in results.batches(list(NEEDED)) for row in batch.to_pylist() if row["shape"] is not None]
    if not rows or "heatmap" not in results.columns:
        raise InputError("a project of ViRelAy needs heatmaps, and there are none")
    return rows


def _classes(results: Results, rows: list[dict[str, Any]]) -> list[str]:
    """Names of the model's classes; of unknown ones their numbers."""
    if results.classes is not None:
        return results.classes
    most = max(max(row["top_class"]) for row in rows)
    return [f"class {i}" for i in range(most + 1)]


def _label(row: dict[str, Any], classes: list[str]) -> int:
    """The number of a sample's label; of samples without one, or with another name, what was explained."""
    label = row["label"]
    if label in classes:
        return classes.index(label)
    if label is not None and label.isdigit() and int(label) < len(classes):
        return int(label)
    return int(row["target"] if row["target"] is not None else row["prediction"])


def _write_pictures(
    file: Any, rows: list[dict[str, Any]], classes: list[str], opened: Callable[[str], NDArray[np.uint8]]
) -> None:
    first = opened(rows[0]["key"])
    data = file.create_dataset("data", (len(rows), *first.shape), "uint8", chunks=(1, *first.shape))
    for i, row in enumerate(rows):
        data[i] = opened(row["key"])
    file["label"] = np.array([_label(row, classes) for row in rows], np.uint16)


def _write_relevance(file: Any, results: Results, rows: list[dict[str, Any]], classes: list[str]) -> None:
    shape = (3, *rows[0]["shape"][-2:])  # which ViRelAy adds up; with one channel some of its colour maps fail
    data = file.create_dataset("attribution", (len(rows), *shape), "float32", chunks=(1, *shape), compression="gzip")
    for i, heat in enumerate(_heats(results)):
        data[i] = heat[None] / 3
    prediction = np.zeros((len(rows), len(classes)), np.float32)
    for i, row in enumerate(rows):
        low = min(row["top_value"])
        prediction[i] = low  # of the others no more is known than that they are not larger
        prediction[i, row["top_class"]] = row["top_value"]
    file["prediction"] = prediction
    file["label"] = np.array([_label(row, classes) for row in rows], np.uint16)
    file["index"] = np.arange(len(rows), dtype=np.uint32)


def _heats(results: Results) -> Iterator[NDArray[np.float32]]:
    for batch in results.batches(["heatmap", "heatmap_scale", "shape"]):
        yield from heatmaps_of([row for row in rows_in(batch) if row["heatmap"] is not None])


def _categories(found: Strategies) -> list[tuple[str, int]]:
    """The name of each class's group in the file, and how many eigenvectors every class has."""
    count = min(EIGENVECTORS, *(each.clusters.embedding.shape[1] for each in found))
    return [(f"{each.class_index:08d}" if each.class_index >= 0 else each.name, count) for each in found]


def _write_class(
    group: Any, each: OfClass, number: dict[str, int], count: int, plane: tuple[str, NDArray[np.float64]]
) -> None:
    order = np.argsort([number[row["key"]] for row in each.rows])
    group["index"] = np.array([number[row["key"]] for row in each.rows], np.uint32)[order]
    embedding = group.create_group("embedding")
    embedding[SPECTRAL] = each.clusters.embedding[order, :count].astype(np.float32)
    embedding[SPECTRAL].attrs["eigenvalue"] = each.clusters.eigenvalues[:count].astype(np.float32)
    name, places = plane
    embedding[name] = places[order].astype(np.float32)
    embedding[name].attrs["embedding"] = SPECTRAL
    embedding[name].attrs["index"] = np.array([0, 1])
    cluster = group.create_group("cluster")
    cluster[DEFAULT] = each.clusters.labels[order].astype(np.uint32)
    cluster[DEFAULT].attrs["embedding"] = SPECTRAL
    cluster[DEFAULT].attrs["k"] = np.uint8(each.clusters.k)
    cluster[DEFAULT].attrs["index"] = np.arange(each.clusters.k)


def _opener(pictures: Callable[[str], Image] | str | Path) -> Callable[[str], Image]:
    if not isinstance(pictures, (str, Path)):
        return pictures
    folder = Path(pictures).expanduser()
    if not folder.is_dir():
        raise JobError(f"the pictures {folder} are no folder")
    return lambda key: open_picture(folder / key)


def _seen(image: Image, height: int, width: int) -> NDArray[np.uint8]:
    """A picture, (3, H, W). Of numbers that are no bytes ViRelAy guesses the range."""
    small = image.convert("RGB").resize((width, height))
    pixels: NDArray[np.uint8] = np.asarray(small).transpose(2, 0, 1)
    return pixels


def _project(name: str, results: Results, found: Strategies, height: int, width: int) -> str:
    """The YAML. JSON is YAML, and quotes whatever names hold."""
    made = results.manifest.made_with
    strategy = "true_label" if made["target"] == "label" else "predicted_label"
    return json.dumps(
        {
            "project": {
                "name": name,
                "model": made["model"],
                "label_map": LABELS,
                "dataset": {
                    "name": made["source"],
                    "type": "hdf5",
                    "path": DATASET,
                    "input_width": width,
                    "input_height": height,
                    "down_sampling_method": "none",
                    "up_sampling_method": "none",
                },
                "attributions": {
                    "attribution_method": made["composite"],
                    "attribution_strategy": strategy,
                    "sources": [ATTRIBUTION],
                },
                "analyses": [{"analysis_method": f"SpRAy on {found.on}", "sources": [ANALYSIS]}],
            }
        },
        indent=2,
        ensure_ascii=False,
    ) + "\n"  # fmt: skip
