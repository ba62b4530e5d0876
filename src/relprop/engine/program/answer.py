"""Questions to a program, answered on one forward pass.

Nothing here looks at the values of a tensor, so that `relprop.engine.program.trace` can follow it from end to end.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, info, is_random, where_is
from relprop.engine.ops.step import Step
from relprop.engine.ops.tape import Form, Tape
from relprop.engine.program.condition import Arrived, Choice, Mask, Projection, Stop
from relprop.engine.program.loops import advance, backward, forward, mode
from relprop.engine.program.opening import Opening, opening, openings
from relprop.engine.program.outputs import Outputs
from relprop.engine.program.program import Program
from relprop.engine.program.question import Answer, Question
from relprop.engine.program.watch import Watch, by_input
from relprop.errors import InputError

Found = dict[Node, Tensor]
"""Relevance of the nodes where it is read."""

MOST_TOKENS = 512
"""Of all questions that a CPU answers at a time."""

ALIVE = 8
"""Tensors of the size of a layer's value, that a step of the reverse pass has at a time, for each question."""


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

    Denominators, which do not depend on the question, are computed once, and so is the way of relevance down to the
    first node with a condition, for questions that follow each other and differ in their conditions only.

    Args:
        inputs: the flat inputs, one for each of `program.graph.inputs`.
        chunk: questions whose relevance travels at the same time, as one batch. None: on a CPU so many that they have
            `MOST_TOKENS` tokens together, and one where the inputs are no tokens, since more bring nothing; on a GPU
            so many as its free memory holds by a rough count (`fitting`); all on other devices.
        segments: into how many parts of equally many operators the forward pass is cut; each keeps only what crosses
            its borders, and runs again when relevance comes by. With `n` operators in `√n` parts, memory for
            activations grows with `√n`.
        with_outputs: the model's outputs are wanted, too.
    """
    run = Run(program, inputs, list(questions), with_outputs)
    for question in run.questions:
        _check_projections(program, question)
    if segments > 1 and not any(q.differentiable or q.positions for q in run.questions):
        yield from run.in_segments(segments)
        return
    tape = run.forward(run.kept)
    if len(run.questions) == 1:
        yield run.one(run.questions[0], tape)
        return
    for questions, common in run.forked(tape):
        with mode(False):
            opened = {} if common else openings(program, questions, tape)
        for together in run.batches(questions, chunk, tape):
            if len(together) == 1:
                yield run.one(together[0], tape.own(batched=False), common, opened.get(id(together[0])))
            else:
                yield from run.batch(together, tape.own(batched=True), common, opened)


def fitting(tape: Tape, count: int) -> int:
    """Questions, at most `count`, whose relevance a GPU has room for: each takes `ALIVE` times the largest value's."""
    free = free_memory(tape.device)
    if free is None:
        return count
    largest = max(shape.numel() for shape in tape.shapes.values()) * tape.dtype.itemsize
    return max(1, min(count, free // (ALIVE * max(1, largest))))


def free_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has left, those that PyTorch holds without use among them; None of other devices."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


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
        return self.wanted.union(self.program.kept_for_later, *(q.reads for q in self.questions))

    @property
    def wanted(self) -> frozenset[Node]:
        """Of these, the values that steps and the books read."""
        program, wanted = self.program, self.program.reads
        if any(q.audit or q.edges for q in self.questions):
            wanted |= frozenset(n for n in program.graph.fx.nodes if info(n).data)
        if any(q.parameters for q in self.questions):
            wanted = wanted.union(*(step.reads_for_parameters for step in program.steps))
        if any(q.positions for q in self.questions):
            wanted = wanted.union(*(step.reads_for_positions for step in program.steps))
        return wanted

    def forward(self, kept: frozenset[Node], *, record: bool = True) -> Tape:
        """The forward loop, for all questions."""
        with mode(self.differentiable):
            tape = forward(self.program, self.inputs, kept, record=record, differentiable=self.differentiable)
            tape.shared = len(self.questions) > 1
            if self.with_outputs:
                self.outputs = Outputs(self.program, tape, self.inputs)
        return tape

    def forked(self, tape: Tape) -> Iterator[tuple[list[Question], Walk | None]]:
        """Questions that follow each other, and the first part of their way, if it is the same."""
        for _, group in groupby(self.questions, key=lambda q: _way(q) if q.conditions else None):
            questions = list(group)
            conditioned = {node for question in questions for node in question.conditions}
            if len(questions) == 1 or not conditioned:
                yield questions, None
                continue
            own = tape.own(batched=False)
            with mode(False):
                common = Walk(self.program, replace(questions[0], conditions={}, through=False), own)
                common.until(conditioned, own)
                questions = [common.choose(question, own) for question in questions]
            yield questions, common

    def batches(self, questions: Sequence[Question], chunk: int | None, tape: Tape) -> Iterator[list[Question]]:
        """Questions that follow each other and can be answered as one batch."""
        most = chunk or (self._together(tape) if tape.device.type == "cpu" else fitting(tape, len(questions)))
        batch: list[Question] = []
        for question in questions:
            if batch and (len(batch) == most or not _alike(batch[0], question)):
                yield batch
                batch = []
            batch.append(question)
        yield batch

    def _together(self, tape: Tape) -> int:
        """Questions at a time on a CPU: so many that they have `MOST_TOKENS` together, and 1 of what are no tokens."""
        embedded = [tape.shapes[node] for node in self.program.arrivals if info(node).entry]
        tokens = sum(shape[:-1].numel() for shape in embedded)
        return max(1, MOST_TOKENS // tokens) if tokens and not self.program.has_own_code else 1

    def one(self, question: Question, tape: Tape, common: Walk | None = None, opened: Opening | None = None) -> Answer:
        """The answer to one question, by a reverse loop of its own.

        Args:
            question: what is asked.
            tape: its own.
            common: the first part of the loop.
            opened: where it begins, if not at the question's start.
        """
        with mode(self.differentiable):
            walk = Walk(self.program, question, tape, opened) if common is None else common.fork(question)
            walk.through(walk.ahead, tape)
            return self.answered(walk, walk.collect(tape))

    def batch(
        self, questions: Sequence[Question], tape: Tape, common: Walk | None, opened: Mapping[int, Opening]
    ) -> Iterator[Answer]:
        """Relevance of several questions as one batch, by `torch.func.vmap`."""
        first = questions[0]
        starts = [] if common else [opened.get(id(q)) or opening(q, tape) for q in questions]
        stopped = {n: c for n, c in first.conditions.items() if isinstance(c, Stop)}
        masks = {n: torch.stack([_mask(q, n) for q in questions]) for n in first.conditions if n not in stopped}

        def back(parts: dict[Form, Tensor], own: dict[Node, Tensor]) -> tuple[Found, list[dict[str, Tensor]]]:
            question = replace(first, conditions={**stopped, **{n: Mask(mask) for n, mask in own.items()}})
            again = tape.own(batched=True)
            if common is None:
                walk = Walk(self.program, question, again, replace(starts[0], given=parts, place=None))
            else:
                walk = common.fork(question)
            walk.through(walk.ahead, again)
            return walk.collect(again), walk.watch.found

        with mode(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # operators that vmap loops over
            several = [s.parts for s in starts]
            parts = {form: torch.stack([each[form] for each in several]) for form in (several[0] if several else ())}
            inputs, seen = torch.func.vmap(back)(parts, masks)
        for k, question in enumerate(questions):
            index = common.index if common else starts[k].index
            relevance, coefficients, edges = ({name: r[k].contiguous() for name, r in d.items()} for d in seen)
            yield Answer(
                outputs=self.outputs,
                index=index if question.reported is None else question.reported,
                inputs=self._by_input({node: r[k] for node, r in inputs.items()}),
                relevance={name: relevance[name] for name in first.relevance if name in relevance},
                activations={name: tape.values[n] for name, n in question.activations.items()},
                coefficients=coefficients,
                edges=edges,
                amount=partial(question.seed.amount, tape.values[question.start]),
            )

    def in_segments(self, segments: int) -> Iterator[Answer]:
        """Forward in parts, each again, once, for all questions."""
        program = self.program
        length = -(-len(program.operators) // segments)
        parts = [program.operators[i : i + length] for i in range(0, len(program.operators), length)]
        crossing = _crossing(program, parts).union(*(q.reads for q in self.questions))
        tape = self.forward(crossing, record=False)
        wanted = self.wanted | crossing
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
        question, watch = walk.question, walk.watch
        return Answer(
            outputs=self.outputs,
            index=walk.index if question.reported is None else question.reported,
            inputs=self._by_input(inputs),
            relevance={n: watch.relevance[n].contiguous() for n in question.relevance if n in watch.relevance},
            activations=walk.activations,
            coefficients=watch.coefficients,
            edges=watch.edges,
            parameters=walk.parameters or {},
            positions=walk.positions or {},
            books=watch.books,
            amount=walk.amount,
        )

    def _by_input(self, found: Found) -> dict[str, Tensor]:
        return by_input(zip(self.program.graph.inputs, self.inputs, strict=True), self.program.arrivals, found)


class Walk:
    """The way of relevance for one question, from where it starts to the inputs.

    Args:
        opened: how far it has come already; None: where the question's seed says that it starts.
    """

    def __init__(self, program: Program, question: Question, tape: Tape, opened: Opening | None = None) -> None:
        self.program, self.question, self.watch = program, question, Watch(question)
        explained = tape.values[question.start]
        self.amount = partial(question.seed.amount, explained)
        opened = opening(question, tape) if opened is None else opened
        if self.watch.books is not None:
            self.watch.books.opening = question.seed.opening(explained)
        self.index = opened.index
        self.relevance = {opened.node: opened.message}
        self.ahead = program.steps if opened.node is question.start else program.steps[:-1]
        self.activations = {name: tape.values[n] for name, n in question.activations.items()}
        self.sinks: dict[Node, dict[str, float]] | None = {} if question.audit else None
        self.parameters: dict[str, Tensor] | None = {} if question.parameters else None
        self.positions: dict[str, Tensor] | None = {} if question.positions else None

    def through(self, steps: Sequence[Step], tape: Tape) -> None:
        """Relevance goes back through these steps."""
        tape.sinks, tape.parameters, tape.positions = self.sinks, self.parameters, self.positions
        backward(steps, self.relevance, tape, self.watch)

    def until(self, nodes: Set[Node], tape: Tape) -> None:
        """Relevance goes back until it comes to one of these nodes."""
        left = max((i for i, step in enumerate(self.program.steps, 1) if step.node in nodes), default=0)
        self.ahead = self.program.steps[:left]
        self.through(self.program.steps[left:], tape)

    def fork(self, question: Question) -> Walk:
        """The same way so far, for another question."""
        walk = copy(self)
        walk.question, walk.watch, walk.relevance = question, self.watch.fork(question), dict(self.relevance)
        return walk

    def choose(self, question: Question, tape: Tape) -> Question:
        """The question, with masks in the place of what chooses among the relevance that has arrived."""
        arrived = {self.ahead[-1].node} if self.ahead else set(self.program.arrivals)
        conditions = dict(question.conditions)
        for node in arrived & {*conditions} & {*self.relevance}:
            while isinstance(choice := conditions[node], Choice):
                conditions[node] = choice.choose(Arrived(node, self.relevance[node], tape))
        return replace(question, conditions=conditions)

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


def _way(question: Question) -> tuple[Any, ...]:
    """What two questions agree in that differ in their conditions only; nothing else is equal to that of the books."""
    alone = question.stands_alone
    asked = [tuple(wanted.items()) for wanted in (*question.wanted, question.edges)]
    seed = id(question.seed.target), question.seed.normalize
    return (id(question) if alone else 0, question.start, seed, *asked)


def _alike(first: Question, second: Question) -> bool:
    """They differ in their seeds and masks only, and stop at the same nodes."""
    plain = not any(q.stands_alone for q in (first, second))
    masked = all(isinstance(c, (Mask, Stop)) for q in (first, second) for c in q.conditions.values())
    shapes = [
        {n: c.mask.shape if isinstance(c, Mask) else None for n, c in q.conditions.items()} for q in (first, second)
    ]
    asked = [(q.start, *q.wanted, q.edges, q.through) for q in (first, second)]
    return plain and masked and shapes[0] == shapes[1] and asked[0] == asked[1]


def _mask(question: Question, node: Node) -> Tensor:
    condition = question.conditions[node]
    assert isinstance(condition, Mask)
    return condition.mask


def _check_projections(program: Program, question: Question) -> None:
    """A step that knows where no relevance comes from must not get any there."""
    for node, condition in question.conditions.items():
        if isinstance(condition, Projection) and node in program.step_of and program.step_of[node].expects_gaps:
            raise InputError(
                f"Directions at {where_is(node)} would send relevance where a ReLU behind it, or what reads it, sends "
                "none. Name the output of the activation behind it."
            )
