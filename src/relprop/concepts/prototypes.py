"""What a class's explanations usually look like: prototypes of concept vectors (PCX, Dreyer et al. 2024).

A sample's concept vector `ν` holds the relevance of every feature of a layer for its class, in units of that output.
Each class is a mixture of Gaussians over the vectors of its samples; a component's mean is a prototype. What is
unlikely under the mixture is explained in an unusual way, and `ν - μ` says by which concepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.concepts.batches import inputs_and_labels, placed_with
from relprop.concepts.groups import Blocks, Channels
from relprop.concepts.mixture import Mixture
from relprop.concepts.references import check_layer, fingerprint_of
from relprop.concepts.store import refuse_other
from relprop.concepts.tensors import read, written
from relprop.errors import InputError
from relprop.targets import TargetLike

HEADER = "relprop.prototypes"


@dataclass(frozen=True)
class ClassPrototypes:
    """The prototypes of one class.

    Attributes:
        mixture: a prototype is the mean of a component.
        nearest: numbers of the samples whose vectors are nearest to each prototype, the nearest first.
        scores: outlier scores of the class's own samples, ascending.
    """

    mixture: Mixture
    nearest: Int[Tensor, "n k"]
    scores: Float[Tensor, " N"]


@dataclass(frozen=True)
class Comparison:
    """Samples, each beside the nearest prototype of its class.

    Attributes:
        classes: of each sample.
        prototype: which of the class's.
        score: `-log p(ν)` under the class's mixture: the higher, the more unusual.
        rank: share of the class's own samples with a lower score; over 0.99 is an outlier.
        vectors: `ν`, relevance of each feature.
        difference: `ν - μ`: what has more relevance than in the prototype, and what less.
    """

    classes: Int[Tensor, " B"]
    prototype: Int[Tensor, " B"]
    score: Float[Tensor, " B"]
    rank: Float[Tensor, " B"]
    vectors: Float[Tensor, "B f"]
    difference: Float[Tensor, "B f"]

    def strongest(self, sample: int, n: int = 5) -> list[tuple[int, float]]:
        """The features that differ most from the prototype: (feature, difference).

        Args:
            sample: which one.
            n: how many.
        """
        order = self.difference[sample].abs().argsort(descending=True, stable=True)[:n].tolist()
        return [(f, float(self.difference[sample, f])) for f in order]


class Prototypes:
    """Prototypes of the explanations of each class, at a layer.

    Args:
        lrp: the analyzer.
        layer: whose output has the features.
        group: what a feature is. None: `Channels()`.
        n: prototypes of each class.
        nearest: samples kept for each prototype.
        preprocessing: what was done to the samples, in words of your own.
        dataset: which data it is, in words of your own.

    Raises:
        InputError: it is none of these.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop import LRP
        >>> from relprop.concepts import Prototypes
        >>> lrp = LRP(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)))
        >>> data = [(torch.rand(20, 3), torch.arange(20) % 2) for _ in range(3)]
        >>> prototypes = Prototypes(lrp, "1", n=2).fit(data)
        >>> prototypes.compare(torch.rand(5, 3), target=1).difference.shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        lrp: LRP,
        layer: str,
        *,
        group: Blocks | None = None,
        n: int = 4,
        nearest: int = 8,
        preprocessing: str = "",
        dataset: str = "",
    ) -> None:
        check_layer(lrp, layer, group)
        if not all(isinstance(m, int) and m > 0 for m in (n, nearest)):
            raise InputError(f"n={n!r}, nearest={nearest!r}: give how many, at least 1.")
        self.lrp, self.layer, self.n, self.nearest = lrp, layer, n, nearest
        self.group: Blocks = Channels() if group is None else group
        made = {"layer": layer, "group": repr(self.group), "n": str(n), "nearest": str(nearest)}
        self._made = {**made, "preprocessing": preprocessing, "dataset": dataset}
        self.classes: Mapping[int, ClassPrototypes] = {}

    def fit(self, batches: Iterable[Any], *, seed: int = 0) -> Prototypes:
        """Find the prototypes of every class of a dataset.

        Args:
            batches: each an input (B, ...), a dict of keyword inputs, or a pair of that and labels (B,). Explained is
                the label, or the largest output where there is none.
            seed: of the mixtures' starts.

        Raises:
            InputError: a class has fewer samples than prototypes.
        """
        found = [self._vectors(*inputs_and_labels(batch)) for batch in batches]
        if not found:
            raise InputError("There are no batches to find prototypes in.")
        vectors, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        self.classes = {c: self._of_class(c, vectors, labels, seed) for c in sorted(set(labels.tolist()))}
        return self

    def compare(self, x: Any, target: TargetLike = None) -> Comparison:
        """Each sample beside the nearest prototype of its class.

        Args:
            x: a batch, or a dict of keyword inputs.
            target: the class that is explained, as for `LRP`.

        Raises:
            InputError: there are no prototypes of a sample's class, or the target is no class.
        """
        vectors, classes = self._vectors(x, target)
        unknown = sorted(set(classes.tolist()) - set(self.classes))
        if unknown:
            raise InputError(
                f"There are no prototypes of class {unknown[0]}, only of {list(self.classes)}: fit() first."
            )
        prototype, mean = torch.zeros_like(classes), torch.zeros_like(vectors)
        score, rank = vectors.new_zeros(len(vectors)), vectors.new_zeros(len(vectors))
        for c in set(classes.tolist()):
            rows, known = classes == c, self.classes[c]
            prototype[rows] = known.mixture.nearest(vectors[rows])
            mean[rows] = known.mixture.means[prototype[rows]]
            score[rows] = -known.mixture.log_density(vectors[rows])
            rank[rows] = torch.searchsorted(known.scores, score[rows].contiguous()).double() / len(known.scores)
        return Comparison(classes, prototype, score, rank, vectors, vectors - mean)

    def save(self, path: str | Path) -> None:
        """Write the prototypes as one safetensors file, whole or not at all.

        Args:
            path: of the file.
        """
        tensors = {"class": torch.tensor(list(self.classes), dtype=torch.long)}
        for c, known in self.classes.items():
            mixture = known.mixture
            tensors |= {
                f"{c}.weights": mixture.weights,
                f"{c}.means": mixture.means,
                f"{c}.variances": mixture.variances,
            }
            tensors |= {f"{c}.nearest": known.nearest, f"{c}.scores": known.scores}
        written(path, HEADER, {"fingerprint": self.fingerprint}, tensors)

    def load(self, path: str | Path) -> Prototypes:
        """Read what `save` wrote.

        Args:
            path: of the file.

        Raises:
            InputError: it is no such file, or was made with another model, composite, layer, dataset, ...
        """
        header, tensors = read(path, HEADER)
        refuse_other(self.fingerprint, header["fingerprint"])
        self.classes = {
            c: ClassPrototypes(
                Mixture(*(tensors[f"{c}.{name}"] for name in ("weights", "means", "variances"))),
                tensors[f"{c}.nearest"],
                tensors[f"{c}.scores"],
            )
            for c in tensors["class"].tolist()
        }
        return self

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the prototypes depend on."""
        return {**fingerprint_of(self.lrp), **self._made}

    def _vectors(self, inputs: Any, target: TargetLike) -> tuple[Float[Tensor, "B f"], Int[Tensor, " B"]]:
        """Relevance of each feature, and the class that it speaks for."""
        expl = self.lrp.explain(placed_with(self.lrp.model, inputs), target, layers=self.layer)
        if expl.target is None:
            raise InputError("Prototypes are of classes: give an output's number or name as the target.")
        sums = self.group.sums(expl.layers[self.layer].detach())
        return self.lrp.in_units_of_the_amount(expl, sums).cpu().double(), expl.target.cpu()

    def _of_class(self, c: int, vectors: Tensor, labels: Tensor, seed: int) -> ClassPrototypes:
        numbers = (labels == c).nonzero()[:, 0]
        own = vectors[numbers]
        try:
            mixture = Mixture.fit(own, self.n, seed=seed)
        except InputError as error:
            raise InputError(f"Class {c}: {error} Give more samples of it, or n=... smaller.") from error
        order = torch.cdist(mixture.means, own).argsort(dim=1, stable=True)[:, : self.nearest]
        return ClassPrototypes(mixture, numbers[order], (-mixture.log_density(own)).sort().values)

    def __repr__(self) -> str:
        return f"Prototypes({self.layer!r}, {self.group!r}, n={self.n}, {len(self.classes)} classes)"
