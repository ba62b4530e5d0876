"""A source as inputs of a model, for whatever else collects over data: references, prototypes, training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.jobs.datasets.sources import open_source
from relprop.models import LoadedModel
from relprop.targets.names import resolve_target

UNKNOWN = -1
"""The label of a sample that has none, or one that is no class."""

Labelled = tuple[Tensor, int]


class Samples(Sequence[Labelled]):
    """The samples of a source with the preprocessing of a model: `samples[i]` is an input (C, H, W) and a class.

    Args:
        loaded: what `relprop.models.load_model` returns.
        source: as in a job.
        column: as in a job.
        label_column: as in a job.

    Raises:
        JobError: there is no such source.

    Examples:
        >>> from relprop.jobs import Samples
        >>> from relprop.models import load_model
        >>> from relprop.models.demo import sample_paths
        >>> samples = Samples(load_model("demo"), sample_paths()[0].parent)
        >>> x, label = samples[0]
        >>> x.shape, label
        (torch.Size([3, 64, 64]), -1)
    """

    def __init__(
        self,
        loaded: LoadedModel,
        source: str | Path,
        column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        self._loaded, self._source = loaded, open_source(source, column, label_column)
        self._index = self._source.index()
        self._classes = {label: self._class_of(label) for label in set(self._index.labels)}

    @property
    def keys(self) -> Sequence[str]:
        """A name for each sample."""
        return self._index.keys

    def batches(self, size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, C, H, W) and classes (B,), in order.

        Args:
            size: samples in a batch.

        Raises:
            InputError: a sample cannot be read. Leaving it out would number those behind it anew.
        """
        for first in range(0, len(self), size):
            several = self[first : first + size]
            yield torch.stack([x for x, _ in several]), torch.tensor([label for _, label in several])

    @overload
    def __getitem__(self, index: int) -> Labelled: ...
    @overload
    def __getitem__(self, index: slice) -> list[Labelled]: ...
    def __getitem__(self, index: int | slice) -> Labelled | list[Labelled]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        try:
            content = self._source.read(number).content
        except Exception as error:  # files break in every way that there is
            raise InputError(f"sample {number}, {self._index.keys[number]}, cannot be read: {error}") from error
        if isinstance(content, str):
            raise InputError(f"{self._index.keys[number]} is a text, which a model of pictures does not take")
        x = content if isinstance(content, Tensor) else self._loaded.preprocess(content)[0]
        return x, self._classes[self._index.labels[number]]

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"Samples({len(self)} of {self._loaded.name})"

    def _class_of(self, label: str | None) -> int:
        names = self._loaded.classes
        if label is None or (names is None and not label.isdigit()):
            return UNKNOWN
        try:
            return resolve_target(label, names, len(names) if names is not None else int(label) + 1)
        except ValueError:  # TargetError is one
            return UNKNOWN
