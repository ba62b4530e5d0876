"""What a program is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from relprop.engine.graph.graph import Node
from relprop.engine.program.condition import Condition
from relprop.targets.target import Seed

Edge = tuple[Node, Node]
"""(source, reader): relevance that the reader sends to the source."""


@dataclass(frozen=True)
class Question:
    """What is to be explained, and what of it is wanted.

    Attributes:
        start: where relevance starts: an output, or any other node that the program can start from.
        seed: start's value (B, ...) -> the relevance that it starts with, and the index of the explained entry, if any.
        relevance, activations: nodes whose relevance or values are wanted, by name.
        edges: edges whose relevance is wanted, by name.
        coefficients: nodes whose `c` in `R = a · c` is wanted, by name.
        conditions: node -> what becomes of its relevance; what is taken away is the sink `condition`.
        through: relevance that passes by the conditioned nodes, on other ways, is taken away, too.
        audit: keep the books of every node.
        parameters: also give relevance of parameters.
        positions: also give relevance that positions keep.
        differentiable: keep everything differentiable, in inputs and parameters.
        reported: the explained entry's index in the whole output, where the program explains a part of it.
    """

    start: Node
    seed: Seed
    relevance: Mapping[str, Node] = field(default_factory=dict)
    activations: Mapping[str, Node] = field(default_factory=dict)
    edges: Mapping[str, Edge] = field(default_factory=dict)
    coefficients: Mapping[str, Node] = field(default_factory=dict)
    conditions: Mapping[Node, Condition] = field(default_factory=dict)
    through: bool = False
    audit: bool = False
    parameters: bool = False
    positions: bool = False
    differentiable: bool = False
    reported: Tensor | None = None

    @property
    def reads(self) -> frozenset[Node]:
        """Nodes whose values are needed to answer it."""
        ends = {node for edge in self.edges.values() for node in edge}
        booked = {n for n, c in self.conditions.items() if self.audit or c.reads_value}
        asked = {n for wanted in self.wanted for n in wanted.values()}
        return frozenset({self.start, *asked, *ends, *booked})

    @property
    def wanted(self) -> tuple[Mapping[str, Node], ...]:
        """Nodes of which something is asked for, by name."""
        return self.relevance, self.activations, self.coefficients

    @property
    def is_plain(self) -> bool:
        """It asks for relevance of inputs alone, so that a program of a part of the graph can answer it."""
        return not any((*self.wanted, self.edges, self.conditions)) and not self.stands_alone

    @property
    def stands_alone(self) -> bool:
        """It notes more than relevance on its way, so that no other question shares the way."""
        return self.audit or self.parameters or self.positions or self.differentiable


@dataclass
class Books:
    """Who received, passed on and kept relevance, summed over the batch.

    Attributes:
        received, magnitude: per node, what came in: its sum and the sum of its magnitudes.
        sent: per node, what went on to its inputs.
        sent_magnitude: the sum of its magnitudes.
        merged: per sum of data with data, the magnitudes of what was added, and of the sum.
        sinks: per node, what it kept, by name.
        opening: the amount that is explained, and what of it the target keeps, by name; None where relevance starts
            with all of it.
    """

    received: dict[Node, float] = field(default_factory=dict)
    magnitude: dict[Node, float] = field(default_factory=dict)
    sent: dict[Node, float] = field(default_factory=dict)
    sent_magnitude: dict[Node, float] = field(default_factory=dict)
    merged: dict[Node, tuple[float, float]] = field(default_factory=dict)
    sinks: dict[Node, dict[str, float]] = field(default_factory=dict)
    opening: tuple[float, Mapping[str, float]] | None = None

    def receive(self, node: Node, relevance: Tensor, *, more: bool = False) -> None:
        """Enter what came to a node, or what came besides."""
        relevance = relevance.detach().double()
        for account, amount in ((self.received, relevance), (self.magnitude, relevance.abs())):
            account[node] = float(amount.sum()) + (account.get(node, 0.0) if more else 0.0)


@dataclass(frozen=True)
class Answer:
    """What one question yields.

    Attributes:
        outputs: computes the model's flat outputs, as far as it has not yet been done.
        index: the explained entry of each sample's flattened output, (B,); None where it is not one entry.
        inputs: relevance by name of the input: of floating point inputs, and of embeddings of token ids.
        relevance, activations, coefficients, edges: what the question asked for, by name. What relevance never came to
            is absent.
        parameters: relevance of parameters by name, if they were asked for.
        positions: relevance that positions keep, by module and what keeps it, if it was asked for.
        books: if the question was audited.
        amount: computes the number that is explained, (B,), before it is normalized.
    """

    outputs: Callable[[], list[Any]]
    index: Tensor | None
    inputs: dict[str, Tensor]
    relevance: dict[str, Tensor] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)
    coefficients: dict[str, Tensor] = field(default_factory=dict)
    edges: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    positions: dict[str, Tensor] = field(default_factory=dict)
    books: Books | None = None
    amount: Callable[[], Tensor] | None = None
