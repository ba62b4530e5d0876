"""The strategies of a model on a dataset: class by class, the groups of explanations, the clearest class first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from relprop.errors import InputError
from relprop.jobs.datasets.columns import rows_in
from relprop.jobs.datasets.found import heatmaps_of, score_column
from relprop.jobs.datasets.opened import Results, open_results
from relprop.jobs.strategies.clusters import Clusters, cluster

SIDE = 16
"""Of a pooled heatmap."""
LEAST = 8
"""Samples of a class, of which fewer are not looked at."""
Place = tuple[int, str, int]
FACTS = ("index", "key", "label", "prediction", "target", "amount", "top_value")


@dataclass(frozen=True, eq=False)
class Strategy:
    """One group of a class's explanations.

    Attributes:
        class_index: of the class. name: of it.
        group: number among the groups of the class, the largest is 0.
        keys: of its samples, those next to its mean first.
        sameness: mean cosine of any two explanations of it.
        heatmap: mean of its heatmaps, (H, W); None where sizes differ.
    """

    class_index: int
    name: str
    group: int
    keys: list[str]
    sameness: float
    heatmap: NDArray[np.float32] | None

    @property
    def place(self) -> Place:
        """What tells it from all others."""
        return self.class_index, self.name, self.group

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Strategy({self.name!r}, {len(self)} samples, sameness {self.sameness:.2f})"


@dataclass(frozen=True, eq=False)
class OfClass:
    """The explanations of one class.

    Attributes:
        class_index: of it. name: of it.
        rows: what is known of its samples.
        vectors: that were put into groups, (N, d).
        clusters: the groups.
        strategies: one for each group.
    """

    class_index: int
    name: str
    rows: list[dict[str, Any]]
    vectors: NDArray[np.float32]
    clusters: Clusters
    strategies: list[Strategy]

    @property
    def gap(self) -> float:
        """How clearly the class has several strategies."""
        return self.clusters.gap

    def outliers(self, n: int = 5) -> list[str]:
        """Keys of the samples that are explained like no other, the strangest first.

        Args:
            n: how many.
        """
        return [self.rows[i]["key"] for i in self.clusters.outliers(n)]

    def __repr__(self) -> str:
        return f"OfClass({self.name!r}, {len(self.rows)} samples, {self.clusters.k} strategies, gap {self.gap:.2f})"


@dataclass(frozen=True, eq=False)
class Strategies(Sequence[OfClass]):
    """The classes of a dataset, those with the clearest gap between their strategies first.

    Attributes:
        results: that they were found in.
        on: what of the explanations was put into groups.
        by: which class a sample counts for.
        classes: one entry for each class with enough samples.
    """

    results: Results
    on: str
    by: str
    classes: list[OfClass]

    def ranked(self) -> list[Strategy]:
        """All groups, those first whose explanations are most alike.

        Relevance that lies where it always lies does not follow the object.
        """
        several = [strategy for each in self.classes for strategy in each.strategies]
        return sorted(several, key=lambda s: -s.sameness)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.classes[index]

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[OfClass]:
        return iter(self.classes)

    def __repr__(self) -> str:
        lines = [f"  {each!r}" for each in self.classes]
        return "\n".join([f"Strategies(on {self.on}, by {self.by}:", *lines]) + ")"


def find(
    results: Results | str | Path,
    *,
    on: str = "heatmap",
    by: Literal["target", "prediction", "label"] = "target",
    k: int | None = None,
    method: Literal["spectral", "kmeans"] = "spectral",
    neighbours: int = 10,
    side: int = SIDE,
    least: int = LEAST,
) -> Strategies:
    """Look for strategies in the results of a job (SpRAy, Lapuschkin et al. 2019).

    Args:
        results: of a job, or their folder.
        on: `"heatmap"`: positive relevance, pooled; or the name of a layer: its channels' scores.
        by: which class a sample counts for: the one that was explained, the predicted one, or its label.
        k: groups in each class. None: as many as the eigengap says.
        method: see `cluster`.
        neighbours: see `cluster`.
        side: of pooled heatmaps.
        least: samples of a class, of which fewer are not looked at.

    Raises:
        InputError: there is no such layer, or no class has enough samples.
        MissingExtraError: scikit-learn is not installed.
    """
    found = results if isinstance(results, Results) else open_results(results)
    if by not in ("target", "prediction", "label"):
        raise InputError(f"by={by!r} is none of 'target', 'prediction', 'label'")
    groups: dict[Any, list[tuple[dict[str, Any], NDArray[np.float32]]]] = {}
    for row, vector in _vectors(found, on, side):
        if row[by] is not None:
            groups.setdefault(row[by], []).append((row, vector))
    classes = []
    for value in sorted(groups, key=str):
        if len(groups[value]) >= max(least, 3):
            rows, vectors = zip(*groups[value], strict=True)
            clusters = cluster(np.stack(vectors), k, method=method, neighbours=neighbours)
            classes.append(_of_class(found, value, list(rows), np.stack(vectors), clusters))
    if not classes:
        most = max(map(len, groups.values()), default=0)
        raise InputError(f"no class has {least} explained samples, the largest has {most}: give least=")
    means = _mean_heatmaps(found, classes)
    named = [_with_heatmaps(each, means) for each in classes]
    return Strategies(found, on, by, sorted(named, key=lambda each: -each.gap))


def _vectors(results: Results, on: str, side: int) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Row by row what is known of a sample, and its vector."""
    column = "heatmap" if on == "heatmap" else score_column(results.columns, on)
    needs = [*FACTS, column, *(["heatmap_scale", "shape"] if on == "heatmap" else [])]
    for batch in results.batches(needs):
        for row in rows_in(batch):
            if row[column] is not None:
                vector = (
                    _pooled(heatmaps_of([row])[0], side) if on == "heatmap" else np.asarray(row[column], np.float32)
                )
                yield {name: row[name] for name in FACTS}, vector


