"""The two loops, written out: a program run on tensors of one's own, in any mode of the tape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from relprop import LRP
from relprop.engine.graph.graph import Node, info
from relprop.engine.graph.run import run_node
from relprop.engine.ops.tape import Message, Tape
from relprop.engine.program.program import Program


def program_of(lrp: LRP, *inputs: Any) -> Program:
    """What an analyzer runs for these inputs, every operator included."""
    lrp(*inputs, audit=True)
    program: Program = lrp._latest.program
    return program


def relevance_by_hand(
    program: Program,
    inputs: Sequence[Tensor],
    seed: Callable[[Tensor], Tensor],
    weights: Mapping[str, Tensor] | None = None,
    **mode: Any,
) -> tuple[list[Tensor], Tape]:
    """Relevance of every input, and the tape.

    Args:
        seed: explained output -> the relevance that starts there.
        weights: parameters, by name, in the place of the model's.
        mode: fields of `Tape`.
    """
    tape = Tape({}, inputs[0].device, inputs[0].dtype, **mode)
    for node in program.graph.fx.nodes:
        if node.op == "placeholder" and node.name in program.graph.tensors:
            own = (weights or {}).get(info(node).path)
            tape.values[node] = program.graph.tensors[node.name] if own is None else own
    tape.values.update(zip(program.graph.inputs, inputs, strict=True))
    for node in program.graph.operators():
        step = program.step_of.get(node)
        tape.values[node] = run_node(node, tape.values.__getitem__) if step is None else step.run(tape)
    tape.shapes = {n: value.shape for n, value in tape.values.items() if isinstance(value, Tensor)}
    relevance: dict[Node, Message] = {program.explained: Message(R=seed(tape.values[program.explained]))}
    for step in reversed(program.steps):
        if step.node in relevance:
            for source, share in step.pull(relevance.pop(step.node), tape):
                relevance[source] = relevance[source] + share if source in relevance else share
    return [tape.total(n, relevance[n]) for n in program.graph.inputs if n in relevance], tape
