"""What a program is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from relprop.engine.graph.graph import Node
from relprop.targets.target import Seed

Condition = Callable[[Tensor], Tensor] | None
"""What becomes of the relevance of a node, (B, ...) -> (B, ...): a function that is linear and takes each entry by
itself, so that it may be applied to both parts of a message; None stops it all."""

Edge = tuple[Node, Node]
"""(source, reader): relevance that the reader sends to the source."""


@dataclass(frozen=True)
class Mask:
    """The condition that keeps a part of relevance, `R -> mask · R`.

    Attributes:
        mask: numbers or booleans that broadcast to the node's value (B, ...).
    """

    mask: Tensor

    def __call__(self, relevance: Tensor) -> Tensor:
        return relevance * self.mask.to(device=relevance.device, dtype=relevance.dtype)


@dataclass(frozen=True)
class Question:
    """What is to be explained, and what of it is wanted.

    Attributes:
        start: where relevance starts: an output, or any other node that the program can start from.
        seed: start's value (B, ...) -> the relevance that it starts with, and the index of the explained entry, if any.
        relevance, activations: nodes whose relevance or values are wanted, by name.
        edges: edges whose relevance is wanted, by name.
        conditions: node -> what becomes of its relevance; what is taken away is the sink `condition`.
        audit: keep the books of every node.
        parameters: also give relevance of parameters.
        differentiable: keep everything differentiable, in inputs and parameters.
        reported: the explained entry's index in the whole output, where the program explains a part of it.
    """

    start: Node
    seed: Seed
    relevance: Mapping[str, Node] = field(default_factory=dict)
    activations: Mapping[str, Node] = field(default_factory=dict)
    edges: Mapping[str, Edge] = field(default_factory=dict)
    conditions: Mapping[Node, Condition] = field(default_factory=dict)
    audit: bool = False
    parameters: bool = False
    differentiable: bool = False
    reported: Tensor | None = None

    @property
    def reads(self) -> frozenset[Node]:
        """Nodes whose values are needed to answer it."""
        ends = {node for edge in self.edges.values() for node in edge}
        booked = set(self.conditions) if self.audit else set()
        return frozenset({self.start, *self.relevance.values(), *self.activations.values(), *ends, *booked})

    @property
    def is_plain(self) -> bool:
        """It asks for relevance of inputs alone, so that a program of a part of the graph can answer it."""
        wants = (self.relevance, self.activations, self.edges, self.conditions)
        return not any(wants) and not (self.audit or self.parameters or self.differentiable)


@dataclass
class Books:
    """Who received, passed on and kept relevance, summed over the batch.

    Attributes:
        received, magnitude: per node, what came in: its sum and the sum of its magnitudes.
        sent: per node, what went on to its inputs.
        sinks: per node, what it kept, by name.
    """

    received: dict[Node, float] = field(default_factory=dict)
    magnitude: dict[Node, float] = field(default_factory=dict)
    sent: dict[Node, float] = field(default_factory=dict)
    sinks: dict[Node, dict[str, float]] = field(default_factory=dict)

    def receive(self, node: Node, relevance: Tensor) -> None:
        """Enter what came to a node."""
        relevance = relevance.detach().double()
        self.received[node] = float(relevance.sum())
        self.magnitude[node] = float(relevance.abs().sum())


@dataclass(frozen=True)
class Answer:
    """What one question yields.

    Attributes:
        outputs: computes the model's flat outputs, as far as it has not yet been done.
        index: the explained entry of each sample's flattened output, (B,); None where it is not one entry.
        inputs: relevance by name of the input: of floating point inputs, and of embeddings of token ids.
        relevance, activations, edges: what the question asked for, by name. What relevance never came to is absent.
        parameters: relevance of parameters by name, if they were asked for.
        books: if the question was audited.
    """

    outputs: Callable[[], list[Any]]
    index: Tensor | None
    inputs: dict[str, Tensor]
    relevance: dict[str, Tensor] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)
    edges: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    books: Books | None = None