def _pooled(heat: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Positive relevance in a grid, flat. Where it came to in the picture is what tells strategies apart."""
    positive = torch.from_numpy(np.maximum(heat, 0))
    if positive.dim() == 1:
        return (
            F.adaptive_avg_pool1d(positive[None], side * side).numpy()[0] if len(heat) > side**2 else positive.numpy()
        )
    pooled: NDArray[np.float32] = F.adaptive_avg_pool2d(positive[None], side)[0].flatten().numpy()
    return pooled


def _of_class(
    results: Results, value: Any, rows: list[dict[str, Any]], vectors: NDArray[np.float32], clusters: Clusters
) -> OfClass:
    index = value if isinstance(value, int) else -1
    names = results.classes
    name = names[index] if names is not None and isinstance(value, int) else str(value)
    strategies = [
        Strategy(index, name, g, [rows[i]["key"] for i in clusters.members(g)], float(clusters.sameness[g]), None)
        for g in range(clusters.k)
    ]
    return OfClass(index, name, rows, vectors, clusters, strategies)


def _mean_heatmaps(results: Results, classes: Sequence[OfClass]) -> Mapping[Place, NDArray[np.float32]]:
    """The mean heatmap of each group, in a second stream over the results."""
    if "heatmap" not in results.columns:
        return {}
    where = {key: s.place for each in classes for s in each.strategies for key in s.keys}
    totals: dict[Place, Any] = {}
    counts: dict[Place, int] = {}
    for batch in results.batches(["key", "heatmap", "heatmap_scale", "shape"]):
        for row in rows_in(batch):
            place = where.get(row["key"])
            if place is not None and row["heatmap"] is not None:
                heat = heatmaps_of([row])[0].astype(np.float64)
                if place in totals and totals[place].shape != heat.shape:
                    return {}
                totals[place] = totals.get(place, 0) + heat
                counts[place] = counts.get(place, 0) + 1
    return {place: (total / counts[place]).astype(np.float32) for place, total in totals.items()}


def _with_heatmaps(each: OfClass, means: Mapping[Place, NDArray[np.float32]]) -> OfClass:
    return replace(each, strategies=[replace(s, heatmap=means.get(s.place)) for s in each.strategies])
