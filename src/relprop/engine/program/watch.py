"""What a reverse pass does beside passing relevance on: conditions, what was asked for, and the books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, info
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.tape import Message, Tape
from relprop.engine.program.condition import Arrived, Condition
from relprop.engine.program.question import Books, Question

Shares = Sequence[tuple[Node, Message]]


@dataclass
class Watch:
    """Stands beside the reverse loop, for one question.

    Attributes:
        relevance, coefficients, edges: what the question asked for, as it comes by.
        books: if the question is audited.
    """

    question: Question
    relevance: dict[str, Tensor] = field(default_factory=dict)
    coefficients: dict[str, Tensor] = field(default_factory=dict)
    edges: dict[str, Tensor] = field(default_factory=dict)
    books: Books | None = None

    def __post_init__(self) -> None:
        q = self.question
        self.books = Books() if q.audit else None
        self._relevance, self._coefficients = _names(q.relevance), _names(q.coefficients)
        self._readers = {reader for _, reader in q.edges.values()}

    @property
    def found(self) -> list[dict[str, Tensor]]:
        """What it has seen: relevance, coefficients, relevance of edges."""
        return [self.relevance, self.coefficients, self.edges]

    def fork(self, question: Question) -> Watch:
        """What it has seen so far, for another question that agrees with this one up to here."""
        relevance, coefficients, edges = map(dict, self.found)
        return Watch(question, relevance, coefficients, edges)

    def arrive(self, node: Node, left: dict[Node, Message], tape: Tape) -> Message | None:
        """A node's whole relevance is here, and taken from what is left on its way: what of it goes on."""
        question, message = self.question, left.pop(node, None)
        passed = message
        if message is not None:
            arrived = Arrived(node, message, tape)
            if self.books is not None:
                self.books.receive(node, arrived.relevance)
            for name in self._coefficients.get(node, ()):
                self.coefficients[name] = arrived.coefficient
            if node in question.conditions:
                passed = self._conditioned(question.conditions[node], arrived)
            for name in self._relevance.get(node, ()):
                self.relevance[name] = tape.total(node, passed or message)  # where it stops, what came
        if question.through and node in question.conditions:
            self._pass_by(node, left, tape)
        return passed

    def leave(self, node: Node, shares: Shares, tape: Tape) -> Shares:
        """A node has shared its relevance among its inputs."""
        if node in self._readers:
            for name, (source, reader) in self.question.edges.items():
                if reader is node:
                    parts = [tape.total(source, share) for to, share in shares if to is source]
                    self.edges |= {name: sum(parts[1:], parts[0])} if parts else {}
        if self.books is not None:
            sent: dict[Node, Tensor] = {}
            for to, share in shares:  # a rule may send one input several parts, which make one share
                part = tape.total(to, share).detach().double()
                sent[to] = sent[to] + part if to in sent else part
            self.books.sent[node] = sum(float(s.sum()) for s in sent.values())
            self.books.sent_magnitude[node] = sum(map(_magnitude, sent.values()))
            if op_of(node).name == "add" and len(sent) > 1:
                self._merge(self.books, node, sent, tape)
        return shares

    def _merge(self, books: Books, node: Node, summands: Iterable[Node], tape: Tape) -> None:
        """Magnitudes of what was added and of the sum, as far as they are still there."""
        added = [tape.values.get(to) for to in summands]
        z = tape.values.get(node)
        if all(isinstance(a, Tensor) for a in (*added, z)):
            books.merged[node] = (sum(map(_magnitude, added)), _magnitude(z))

    def collect(self, arrivals: Iterable[Node], left: dict[Node, Message], tape: Tape) -> dict[Node, Tensor]:
        """Relevance where it is read, node -> (B, ...), of what the reverse loop has left."""
        start = self.question.start
        unread = left.get(start) if start not in arrivals else None  # it counts as a constant: nothing goes on
        found: dict[Node, Tensor] = {}
        for node in sorted(arrivals, key=lambda n: n in self.question.conditions, reverse=self.question.through):
            message = self._read(node, left, tape)
            if message is not None:
                found[node] = tape.total(node, message)
            elif info(node).entry:  # of embedded ids nothing else tells that there is none
                found[node] = torch.zeros(tape.shapes[node], dtype=tape.dtype, device=tape.device)
        if self.books is not None:
            if unread is not None:
                self.books.receive(start, tape.total(start, unread))
                self.books.sent[start] = 0.0
                tape.sink(start, "stopped", lambda: tape.total(start, unread))
            self.books.sinks = tape.sinks or {}
        return found

    def _read(self, node: Node, left: dict[Node, Message], tape: Tape) -> Message | None:
        """What is read at an input: it has an account only where a condition takes something away."""
        books, conditioned = self.books, node in self.question.conditions
        self.books = books if conditioned else None
        passed = self.arrive(node, left, tape)
        self.books = books
        if books is not None and node in books.received:
            books.sent[node] = 0.0 if passed is None else _total([(node, passed)], tape)
        return passed

    def _conditioned(self, condition: Condition, arrived: Arrived) -> Message | None:
        passed, tape, node = condition.passed(arrived), arrived.tape, arrived.node
        tape.sink(node, "condition", lambda: arrived.relevance - (0 if passed is None else tape.total(node, passed)))
        return passed

    def _pass_by(self, node: Node, left: dict[Node, Message], tape: Tape) -> None:
        """Relevance on other ways than by a node that all has to pass goes no further. The node's account takes it."""
        for other, message in left.items():
            if self.books is not None:
                self.books.receive(node, tape.total(other, message), more=True)
            tape.sink(node, "condition", partial(tape.total, other, message))
        left.clear()


def _names(wanted: Mapping[str, Node]) -> dict[Node, list[str]]:
    names: dict[Node, list[str]] = {}
    for name, node in wanted.items():
        names.setdefault(node, []).append(name)
    return names


def _magnitude(value: Any) -> float:
    return float(value.detach().double().abs().sum())


def _total(shares: Shares, tape: Tape) -> float:
    return sum(float(tape.total(node, share).detach().double().sum()) for node, share in shares)


def by_input(
    names: Iterable[tuple[Node, object]], arrivals: Sequence[Node], found: Mapping[Node, Tensor]
) -> dict[str, Tensor]:
    """Relevance by input: of every floating point input, and of the embeddings of every input of token ids.

    An embedding of what several inputs hold together is called after all of them, `a+b`.

    Args:
        names: inputs, and their values.
    """
    results: dict[str, Tensor] = {}
    embedded: dict[str, list[Tensor]] = {}
    for node in arrivals:
        if info(node).entry and node in found:
            embedded.setdefault(info(node).entry, []).append(found[node])
    for node, value in names:
        if isinstance(value, Tensor) and value.is_floating_point():
            relevance = found.get(node)
            whole = value.new_zeros(value.shape) if relevance is None else relevance.to(value.dtype)
            results[node.name] = whole.contiguous()
        results |= _numbered(node.name, embedded.pop(node.name, []), first=int(node.name in results))
    for name, relevances in embedded.items():  # ids of several inputs in one embedding
        results |= _numbered(name, relevances, first=0)
    return results


def _numbered(name: str, relevances: Sequence[Tensor], first: int) -> dict[str, Tensor]:
    """`ids`, `ids@1`, ...: each embedding of an input."""
    return {f"{name}@{i}" if i else name: relevance for i, relevance in enumerate(relevances, first)}
