"""The samples with the highest scores of each feature, as a value that can be added to, merged, saved and loaded.

Scores have a total order, the higher first and of equal ones the lower sample number. So it does not matter in which
parts, and in which order, a dataset came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.concepts.tensors import read, written
from relprop.errors import InputError

HEADER = "relprop.references"
FIELDS = ("sample", "score", "neuron", "label")
UNKNOWN = -1
"""The label of a sample that has none, and the sample number of an empty place."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Top:
    """Of each of f features the k samples with the highest scores, the highest first.

    Attributes:
        sample: number of the sample in the dataset; -1 where there are fewer than k.
        score: what it is ordered by; -inf where there are fewer than k.
        neuron: the feature's strongest entry in that sample, see `Blocks.entries`.
        label: class of the sample, -1 if it has none.
    """

    sample: Int[Tensor, "f k"]
    score: Float[Tensor, "f k"]
    neuron: Int[Tensor, "f k"]
    label: Int[Tensor, "f k"]

    @classmethod
    def empty(cls, features: int, k: int) -> Top:
        """Nothing was seen yet."""
        none = torch.full((features, k), UNKNOWN)
        return cls(none, torch.full((features, k), -torch.inf), none.int(), none.int())

    @property
    def found(self) -> int:
        """How many places of the first feature are taken, which is the same for all."""
        return int((self.sample[:1] != UNKNOWN).sum())

    def merged(self, other: Top) -> Top:
        """The k highest of both."""
        k = self.sample.shape[1]
        sample, score, neuron, label = (torch.cat([getattr(self, n), getattr(other, n)], 1) for n in FIELDS)
        order = sample.argsort(dim=1, stable=True)
        order = order.gather(1, score.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :k]
        return Top(*(values.gather(1, order) for values in (sample, score, neuron, label)))


@dataclass(frozen=True)
class Batch:
    """What one batch says of f features.

    Attributes:
        score: of each sample and feature.
        neuron: the strongest entry of each.
        sample: numbers of the samples.
        label: their classes, -1 for none.
    """

    score: Float[Tensor, "B f"]
    neuron: Int[Tensor, "B f"]
    sample: Int[Tensor, " B"]
    label: Int[Tensor, " B"]

    def rows(self, kept: Tensor) -> Batch:
        """Those of its samples."""
        return Batch(self.score[kept], self.neuron[kept], self.sample[kept], self.label[kept])

    def top(self) -> Top:
        """As a table of one column per sample."""
        shape = self.score.T.shape
        return Top(self.sample.expand(shape), self.score.T.float(), self.neuron.T.int(), self.label.int().expand(shape))


