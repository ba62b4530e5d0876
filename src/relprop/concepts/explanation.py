"""What Concept Relevance Propagation returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.concepts.groups import Group
from relprop.explanations.explanation import Explanation


@dataclass(frozen=True)
class ConceptExplanation:
    """Relevance of a model's inputs by the features of a layer; `concepts[k]` is the explanation by the k-th.

    Attributes:
        layer: whose features they are.
        group: what a feature is.
        features: number of each feature, (n, B): of each sample its own.
        scores: relevance of all the layer's features, (B, f).
        parts: the explanation by each feature.
    """

    layer: str | int
    group: Group
    features: Int[Tensor, "n B"]
    scores: Float[Tensor, "B f"]
    parts: tuple[Explanation, ...]

    @property
    def relevance(self) -> Tensor | tuple[Tensor, ...]:
        """(n, B, ...): of each feature, shaped like the input; a tuple if there are several inputs."""
        found = [part.relevance for part in self.parts]
        if isinstance(found[0], Tensor):
            return torch.stack(found)  # type: ignore[arg-type]
        return tuple(map(torch.stack, zip(*found, strict=True)))

    @property
    def flat(self) -> Tensor | tuple[Tensor, ...]:
        """`relevance` as RelevancePropagation.jl returns it, (n·B, ...): feature by feature, row k·B + b."""
        found = self.relevance
        return found.flatten(0, 1) if isinstance(found, Tensor) else tuple(r.flatten(0, 1) for r in found)

    @property
    def feature_relevance(self) -> Float[Tensor, "n B"]:
        """Each feature's own relevance at the layer."""
        return self.scores.gather(1, self.features.T).T

    @property
    def target(self) -> Tensor | None:
        """Index of the explained output per sample, (B,)."""
        return self.parts[0].target

    @property
    def output(self) -> Any:
        """What the model returned."""
        return self.parts[0].output

    def heatmap(self, **options: Any) -> list[list[Any]]:
        """A picture for each feature and sample, in n lists of B.

        Args:
            **options: those of `Explanation.heatmap`.
        """
        return [part.heatmap(**options) for part in self.parts]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, k: int) -> Explanation:
        return self.parts[k]

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.parts)

    def __repr__(self) -> str:
        return (
            f"ConceptExplanation(layer={self.layer!r}, group={self.group!r}, features={self.features.tolist()}, "
            f"target={None if self.target is None else self.target.tolist()})"
        )
