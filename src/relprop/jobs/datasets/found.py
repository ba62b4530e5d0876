"""One row of results: what a job found of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relprop.errors import InputError
from relprop.jobs.datasets.columns import SCORES


@dataclass(frozen=True, eq=False)
class Found:
    """What a job found of one sample: its columns as attributes of `columns`, and arrays in their shapes.

    Attributes:
        columns: by name, see `relprop.jobs.datasets.columns`.
    """

    columns: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    @property
    def heatmap(self) -> NDArray[np.float32]:
        """R summed over channels, (H, W)."""
        return heatmaps_of([self.columns])[0]

    @property
    def relevance(self) -> NDArray[np.float32]:
        """R, (C, H, W).

        Raises:
            InputError: the job did not keep it.
        """
        if self.columns.get("relevance") is None:
            raise InputError("the job kept no relevance: run it with keep=('heatmap', 'scores', 'relevance')")
        flat: NDArray[np.float32] = np.asarray(self.columns["relevance"], np.float32)
        return flat.reshape(tuple(self.columns["shape"]))

    def scores(self, layer: str | None = None) -> NDArray[np.float32]:
        """R of each channel of a layer, (C,).

        Args:
            layer: its name. None: the only one.
        """
        return np.asarray(self.columns[score_column(list(self.columns), layer)], np.float32)

    def __repr__(self) -> str:
        shown = ("index", "key", "label", "prediction", "target", "amount", "error")
        told = [f"{name}={self.columns[name]!r}" for name in shown if self.columns.get(name) is not None]
        return f"Found({', '.join(told)})"


def heatmaps_of(rows: Sequence[Mapping[str, Any]]) -> list[NDArray[np.float32]]:
    """The heatmaps of rows, (H, W) each, in units of relevance."""
    return [
        np.asarray(row["heatmap"], np.float32).reshape(_places_of(row["shape"])) * np.float32(row["heatmap_scale"])
        for row in rows
    ]


def score_column(columns: Sequence[str], layer: str | None) -> str:
    """The name of the column with a layer's scores.

    Raises:
        InputError: there is none, or there are several and none is named.
    """
    known = [name for name in columns if name.startswith(SCORES)]
    if layer is None and len(known) == 1:
        return known[0]
    if f"{SCORES}{layer}" not in known:
        layers = ", ".join(name.removeprefix(SCORES) for name in known)
        raise InputError(f"layer={layer!r}: there are scores of {layers or 'no layer'}")
    return f"{SCORES}{layer}"


def _places_of(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[1:]) if len(shape) > 1 else tuple(shape)
