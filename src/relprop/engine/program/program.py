"""A graph and a rule per node, turned into what runs: the forward loop, and the reverse loop's steps.

Everything that does not depend on an input's values is decided here, once: in which form each message travels, which
values the reverse pass reads, and after which operator a value can be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from relprop.engine import ops
from relprop.engine.graph.graph import Graph, Node, info, operator_name
from relprop.engine.ops.analysis import needs_rule
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.step import Step
from relprop.engine.ops.tape import Form, Forms
from relprop.engine.program.constants import Constants, OwnConstants
from relprop.rules import FunctionRule, Rule

MOST_SCHEDULES = 16
"""Of one program that are kept: what questions ask for decides which values a forward pass keeps."""


@dataclass(frozen=True)
class Schedule:
    """What a forward pass does to values that it has computed.

    Attributes:
        released: operator -> values that nobody reads after it.
        in_place: operators that overwrite their input, and how.
    """

    released: Mapping[Node, Sequence[Node]]
    in_place: Mapping[Node, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Program:
    """What one analyzer runs for one input signature.

    Attributes:
        graph: the operators.
        constants: values of its constant part.
        starts: the nodes that relevance may start from; the first is the explained output.
        steps: one per data operator, in order of execution; the reverse loop runs them backwards.
        arrivals: inputs and embeddings, where relevance is read.
        forms: which parts a node's message may have.
        reads: nodes whose values the reverse pass reads.
        in_place: activations that may overwrite their input, which nobody else reads, and how.
        operators: what the forward pass runs, in order.
        later: what only outputs need that are not explained; it runs when they are asked for.
    """

    graph: Graph
    constants: Constants
    starts: tuple[Node, ...]
    steps: tuple[Step, ...]
    arrivals: tuple[Node, ...]
    forms: Mapping[Node, Forms]
    reads: frozenset[Node]
    in_place: Mapping[Node, Callable[[Tensor], Tensor]]
    operators: tuple[Node, ...]
    later: tuple[Node, ...] = ()

    @property
    def explained(self) -> Node:
        """The output that is explained."""
        return self.starts[0]

    @cached_property
    def step_of(self) -> Mapping[Node, Step]:
        """Node -> its step."""
        return {step.node: step for step in self.steps}

    @cached_property
    def has_own_code(self) -> bool:
        """Some step or rule is a user's, which may look at values, as a batch by `torch.func.vmap` does not allow."""
        own = any(op_of(s.node).step is not None or isinstance(s.rule, FunctionRule) for s in self.steps)
        return own or any(type(s.rule).__module__.partition(".")[0] != "relprop" for s in self.steps)

    @cached_property
    def released_in_reverse(self) -> Mapping[Node, Sequence[Node]]:
        """Step's node -> values that no later step of the reverse pass reads."""
        released: dict[Node, Sequence[Node]] = {}
        seen = {*self.graph.inputs, *self.arrivals}
        for step in self.steps:
            done = [n for n in (*step.reads, step.node) if n not in seen and not info(n).static]
            released[step.node] = done
            seen.update(done)
        return released

    @cached_property
    def kept_for_later(self) -> frozenset[Node]:
        """Values that `later` and the outputs read."""
        read = {n for node in self.later for n in node.all_input_nodes}
        read.update(n for n in self.graph.outputs if isinstance(n, Node))
        return frozenset(n for n in read if n not in self.later and not info(n).static)

    @cached_property
    def _schedules(self) -> dict[frozenset[Node], Schedule]:
        return {}

    def schedule(self, operators: Sequence[Node], kept: frozenset[Node]) -> Schedule:
        """When values are forgotten and overwritten; that of all operators is made once for what is `kept`."""
        if operators is not self.operators:
            return self._scheduled(operators, kept)
        found = self._schedules.get(kept)
        if found is None:
            if len(self._schedules) >= MOST_SCHEDULES:
                self._schedules.clear()
            found = self._schedules[kept] = self._scheduled(operators, kept)
        return found

    def _scheduled(self, operators: Sequence[Node], kept: frozenset[Node]) -> Schedule:
        in_place = {node: f for node, f in self.in_place.items() if node.args[0] not in kept}
        return Schedule(last_readers(operators, kept), in_place)

    def explained_shape(self, leaves: Sequence[Any]) -> list[int]:
        """The shape that the explained output has for these inputs; it follows from theirs."""
        shape = self.graph.shape_at(self.explained, leaves)
        assert None not in shape, "an output's shape follows from the inputs'"
        return [int(size) for size in shape if size is not None]

    def __str__(self) -> str:
        """The reverse pass as text, in the order in which it runs."""
        lines = []
        for step in reversed(self.steps):
            sources = ", ".join(f"R[{s}]" for s in step.sources)
            parts = " + ".join(sorted(self.forms[step.node]))
            lines.append(f"{sources} += {step.rule!r} of {step.node} [{parts}]")
        return "\n".join(lines)


def compile_program(
    graph: Graph,
    starts: Sequence[Node],
    rules: Mapping[Node, Rule],
    seed: Forms = frozenset({"R"}),
    later: frozenset[Node] = frozenset(),
    constants: Constants | None = None,
) -> Program:
    """Bind every data operator that relevance reaches to its rule.

    Args:
        starts: the nodes that relevance may start from, the explained output first.
        rules: the rule of each data operator that is an ancestor of one of them.
        seed: the form in which relevance starts.
        later: operators that the starts do not need, to be left until other outputs are asked for.
        constants: values of the graph's constant part; None: made here, and kept.
    """
    prefers: dict[Node, Form] = {}
    for node in graph.fx.nodes:
        if info(node).data and not needs_rule(node):
            prefers[node] = "c"
        elif node in rules:
            prefers[node] = ops.preferred_form(node, rules[node], prefers)
    plan = ops.Plan(frozenset(starts), prefers, forms=dict.fromkeys(starts, seed))
    for node in reversed(graph.fx.nodes):
        if node in rules and node in plan.forms:
            ops.bind(node, rules[node], plan)
    steps = tuple(reversed(plan.steps.values()))
    arrivals = tuple(n for n in graph.fx.nodes if n in plan.forms and info(n).data and not needs_rule(n))
    reads = frozenset().union(*(s.reads for s in steps), arrivals)
    running = [n for n in graph.operators() if not info(n).static]
    graph.settle()
    return Program(
        graph=graph,
        constants=OwnConstants(graph) if constants is None else constants,
        starts=tuple(starts),
        steps=steps,
        arrivals=arrivals,
        forms=plan.forms,
        reads=reads,
        in_place=_in_place(graph),
        operators=tuple(n for n in running if n not in later),
        later=tuple(n for n in running if n in later),
    )


def _in_place(graph: Graph) -> dict[Node, Callable[[Tensor], Tensor]]:
    """ReLUs whose input is fresh memory that only they read."""
    found: dict[Node, Callable[[Tensor], Tensor]] = {}
    for node in graph.operators():
        if operator_name(node) == "relu" and info(node).data:
            source = node.args[0]
            assert isinstance(source, Node)
            if op_of(source).fresh and len(source.users) == 1:
                found[node] = torch.relu_
    return found


def last_readers(nodes: Iterable[Node], kept: frozenset[Node]) -> dict[Node, list[Node]]:
    """Operator -> values that nothing reads after it and that are not `kept`."""
    released: dict[Node, list[Node]] = {}
    seen: set[Node] = set(kept)
    for node in reversed(list(nodes)):
        done = [a for a in node.all_input_nodes if a not in seen]
        if node not in seen and node.op == "call_function":
            done.append(node)
        seen.update(done)
        released[node] = [n for n in done if not info(n).static]
    return released
