"""A user's own step, whose messages are checked: both loops rely on what a step says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from relprop.engine.graph.graph import Node, data_inputs
from relprop.engine.ops.step import Plan, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, R, Tape
from relprop.errors import RuleError
from relprop.rules import Rule


class OwnStep(Step):
    """Runs a user's step.

    Raises:
        RuleError: it sends relevance to what is no data input, in another shape or form than it says, or reads a value
            that it has not asked for.
    """

    def __init__(self, kind: type[Step], node: Node, rule: Rule, plan: Plan) -> None:
        self.node, self.rule = node, rule
        self.step = step = kind(node, rule, plan)
        missing = [name for name in ("forms", "sources", "leaves", "reads", "emits") if not hasattr(step, name)]
        if missing:
            raise self._error(
                f"it has no {', '.join(missing)}; call super().__init__(node, rule, plan) first in its __init__."
            )
        self.forms, self.sources, self.leaves = step.forms, step.sources, step.leaves
        self.reads, self.emits = step.reads, step.emits
        if not set(self.sources) <= set(data_inputs(node)):
            raise self._error(f"its sources {self.sources} are not all data inputs, which are {data_inputs(node)}.")
        if not self.emits <= C | R:
            raise self._error(f'its emits is {set(self.emits)}, not a set of "c" and "R".')

    def run(self, tape: Tape) -> Any:
        return self.step.run(tape)

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        try:
            found = self.step.pull(message, tape)
            if not isinstance(found, Iterable):
                raise self._error(f"pull() gave {found!r}; it gives a pair (source, Message) for each of self.sources.")
            for pair in found:
                self._check(pair, tape)
                yield pair
        except KeyError as error:
            (key,) = error.args or (None,)
            if not isinstance(key, Node):
                raise
            raise self._error(f"it has not asked for the value of {key}; say self.read({key}) in __init__.") from error

    def _check(self, pair: Any, tape: Tape) -> None:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Message)):
            raise self._error(f"pull() gave {pair!r}; it gives a pair (source, Message) for each of self.sources.")
        source, share = pair
        if source not in self.sources:
            raise self._error(f"it sends relevance to {source}, which is not among its sources {self.sources}.")
        for name, form, part in (("c", C, share.c), ("R", R, share.R)):
            if part is None:
                continue
            if not form <= self.emits:
                raise self._error(f"it sends {name} to {source}, but says self.emits = {set(self.emits)}.")
            shape = tape.shapes[source]
            if not isinstance(part, Tensor) or part.shape != shape:
                got = tuple(part.shape) if isinstance(part, Tensor) else repr(part)
                raise self._error(f"{name} of {source} must have the shape {tuple(shape)}, got {got}.")

    def _error(self, why: str) -> RuleError:
        return cannot_serve(self.node, self.rule, f"{type(self.step).__name__}: {why}")
