"""The model's outputs, as far as an explanation has not needed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value
from relprop.engine.ops.tape import Tape
from relprop.engine.program.loops import forward, mode
from relprop.engine.program.program import Program
from relprop.errors import ModelError

FEW = 1 << 20
"""Entries of outputs that are computed at once, though nobody has asked for them."""


class Outputs:
    """The model's flat outputs; what was left for `later` is computed at the first call, if it is much.

    Parameters are those of the explanation: where they have changed meanwhile, the outputs are gone.
    """

    def __init__(self, program: Program, tape: Tape, inputs: Sequence[Any]) -> None:
        self._program = program
        self._differentiable, self._state = tape.differentiable, cast(Any, None)
        self._rest: Tape | None = None
        self._found: list[Any] | None = None
        if not program.later:
            self._found = [tape.values[n] if isinstance(n, Node) else n for n in program.graph.outputs]
            return
        values = {n: tape.values[n] for n in program.kept_for_later}
        rest = tape.values if tape.differentiable else program.constants.values()
        self._rest = replace(tape, values=rest | values, recorded={}, saved={}, sinks=None)
        if _entries(program, inputs) <= FEW:
            self()
        else:
            self._state = program.constants.state()

    @classmethod
    def of_inputs(cls, program: Program, inputs: Sequence[Any]) -> Outputs:
        """By a forward pass of their own."""
        with mode(False):
            return cls(program, forward(program, inputs, program.kept_for_later, record=False), inputs)

    def __call__(self) -> list[Any]:
        if self._found is None:
            rest = self._rest
            assert rest is not None
            if self._state is not None and self._state != self._program.constants.state():
                raise ModelError(
                    "The model's parameters have changed since the explanation, and its outputs at other positions "
                    "than the explained one were left until now. Read expl.output before the model changes."
                )
            with mode(self._differentiable):
                for node in self._program.later:
                    if node not in rest.values:
                        rest.values[node] = rest.evaluate(node)
            self._found = [rest.values[n] if isinstance(n, Node) else n for n in self._program.graph.outputs]
            self._rest = None
        return self._found


def _entries(program: Program, inputs: Sequence[Any]) -> int:
    """How many numbers the outputs have that are left for later."""
    sizes = program.graph.open_sizes(inputs)
    left = {n for n in program.graph.outputs if n in program.later}
    values = [fake_value(n) for n in left]
    return sum(prod(_size(s, sizes) for s in v.shape) for v in values if isinstance(v, Tensor))


def _size(size: Any, sizes: dict[Any, Any]) -> int:
    return size if isinstance(size, int) else int(size.node.expr.subs(sizes))
