"""What attribution graphs consist of: concepts, and the prompt that their positions belong to."""

from __future__ import annotations

from dataclasses import dataclass

TARGET = "target"


@dataclass(frozen=True)
class Concept:
    """A feature of a layer, maybe at one position of a sequence; of the layer `"target"` it is what is explained."""

    layer: str
    feature: int
    position: int | None = None

    def __str__(self) -> str:
        at = "" if self.position is None else f" at {self.position}"
        return f"{self.layer} {self.feature}{at}"


@dataclass(frozen=True)
class Prompt:
    """The tokens that a graph's positions stand for.

    Attributes:
        tokens: how they are written.
        ids: of each in the vocabulary; none where nobody knows.
        embeddings: the layer in which each token stands for itself; "" where the graph does not go down to it.
    """

    tokens: tuple[str, ...]
    ids: tuple[int, ...] = ()
    embeddings: str = ""

    def token_at(self, concept: Concept) -> str | None:
        """The token that a concept is; None for a feature of another kind."""
        if concept.position is None or concept.layer != self.embeddings:
            return None
        return self.tokens[concept.position]