@dataclass(frozen=True)
class Store:
    """Top samples of a layer's features, over all and over each class, and what they were made with.

    Attributes:
        fingerprint: what scores depend on; only stores with the same one are merged.
        k: samples kept per feature. per_class: per feature and class.
        top: over all samples.
        classes: over the samples of each class.
        seen: first and last sample number of each unbroken range that was added.
    """

    fingerprint: Mapping[str, str]
    k: int = 40
    per_class: int = 10
    top: Top = field(default_factory=lambda: Top.empty(0, 0))
    classes: Mapping[int, Top] = field(default_factory=dict)
    seen: tuple[Span, ...] = ()

    @property
    def count(self) -> int:
        """How many samples were added."""
        return sum(last - first + 1 for first, last in self.seen)

    def has(self, samples: Int[Tensor, " B"]) -> Tensor:
        """Which of the samples were added before, (B,)."""
        known = torch.zeros(samples.shape, dtype=torch.bool)
        for first, last in self.seen:
            known |= (first <= samples) & (samples <= last)
        return known

    def added(self, batch: Batch) -> Store:
        """This store and a batch.

        Raises:
            InputError: a score that is no number, or a sample that was added before.
        """
        if not batch.score.isfinite().all():
            bad = batch.sample[~batch.score.isfinite().all(1)].tolist()
            raise InputError(f"Scores of samples {bad[:5]} are not finite: look at them with lrp(x, audit=True).")
        f = batch.score.shape[1]
        classes = {
            c: _table(f, self.per_class).merged(batch.rows(batch.label == c).top())
            for c in sorted(set(batch.label.tolist()))
            if c != UNKNOWN
        }
        top = _table(f, self.k).merged(batch.top())
        return self.merged(replace(self, top=top, classes=classes, seen=_spans(batch.sample)))

    def merged(self, other: Store) -> Store:
        """Both stores in one.

        Raises:
            InputError: they were made with different things, or have samples in common.
        """
        refuse_other(self.made_with, other.made_with)
        seen = _united(self.seen, other.seen)
        classes = dict(self.classes)
        for c, table in other.classes.items():
            classes[c] = classes[c].merged(table) if c in classes else table
        parts = [store.top for store in (self, other) if len(store.top.sample)]
        top = parts[0].merged(parts[1]) if len(parts) == 2 else (*parts, self.top)[0]
        return replace(self, top=top, classes=dict(sorted(classes.items())), seen=seen)

    @property
    def made_with(self) -> dict[str, str]:
        """The fingerprint and how much is kept."""
        return {**self.fingerprint, "k": str(self.k), "per_class": str(self.per_class)}

    def statistics(self, feature: int, n: int | None = None) -> list[tuple[int, float]]:
        """The classes that answer most to a feature: (class, mean of its `per_class` highest scores), highest first.

        Args:
            feature: its number.
            n: how many classes; None: all.
        """
        means = {c: float(t.score[feature, : t.found].double().mean()) for c, t in self.classes.items()}
        return sorted(means.items(), key=lambda pair: (-pair[1], pair[0]))[:n]

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file, whole or not at all. Equal stores make equal files.

        Args:
            path: of the file.

        Raises:
            MissingExtraError: safetensors is not installed.
        """
        tables = list(self.classes.values())
        tensors = {name: getattr(self.top, name) for name in FIELDS}
        tensors |= {f"class.{n}": torch.stack([getattr(t, n) for t in tables]) for n in FIELDS if tables}
        tensors |= {"class": torch.tensor(list(self.classes)), "seen": torch.tensor(self.seen).reshape(-1, 2)}
        header = {"fingerprint": dict(self.fingerprint), "k": self.k, "per_class": self.per_class}
        written(path, HEADER, header, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Store:
        """Read what `save` wrote.

        Args:
            path: of the file.

        Raises:
            InputError: it is no such file.
            MissingExtraError: safetensors is not installed.
        """
        header, tensors = read(path, HEADER)
        classes = {
            c: Top(*(tensors[f"class.{name}"][i] for name in FIELDS)) for i, c in enumerate(tensors["class"].tolist())
        }
        seen = tuple((first, last) for first, last in tensors["seen"].tolist())
        return cls(**header, top=Top(*(tensors[name] for name in FIELDS)), classes=classes, seen=seen)


def refuse_other(here: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Raise `InputError` where two stores were made with different things."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if names:
        told = "; ".join(f"{n}: {_short(here.get(n))} here, {_short(there.get(n))} there" for n in names)
        raise InputError(
            f"Reference samples that were made with a different {' and '.join(names)} do not mix ({told}). "
            "Collect them anew, into another file."
        )


def _short(text: str | None) -> str:
    line = " ".join(str(text).split())
    return repr(line if len(line) < 60 else f"{line[:57]}...")


def _table(features: int, k: int) -> Top:
    return Top.empty(features, k)


def _spans(samples: Tensor) -> tuple[Span, ...]:
    """The unbroken ranges that some sample numbers make."""
    return _united(*(((s, s),) for s in sorted(samples.tolist())))


def _united(*several: Sequence[Span]) -> tuple[Span, ...]:
    """All ranges, joined where one begins behind another's end."""
    joined: list[Span] = []
    for first, last in sorted(span for spans in several for span in spans):
        if joined and first <= joined[-1][1]:
            raise InputError(
                f"Sample {first} was added before. Parts of a dataset are merged by their own sample numbers: "
                "collect(part, start=number of its first sample)."
            )
        if joined and first == joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)
