"""Questions to a program, answered on one forward pass.

Nothing here looks at the values of a tensor, so that `relprop.engine.program.trace` can follow it from end to end.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, info, is_random
from relprop.engine.ops.step import Step
from relprop.engine.ops.tape import Message, Tape
from relprop.engine.program.loops import advance, backward, forward, mode
from relprop.engine.program.outputs import Outputs
from relprop.engine.program.program import Program
from relprop.engine.program.question import Answer, Mask, Question
from relprop.engine.program.watch import Watch, by_input

Found = dict[Node, Tensor]
"""Relevance of the nodes where it is read."""


def answer(
    program: Program,
    inputs: Sequence[Any],
    questions: Sequence[Question],
    *,
    chunk: int | None = None,
    segments: int = 1,
    with_outputs: bool = True,
) -> Iterator[Answer]:
    """One answer per question.

    Denominators, which do not depend on the question, are computed once.

    Args:
        inputs: the flat inputs, one for each of `program.graph.inputs`.
        chunk: questions whose relevance travels at the same time, as one batch. None: one on a CPU, where more bring
            nothing, all on other devices.
        segments: into how many parts of equally many operators the forward pass is cut; each keeps only what crosses
            its borders, and runs again when relevance comes by. With `n` operators in `√n` parts, memory for
            activations grows with `√n`.
        with_outputs: the model's outputs are wanted, too.
    """
    run = Run(program, inputs, list(questions), with_outputs)
    if segments > 1 and not run.differentiable and not any(q.audit or q.parameters for q in run.questions):
        yield from run.in_segments(segments)
        return
    tape = run.forward(run.kept)
    for together in run.batches(chunk, tape.device):
        if len(together) == 1:
            yield run.one(together[0], tape if len(run.questions) == 1 else tape.own(batched=False))
        else:
            yield from run.batch(together, tape.own(batched=True))


@dataclass
class Run:
    """One forward pass, and what is asked of it."""

    program: Program
    inputs: Sequence[Any]
    questions: list[Question]
    with_outputs: bool

    def __post_init__(self) -> None:
        self.differentiable = any(q.differentiable for q in self.questions)
        self.outputs: Any = list

    @property
    def kept(self) -> frozenset[Node]:
        """Values that reverse passes read."""
        program = self.program
        kept = program.reads.union(program.kept_for_later, *(q.reads for q in self.questions))
        if any(q.audit or q.edges for q in self.questions):
            kept |= frozenset(n for n in program.graph.fx.nodes if info(n).data)
        if any(q.parameters for q in self.questions):
            kept = kept.union(*(step.reads_for_parameters for step in program.steps))
        return kept

    def forward(self, kept: frozenset[Node], *, record: bool = True) -> Tape:
        """The forward loop, for all questions."""
        with mode(self.differentiable):
            tape = forward(self.program, self.inputs, kept, record=record, differentiable=self.differentiable)
            tape.shared = len(self.questions) > 1
            if self.with_outputs:
                self.outputs = Outputs(self.program, tape, self.inputs)
        return tape

    def batches(self, chunk: int | None, device: torch.device) -> Iterator[list[Question]]:
        """Questions that follow each other and can be answered as one batch."""
        most = chunk or (1 if device.type == "cpu" else len(self.questions))
        batch: list[Question] = []
        for question in self.questions:
            if batch and (len(batch) == most or not _alike(batch[0], question)):
                yield batch
                batch = []
            batch.append(question)
        yield batch

    def one(self, question: Question, tape: Tape) -> Answer:
        """The answer to one question, by a reverse loop of its own."""
        with mode(self.differentiable):
            walk = Walk(self.program, question, tape)
            walk.through(self.program.steps, tape)
            return self.answered(walk, walk.collect(tape))

    def batch(self, questions: Sequence[Question], tape: Tape) -> Iterator[Answer]:
        """Relevance of several questions as one batch, by `torch.func.vmap`."""
        first = questions[0]
        starts = [q.seed(tape.values[q.start]) for q in questions]
        masks = {n: torch.stack([_mask(q, n) for q in questions]) for n in first.conditions}

        def back(start: Tensor, own: dict[Node, Tensor]) -> tuple[Found, dict[str, Tensor], dict[str, Tensor]]:
            question = replace(first, conditions={n: Mask(mask) for n, mask in own.items()})
            again = tape.own(batched=True)
            walk = Walk(self.program, question, again, start)
            walk.through(self.program.steps, again)
            return walk.collect(again), walk.watch.relevance, walk.watch.edges

        with mode(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # operators that vmap loops over
            seeds = torch.stack([start.to(tape.dtype) for start, _ in starts])
            batched = torch.func.vmap(back)(seeds, masks)
        for k, (question, (_, index)) in enumerate(zip(questions, starts, strict=True)):
            inputs, relevance, edges = batched
            yield Answer(
                outputs=self.outputs,
                index=index if question.reported is None else question.reported,
                inputs=self._by_input({node: r[k] for node, r in inputs.items()}),
                relevance={name: relevance[name][k].contiguous() for name in first.relevance if name in relevance},
                activations={name: tape.values[n] for name, n in question.activations.items()},
                edges={name: r[k] for name, r in edges.items()},
            )

    def in_segments(self, segments: int) -> Iterator[Answer]:
        """Forward in parts, each again, once, for all questions."""
        program = self.program
        length = -(-len(program.operators) // segments)
        parts = [program.operators[i : i + length] for i in range(0, len(program.operators), length)]
        crossing = _crossing(program, parts).union(*(q.reads for q in self.questions))
        tape = self.forward(crossing, record=False)
        wanted = program.reads | crossing
        with mode(False):
            walks = [Walk(program, q, tape) for q in self.questions]
            for part in reversed(parts):
                again = replace(tape.own(batched=False), denominators={})
                advance(program, again, part, wanted, record=True)
                steps = [program.step_of[node] for node in part if node in program.step_of]
                for walk in walks:
                    walk.through(steps, again.own(batched=False) if len(walks) > 1 else again)
            found = [self.answered(walk, walk.collect(tape)) for walk in walks]
        yield from found

    def answered(self, walk: Walk, inputs: Found) -> Answer:
        """The answer of a walk that has arrived, given relevance where it is read."""
        question, found = walk.question, walk.watch.relevance
        return Answer(
            outputs=self.outputs,
            index=walk.index if question.reported is None else question.reported,
            inputs=self._by_input(inputs),
            relevance={name: found[name].contiguous() for name in question.relevance if name in found},
            activations=walk.activations,
            edges=walk.watch.edges,
            parameters=walk.parameters or {},
            books=walk.watch.books,
        )

    def _by_input(self, found: Found) -> dict[str, Tensor]:
        return by_input(zip(self.program.graph.inputs, self.inputs, strict=True), self.program.arrivals, found)


class Walk:
    """The way of relevance for one question, from where it starts to the inputs.

    Args:
        start: the relevance that it starts with; None: what the question's seed says.
    """

    def __init__(self, program: Program, question: Question, tape: Tape, start: Tensor | None = None) -> None:
        self.program, self.question, self.watch = program, question, Watch(question)
        self.index: Tensor | None = None
        if start is None:
            start, self.index = question.seed(tape.values[question.start])
        self.relevance = {question.start: Message(R=start.to(tape.dtype))}
        self.activations = {name: tape.values[n] for name, n in question.activations.items()}
        self.sinks: dict[Node, dict[str, float]] | None = {} if question.audit else None
        self.parameters: dict[str, Tensor] | None = {} if question.parameters else None

    def through(self, steps: Sequence[Step], tape: Tape) -> None:
        """Relevance goes back through these steps."""
        tape.sinks, tape.parameters = self.sinks, self.parameters
        backward(steps, self.relevance, tape, self.watch)

    def collect(self, tape: Tape) -> dict[Node, Tensor]:
        """Relevance where it is read, node -> (B, ...), once all steps are done."""
        tape.sinks = self.sinks
        return self.watch.collect(self.program.arrivals, self.relevance, tape)


def _crossing(program: Program, parts: Sequence[Sequence[Node]]) -> frozenset[Node]:
    """Values that are computed in one part and read in another."""
    part_of = {node: i for i, part in enumerate(parts) for node in part}
    crossing = {n for n in part_of if any(part_of.get(r, -1) > part_of[n] for r in n.users)}
    crossing |= {n for n in part_of if is_random(n)}
    crossing |= {n for s in program.steps for n in s.reads if part_of.get(n, -1) > part_of[s.node]}
    return frozenset({*crossing, *program.starts, *program.arrivals, *program.graph.inputs}) | program.kept_for_later


def _alike(first: Question, second: Question) -> bool:
    """They differ in their seeds and masks only."""
    plain = not any(q.audit or q.parameters or q.differentiable for q in (first, second))
    masked = all(isinstance(c, Mask) for q in (first, second) for c in q.conditions.values())
    shapes = [{n: c.mask.shape for n, c in q.conditions.items() if isinstance(c, Mask)} for q in (first, second)]
    asked = [(q.start, q.relevance, q.activations, q.edges) for q in (first, second)]
    return plain and masked and shapes[0] == shapes[1] and asked[0] == asked[1]


def _mask(question: Question, node: Node) -> Tensor:
    condition = question.conditions[node]
    assert isinstance(condition, Mask)
    return condition.mask
