"""The two loops: values forward, relevance back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value, info
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.step import Step
from relprop.engine.ops.tape import Message, Tape
from relprop.engine.program.constants import prefers_channels_last
from relprop.engine.program.program import Program, last_readers

Seed = Callable[[Tensor], Tensor]
"""Explained output -> the relevance that it starts with, in the same shape."""


@dataclass
class Result:
    """What one run gives.

    Attributes:
        outputs: computes the model's flat outputs, as far as it has not yet been done.
        relevance: relevance of each floating point input, and of each embedding of token ids.
        recorded: relevance of the nodes that were asked for.
        received, magnitude: per node, what came in: its sum and the sum of its magnitudes (audited runs only).
        sent: per node, what went on to its inputs (audited runs only).
        sinks: per node, what it kept, by name (audited runs only).
    """

    outputs: Callable[[], list[Any]]
    relevance: dict[Node, Tensor]
    recorded: dict[Node, Tensor]
    received: dict[Node, float] = field(default_factory=dict)
    magnitude: dict[Node, float] = field(default_factory=dict)
    sent: dict[Node, float] = field(default_factory=dict)
    sinks: dict[Node, dict[str, float]] = field(default_factory=dict)


def run(
    program: Program, inputs: Sequence[Any], seed: Seed, record: Iterable[Node] = (), audit: bool = False
) -> Result:
    """Forward, then back.

    Args:
        inputs: the flat inputs, one for each of `program.graph.inputs`.
        seed: where relevance starts.
        record: nodes whose relevance is to be kept.
        audit: keep the books of every node.
    """
    wanted = frozenset(record)
    with torch.inference_mode(False), torch.no_grad():
        kept = program.reads | wanted | {program.explained}
        if audit:
            kept |= frozenset(n for n in program.graph.fx.nodes if info(n).data)
        tape = forward(program, inputs, kept | program.kept_for_later)
        outputs = _outputs(program, tape)
        tape.sinks = {} if audit else None
        result = Result(outputs, {}, {})
        start = seed(tape.values[program.explained]).to(tape.dtype)
        backward(program, tape, start, wanted, result, audit)
    return result


def run_checkpointed(
    program: Program, inputs: Sequence[Any], seed: Seed, record: Iterable[Node], segments: int
) -> Result:
    """`run`, but the forward pass keeps only what crosses the borders of segments; each is run again when it is due.

    With `n` operators in `√n` segments, memory for activations grows with `√n`, for one more forward pass.

    Args:
        segments: into how many parts of equally many operators the forward pass is cut.
    """
    wanted = frozenset(record)
    length = -(-len(program.operators) // segments)
    parts = [program.operators[i : i + length] for i in range(0, len(program.operators), length)]
    part_of = {node: i for i, part in enumerate(parts) for node in part}
    crossing = frozenset(n for n in part_of if any(part_of.get(r, -1) > part_of[n] for r in n.users))
    crossing |= {n for s in program.steps for n in s.reads if part_of.get(n, -1) > part_of[s.node]}
    crossing |= {program.explained, *program.arrivals, *program.graph.inputs} | program.kept_for_later
    with torch.inference_mode(False), torch.no_grad():
        tape = forward(program, inputs, crossing, record=False)
        result = Result(_outputs(program, tape), {}, {})
        start = seed(tape.values[program.explained]).to(tape.dtype)
        relevance: dict[Node, Message] = {program.explained: Message(R=start)}
        for part in reversed(parts):
            own = replace(tape, values=dict(tape.values), recorded={}, saved={})
            _advance(program, own, part, program.reads | wanted | crossing, record=True)
            steps = [program.step_of[node] for node in part if node in program.step_of]
            _walk(program, own, steps, relevance, wanted, result, audit=False)
        _collect(program, tape, relevance, result)
    return result


def run_each(
    program: Program,
    inputs: Sequence[Any],
    seeds: Sequence[Seed],
    record: Iterable[Node] = (),
    chunk: int | None = None,
) -> Iterator[Result]:
    """Forward once, then back for each seed; denominators, which do not depend on the seed, are computed once.

    Args:
        seeds: where relevance starts.
        chunk: seeds whose relevance travels at the same time, as one batch. None: one on a CPU, where more bring
            nothing, all on other devices.
    """
    wanted = frozenset(record)
    with torch.inference_mode(False), torch.no_grad():
        tape = forward(program, inputs, program.reads | wanted | {program.explained} | program.kept_for_later)
        tape.shared = True
        outputs = _outputs(program, tape)
        starts = torch.stack([seed(tape.values[program.explained]).to(tape.dtype) for seed in seeds])
        together = chunk or (1 if tape.device.type == "cpu" else len(seeds))
        tape.batched = together > 1

        def back(start: Tensor) -> tuple[dict[Node, Tensor], dict[Node, Tensor]]:
            own = replace(tape, values=dict(tape.values), recorded=dict(tape.recorded), saved=dict(tape.saved))
            result = Result(outputs, {}, {})
            backward(program, own, start, wanted, result, audit=False)
            return result.relevance, result.recorded

        for part in torch.split(starts, together):
            if tape.batched:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "There is a performance drop")  # operators that vmap loops over
                    batched = torch.func.vmap(back)(part)
                found = [[{n: r[k] for n, r in kind.items()} for kind in batched] for k in range(len(part))]
            else:
                found = [list(back(start)) for start in part]
            for relevance, recorded in found:
                yield Result(outputs, relevance, recorded)


def run_forward(program: Program, inputs: Sequence[Any]) -> list[Any]:
    """The model's flat outputs alone."""
    with torch.inference_mode(False), torch.no_grad():
        tape = forward(program, inputs, program.kept_for_later, record=False)
    return _outputs(program, tape)()


