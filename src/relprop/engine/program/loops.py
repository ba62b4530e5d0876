"""The two loops: values forward, relevance back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value, is_random
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.step import Step
from relprop.engine.ops.tape import Message, Tape
from relprop.engine.program.constants import prefers_channels_last
from relprop.engine.program.program import Program
from relprop.engine.program.watch import Watch


def backward(steps: Sequence[Step], relevance: dict[Node, Message], tape: Tape, watch: Watch) -> None:
    """Some steps in reverse: each takes its node's relevance and shares it among the node's inputs."""
    for step in reversed(steps):
        message = watch.arrive(step.node, relevance, tape)
        if message is not None:
            pulled, message = step.pull(message, tape), None  # a step may let go of it while it works
            for source, share in watch.leave(step.node, list(pulled), tape):
                relevance[source] = relevance[source] + share if source in relevance else share
        tape.release(step.node)


def forward(
    program: Program,
    inputs: Sequence[Any],
    kept: frozenset[Node],
    *,
    record: bool = True,
    differentiable: bool = False,
) -> Tape:
    """Run the operators in order; a value is forgotten when its last reader has run.

    Args:
        inputs: the flat inputs, one for each of `program.graph.inputs`.
        kept: values that are not forgotten.
        record: let steps save what the reverse pass wants.
        differentiable: in inputs and in parameters; nothing is taken from an earlier call.
    """
    constants = program.constants
    dtype = relevance_dtype(program)
    tape = Tape(
        values=dict(constants.live() if differentiable else constants.values()),
        device=next(t.device for t in inputs if isinstance(t, Tensor)),
        dtype=dtype,
        modified=constants.modified if constants.keep and not differentiable else {},
        released=program.released_in_reverse,
        keeps_modified=constants.keep,
        widened=dtype != _dtype(program),
        differentiable=differentiable,
    )
    for node, value in zip(program.graph.inputs, inputs, strict=True):
        channels_last = prefers_channels_last(value) and any(op_of(r).convolves == 2 for r in node.users)
        tape.values[node] = value.contiguous(memory_format=torch.channels_last) if channels_last else value
        _note_shape(tape, node)
    advance(program, tape, program.operators, kept, record=record)
    return tape


def advance(program: Program, tape: Tape, operators: Sequence[Node], kept: frozenset[Node], *, record: bool) -> None:
    """Run some operators in order, on the values that are on the tape."""
    steps: Mapping[Node, Step] = program.step_of if record else {}
    schedule = program.schedule(operators, kept)
    released, in_place = schedule.released, {} if tape.differentiable else schedule.in_place
    for node in operators:
        if node in tape.values and is_random(node):  # drawn before, in a pass that runs again
            continue
        if node in in_place:
            tape.values[node] = in_place[node](tape.values[node.args[0]])  # type: ignore[index]
        else:
            tape.values[node] = steps[node].run(tape) if node in steps else tape.evaluate(node)
        _note_shape(tape, node)
        for done in released[node]:
            tape.values.pop(done, None)


def mode(differentiable: bool) -> AbstractContextManager[Any]:
    """Autograd as a run wants it."""
    own = torch.enable_grad() if differentiable else torch.no_grad()
    if not torch.is_inference_mode_enabled():
        return own
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(own)
    return stack


def _note_shape(tape: Tape, node: Node) -> None:
    value = tape.values[node]
    if isinstance(value, Tensor):
        tape.shapes[node] = value.shape


def relevance_dtype(program: Program) -> torch.dtype:
    """The explained output's floating point dtype, but no less than float32."""
    dtype = _dtype(program)
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _dtype(program: Program) -> torch.dtype:
    dtype: torch.dtype = fake_value(program.explained).dtype
    return dtype
