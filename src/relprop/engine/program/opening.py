"""The first step of several questions at once, where each asks about one position of a sequence.

A head over a vocabulary treats each position by itself. So for questions about positions `p_k` of an output (B, T, V)
one batch of rows `z[:, p_k]` goes back through it, (B, K, V), and not all T rows for each of K questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value, info
from relprop.engine.ops.affine import AffineStep
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.step import Step
from relprop.engine.ops.tape import Form, Message, Tape
from relprop.engine.program.focus import DIM
from relprop.engine.program.program import Program
from relprop.engine.program.question import Question
from relprop.targets.target import Seed


@dataclass(frozen=True)
class Opening:
    """How far relevance has come without a reverse loop.

    Attributes:
        node: where it is.
        given: parts of its message, by name; those at one position alone, (B, 1, ...), where there is a `place`.
        index: the explained entry of each sample's flattened output, (B,), if it is one entry.
        place: that position, (1,), and the length of the sequence: what surrounds it is 0, and is made when it is read.
    """

    node: Node
    given: Mapping[Form, Tensor]
    index: Tensor | None
    place: tuple[Tensor, int] | None = None

    @property
    def parts(self) -> Mapping[Form, Tensor]:
        """Those of the whole message, by name."""
        if self.place is None:
            return self.given
        position, length = self.place
        return {form: _among_zeros(part, position, length) for form, part in self.given.items()}

    @property
    def message(self) -> Message:
        """The node's message."""
        parts = self.parts
        return Message(parts.get("c"), parts.get("R"))


def opening(question: Question, tape: Tape) -> Opening:
    """Where a question says that relevance starts."""
    start, index = question.seed(tape.values[question.start])
    return Opening(question.start, {"R": start.to(tape.dtype)}, index)


def openings(program: Program, questions: Sequence[Question], tape: Tape) -> dict[int, Opening]:
    """`id` of each question -> where it is behind the first step; nothing where they do not share that one's work."""
    step = program.steps[-1] if program.steps else None
    if step is None or not _by_position(step, program, questions):
        return {}
    explained = tape.values[program.explained]
    found = [question.seed.target.at_position(explained.shape[1:]) for question in questions]
    places = [place for place in found if place is not None]
    if len(places) < len(questions):
        return {}
    rows = _Rows(explained, torch.tensor([position for position, _ in places], device=explained.device))
    seeds = [replace(q.seed, target=target) for q, (_, target) in zip(questions, places, strict=True)]
    pulled = step.pull(Message(R=rows.started(seeds).to(tape.dtype)), rows.tape(tape, step))
    message = sum((share for _, share in pulled), Message())
    both: dict[Form, Tensor | None] = {"c": message.c, "R": message.R}
    behind = {form: part for form, part in both.items() if part is not None}
    (source,) = step.sources
    return {
        id(question): Opening(
            source,
            {form: part.narrow(DIM, k, 1) for form, part in behind.items()},
            question.seed.target.index(explained),
            (rows.positions[k : k + 1], explained.shape[DIM]),
        )
        for k, question in enumerate(questions)
    }


def _by_position(step: Step, program: Program, questions: Sequence[Question]) -> bool:
    """The step that all of them start with treats each position by itself, and has one input."""
    if not isinstance(step, AffineStep) or step.node is not program.explained or len(questions) < 2:
        return False
    asks = all(q.is_plain and q.start is step.node for q in questions)
    alone = len(step.sources) == 1 and step.affine_rule.is_local
    op, rank = op_of(step.node), len(fake_value(step.node).shape)
    local = op.positions == 1 and op.local(step.node, DIM)  # its weight and bias are the same at all positions
    return asks and alone and local and rank > DIM + 1


@dataclass(frozen=True)
class _Rows:
    """Positions (K,) of an output (B, T, ...), one for each question."""

    explained: Tensor
    positions: Tensor

    def started(self, seeds: Sequence[Seed]) -> Tensor:
        """The relevance that starts at each, (B, K, ...)."""
        chosen = self.explained.index_select(DIM, self.positions)
        return torch.cat([seed(chosen.narrow(DIM, k, 1))[0] for k, seed in enumerate(seeds)], DIM)

    def tape(self, tape: Tape, step: Step) -> Tape:
        """What a step reads, at the positions alone."""
        own = replace(tape.own(batched=False), denominators={}, shapes=dict(tape.shapes))
        for node in (step.node, *step.sources):
            if node in own.values and not info(node).static:
                own.values[node] = own.values[node].index_select(DIM, self.positions)
            shape = list(own.shapes[node])
            shape[DIM] = len(self.positions)
            own.shapes[node] = torch.Size(shape)
        return own


def _among_zeros(row: Tensor, position: Tensor, length: int) -> Tensor:
    """A row (B, 1, ...) at its position of a sequence, (B, T, ...)."""
    shape = list(row.shape)
    shape[DIM] = length
    return row.new_zeros(shape).index_copy_(DIM, position, row)
