"""What a reverse pass does beside passing relevance on: conditions, what was asked for, and the books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from relprop.engine.graph.graph import Node, info
from relprop.engine.ops.tape import Message, Tape
from relprop.engine.program.question import Books, Question

Shares = Sequence[tuple[Node, Message]]


@dataclass
class Watch:
    """Stands beside the reverse loop, for one question.

    Attributes:
        relevance, edges: what the question asked for, as it comes by.
        books: if the question is audited.
    """

    question: Question
    relevance: dict[str, Tensor] = field(default_factory=dict)
    edges: dict[str, Tensor] = field(default_factory=dict)
    books: Books | None = None

    def __post_init__(self) -> None:
        self.books = Books() if self.question.audit else None
        self._names: dict[Node, list[str]] = {}
        for name, node in self.question.relevance.items():
            self._names.setdefault(node, []).append(name)
        self._readers = {reader for _, reader in self.question.edges.values()}

    def arrive(self, node: Node, message: Message | None, tape: Tape) -> Message | None:
        """A node's whole relevance is here: what of it goes on."""
        if message is None:
            return None
        if self.books is not None:
            self.books.receive(node, tape.total(node, message))
        passed: Message | None = message
        if node in self.question.conditions:
            passed = self._conditioned(node, message, tape)
        for name in self._names.get(node, ()):
            self.relevance[name] = tape.total(node, passed or message)  # where it stops, what came
        return passed

    def leave(self, node: Node, shares: Shares, tape: Tape) -> Shares:
        """A node has shared its relevance among its inputs."""
        if node in self._readers:
            for name, (source, reader) in self.question.edges.items():
                if reader is node:
                    sent = [tape.total(source, share) for to, share in shares if to is source]
                    self.edges |= {name: sum(sent[1:], sent[0])} if sent else {}
        if self.books is not None:
            self.books.sent[node] = _total(shares, tape)
        return shares

    def collect(self, arrivals: Iterable[Node], left: Mapping[Node, Message], tape: Tape) -> dict[Node, Tensor]:
        """Relevance where it is read, node -> (B, ...), of what the reverse loop has left."""
        found: dict[Node, Tensor] = {}
        for node in arrivals:
            if node in left:
                message = self._read(node, left[node], tape)
                found |= {} if message is None else {node: tape.total(node, message)}
        start = self.question.start
        if self.books is not None:
            if start in left and start not in found:  # it counts as a constant: nothing goes on
                self.books.receive(start, tape.total(start, left[start]))
                self.books.sent[start] = 0.0
                tape.sink(start, "stopped", lambda: tape.total(start, left[start]))
            self.books.sinks = tape.sinks or {}
        return found

    def _read(self, node: Node, message: Message, tape: Tape) -> Message | None:
        """What is read at an input: it has an account only where a condition takes something away."""
        if node not in self.question.conditions:
            for name in self._names.get(node, ()):
                self.relevance[name] = tape.total(node, message)
            return message
        passed = self.arrive(node, message, tape)
        if self.books is not None:
            self.books.sent[node] = 0.0 if passed is None else _total([(node, passed)], tape)
        return passed

    def _conditioned(self, node: Node, message: Message, tape: Tape) -> Message | None:
        condition = self.question.conditions[node]
        if condition is None:
            tape.sink(node, "condition", lambda: tape.total(node, message))
            return None
        passed = message.map(condition)
        tape.sink(node, "condition", lambda: tape.total(node, message) - tape.total(node, passed))
        return passed


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