def _outputs(program: Program, tape: Tape) -> Callable[[], list[Any]]:
    """The model's outputs, to be had after the reverse pass has forgotten the values that it read."""
    values = {n: tape.values[n] for n in program.kept_for_later}
    if not program.later:
        outputs = [values[n] if isinstance(n, Node) else n for n in program.graph.outputs]
        return lambda: outputs
    rest = replace(tape, values=program.constants.values() | values, recorded={}, sinks=None)

    def compute() -> list[Any]:
        with torch.inference_mode(False), torch.no_grad():
            for node in program.later:
                if node not in rest.values:
                    rest.values[node] = rest.evaluate(node)
        return [rest.values[n] if isinstance(n, Node) else n for n in program.graph.outputs]

    return compute


def forward(program: Program, inputs: Sequence[Any], kept: frozenset[Node], *, record: bool = True) -> Tape:
    """Run the operators in order; a value is forgotten when its last reader has run.

    Args:
        kept: values that are not forgotten.
        record: let steps save what the reverse pass wants.
    """
    device = next(t.device for t in inputs if isinstance(t, Tensor))
    dtype = relevance_dtype(program)
    tape = Tape({}, device, dtype, program.constants.modified, widened=dtype != _dtype(program))
    tape.values.update(program.constants.values())
    for node, value in zip(program.graph.inputs, inputs, strict=True):
        channels_last = prefers_channels_last(value) and any(op_of(r).convolves == 2 for r in node.users)
        tape.values[node] = value.contiguous(memory_format=torch.channels_last) if channels_last else value
        _note_shape(tape, node)
    _advance(program, tape, program.operators, kept, record=record)
    return tape


def _advance(program: Program, tape: Tape, operators: Sequence[Node], kept: frozenset[Node], *, record: bool) -> None:
    """Run some operators in order, on the values that are on the tape."""
    steps = program.step_of if record else {}
    protected = {n for n in program.in_place if n.args[0] in kept}
    released = last_readers(operators, kept)
    for node in operators:
        if node in program.in_place and node not in protected:
            tape.values[node] = program.in_place[node](tape.values[node.args[0]])  # type: ignore[index]
        else:
            tape.values[node] = steps[node].run(tape) if node in steps else tape.evaluate(node)
        _note_shape(tape, node)
        for done in released[node]:
            tape.values.pop(done, None)


def backward(program: Program, tape: Tape, start: Tensor, record: frozenset[Node], result: Result, audit: bool) -> None:
    """Walk all steps in reverse, and read relevance where it arrives."""
    relevance: dict[Node, Message] = {program.explained: Message(R=start)}
    _walk(program, tape, program.steps, relevance, record, result, audit)
    _collect(program, tape, relevance, result)


def _walk(
    program: Program,
    tape: Tape,
    steps: Sequence[Step],
    relevance: dict[Node, Message],
    record: frozenset[Node],
    result: Result,
    audit: bool,
) -> None:
    """Some steps in reverse: each takes its node's relevance and shares it among the node's inputs."""
    for step in reversed(steps):
        node = step.node
        message = relevance.pop(node, None)
        if message is None:
            continue
        if node in record:
            result.recorded[node] = tape.total(node, message)
        pulled = step.pull(message, tape)
        received, message = message if audit else None, None  # a step may let go of it while it works
        shares = list(pulled)
        for source, share in shares:
            relevance[source] = relevance[source] + share if source in relevance else share
        if received is not None:
            _keep_books(result, tape, node, received, shares)
        if not program.constants.keep:
            tape.modified.clear()
        for done in program.released_in_reverse[node]:
            if not audit:
                tape.values.pop(done, None)
            tape.recorded.pop(node, None)
        tape.saved.pop(node, None)


def _collect(program: Program, tape: Tape, relevance: Mapping[Node, Message], result: Result) -> None:
    for node in program.arrivals:
        if node in relevance:
            result.relevance[node] = tape.total(node, relevance[node])
    result.sinks = tape.sinks or {}


def _keep_books(result: Result, tape: Tape, node: Node, message: Message, shares: list[tuple[Node, Message]]) -> None:
    received = tape.total(node, message).double()
    result.received[node] = float(received.sum())
    result.magnitude[node] = float(received.abs().sum())
    result.sent[node] = sum(float(tape.total(source, share).double().sum()) for source, share in shares)


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
