"""All that one input signature needs: a graph, its layers, a rule for each operator, and the programs made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.analyzers import checks as _checks
from relprop.composites.assign import node_rule, unit_rule
from relprop.engine import ops
from relprop.engine.graph.graph import Graph, Node, ancestors, fake_value, info, operator_name, where_is
from relprop.engine.layers.layers import Layer, layers_of_graph
from relprop.engine.layers.select import INPUT, by_pattern, module_inputs, module_outputs
from relprop.engine.ops.analysis import needs_rule, reached_by_relevance, reads_data, stop_at, unexplained
from relprop.engine.program.constants import Constants, SharedConstants
from relprop.engine.program.focus import Focused, focus, trim
from relprop.engine.program.program import Program, compile_program
from relprop.engine.program.question import Books, Question
from relprop.errors import InputError
from relprop.explanations.ledger import Entry, Ledger
from relprop.rules import PassRule, Rule, StopRule

Layers = bool | str | Sequence[str] | None
Asked = tuple[Program, Sequence[Any], list[Question]]
"""A program, its flat inputs, and questions to it."""


@dataclass(frozen=True)
class Captured:
    """What an analyzer keeps of a captured model; `compiled` and `elsewhere` fill as calls come.

    Attributes:
        program: explains the whole output, and holds every operator.
        layers: the rows of the printed table. row_rules: the rule of each.
        rules: the rule of each operator that relevance reaches.
        flatten: layers are numbered through, see `LRP`.
        checkpoint: run the forward pass in parts, see `LRP`.
        compiled: programs as `torch.compile` made them.
        elsewhere: programs that relevance starts from inside of.
    """

    program: Program
    layers: list[Layer]
    rules: Mapping[Node, Rule]
    row_rules: list[Rule]
    flatten: bool = True
    checkpoint: bool | int = False
    compiled: dict[Any, Any] = field(default_factory=dict)
    elsewhere: dict[frozenset[Node], Program] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph that the program runs."""
        return self.program.graph

    def segments(self, program: Program) -> int:
        """Into how many parts the forward pass is cut: √n for n operators, or as many as were asked for."""
        if isinstance(self.checkpoint, bool):
            return ceil(sqrt(len(program.operators))) if self.checkpoint else 1
        return self.checkpoint

    @cached_property
    def focused(self) -> Program | None:
        """Explains one position of a sequence; None where that saves nothing."""
        return self._of_copy(focus(self.graph, self.program.explained, self.rules))

    @cached_property
    def trimmed(self) -> Program:
        """Explains the whole output, without what it does not read."""
        return self._of_copy(trim(self.graph, self.program.explained, self.rules)) or self.program

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Name of a module or layer -> the node that is its output, for all that relevance passes."""
        return module_outputs(self.graph, self.layers, self.program.forms)

    @cached_property
    def entries(self) -> dict[str, Node]:
        """Name of a module or layer and `:input` -> the node that is its input."""
        return module_inputs(self.graph, self.layers, self.program.forms)

    def node(self, name: str | int, option: str) -> Node:
        """The output of one module, given its name or its number in the table.

        Raises:
            InputError: there is none, or several fit it.
        """
        if isinstance(name, int):
            rows = [layer for layer in self.layers if layer.index == (name,)]
            if not rows or rows[0].name not in self.nodes:
                raise InputError(
                    f"{option}={name}: no layer of that number is passed by relevance; print the analyzer."
                )
            name = rows[0].name
        found = self._named(name, option)
        if len(set(found.values())) != 1:
            raise InputError(f"{option}={name!r} fits {len(found)} modules, give one: {', '.join(list(found)[:8])}.")
        return next(iter(found.values()))

    def edge(self, source: str, reader: str) -> tuple[Node, Node]:
        """The output of one module, and the operator of another that reads it.

        Raises:
            InputError: there is none, or several.
        """
        node = self.node(source, "edges")
        inside = {n for layer in self.layers if layer.name == reader for n in layer.nodes}
        inside |= {n for n in self.graph.operators() if f"{info(n).path}.".startswith(f"{reader}.")}
        found = [n for n in node.users if n in inside and n in self.program.step_of]
        if len(found) != 1:
            known = [layer.name for layer in self.layers if set(layer.nodes) & set(node.users)]
            raise InputError(
                f"edges={(source, reader)!r}: {len(found)} operators of {reader!r} read the output of {source!r}; what "
                f"reads it is {', '.join(known) or 'no layer'}."
            )
        return node, found[0]

    def wanted(self, layers: Layers, option: str = "layers") -> dict[str, Node]:
        """Name -> node whose relevance is asked for."""
        if layers is None or layers is False:
            return {}
        if layers is not True:
            return self._named(layers, option)
        if not self.flatten:
            return {name: n for name, n in self.nodes.items() if "." not in name and ":" not in name[1:] and name}
        return {layer.name: self.nodes[layer.name] for layer in self.layers if layer.name in self.nodes}

    def _named(self, names: Any, option: str) -> dict[str, Node]:
        """By names and globs; of those that end in `:input` among the inputs of modules, too."""
        several = [names] if isinstance(names, str) else names
        inner = isinstance(several, Iterable) and any(isinstance(n, str) and n.endswith(INPUT) for n in list(several))
        return by_pattern(self.nodes | self.entries if inner else self.nodes, names, option)

    def with_outputs(self, wanted: Mapping[str, Node]) -> Program:
        """The program that does the least for all outputs and the whole output's relevance."""
        return self.program if wanted or self.trimmed.later else self.trimmed

    def fit(self, inputs: Sequence[Any], questions: Sequence[Question]) -> Asked:
        """The program that does the least for some questions, and the questions as it takes them."""
        starts = {q.start for q in questions}
        if starts != {self.program.explained}:
            return self._from(starts), inputs, list(questions)
        if not all(q.is_plain for q in questions):
            return self.program, inputs, list(questions)
        found = self._at_position(inputs, questions)
        if found is not None:
            return found
        start = self.trimmed.explained
        return self.trimmed, inputs, [q if q.start is start else replace(q, start=start) for q in questions]

    def _at_position(self, inputs: Sequence[Any], questions: Sequence[Question]) -> Asked | None:
        """Of one question about one position of a sequence."""
        question, *others = questions
        if others or len(fake_value(self.program.explained).shape) < 3:
            return None
        shape = self.program.explained_shape(inputs)
        found = question.seed.target.at_position(shape[1:])
        if found is None or self.focused is None:
            return None
        position, target = found
        device = next(leaf.device for leaf in inputs if isinstance(leaf, Tensor))
        index = question.seed.target.index(torch.zeros((), device=device).expand(shape))
        seed = replace(question.seed, target=target)
        part = replace(question, start=self.focused.explained, seed=seed, reported=index)
        return self.focused, [*inputs, position], [part]

    def _from(self, starts: Iterable[Node]) -> Program:
        """A program that relevance starts from at other nodes than the explained output."""
        key = frozenset(starts)
        if key not in self.elsewhere:
            ordered = [n for n in self.graph.fx.nodes if n in key]
            needed = set().union(*map(ancestors, ordered))
            later = frozenset(self.graph.operators()) - needed
            rules = {n: rule for n, rule in self.rules.items() if n in needed}
            constants = self.program.constants
            self.elsewhere[key] = compile_program(self.graph, ordered, rules, later=later, constants=constants)
        return self.elsewhere[key]

    def _of_copy(self, found: Focused | None) -> Program | None:
        if found is None:
            return None
        later = frozenset(found.graph.operators()) - ancestors(found.explained)
        constants = SharedConstants(found.graph, self.program.constants)
        return compile_program(found.graph, [found.explained], found.rules, later=later, constants=constants)


def captured(
    graph: Graph,
    constants: Constants,
    model: nn.Module,
    assign: Callable[[list[Layer]], list[Rule]],
    *,
    output: str | int | None = None,
    flatten: bool,
    checks: bool,
    checkpoint: bool | int = False,
) -> Captured:
    """Assign rules to a canonical graph, which stays as it is, and compile its program.

    Args:
        constants: values of the graph's constant part.
        assign: the rule of each row of the table.
        output: which output is explained, see `explained_output`.
        checkpoint: run the forward pass in parts.

    Raises:
        SoftmaxOutputError, UnexplainedError, CompositeError, RuleError: with the next step.
    """
    explained = explained_output(graph, output)
    if checks:
        _checks.check_output(explained)
    layers = layers_of_graph(graph, reached_by_relevance(explained), model, flatten=flatten)
    row_rules = _row_rules(layers, assign)
    if any(isinstance(rule, StopRule) for rule in row_rules):  # what stops counts as a constant, in a copy
        graph = graph.copy()
        constants = SharedConstants(graph, constants)
        explained = explained_output(graph, output)
        layers = layers_of_graph(graph, reached_by_relevance(explained), model, flatten=flatten)
        stopped = [layer for layer, rule in zip(layers, row_rules, strict=True) if isinstance(rule, StopRule)]
        stop_at(graph, {node for layer in stopped for node in layer.nodes})
    reached = reached_by_relevance(explained)
    _checks.check_explained(unexplained(graph, reached))
    rules: dict[Node, Rule] = {node: PassRule() for node in reached if needs_rule(node)}
    for layer, rule in zip(layers, row_rules, strict=True):
        rules.update({node: node_rule(node, rule) for node in layer.nodes if node in rules})
    for node, rule in rules.items():
        ops.check(node, rule)
    program = compile_program(graph, [explained], rules, constants=constants)
    return Captured(program, layers, rules, row_rules, flatten=flatten, checkpoint=checkpoint)


def _row_rules(layers: list[Layer], assign: Callable[[list[Layer]], list[Rule]]) -> list[Rule]:
    return [unit_rule(layer) or rule for layer, rule in zip(layers, assign(layers), strict=True)]


def explained_output(graph: Graph, wanted: str | int | None = None) -> Node:
    """The output that is explained.

    Args:
        graph: a captured model.
        wanted: name or number of the output. None: the one called `logits` or `out` if there is one, else the first.

    Raises:
        InputError: there is no such output, or none that depends on the inputs.
    """
    carrying = [o for o in graph.outputs if isinstance(o, Node) and info(o).data]
    if not carrying:
        raise InputError(
            "No output of the model depends on a floating point input or on embedded token ids, so there is no "
            f"relevance to propagate. {_end_of_data(graph)}"
        )
    if wanted is not None:
        return _wanted_output(graph, output_names(graph), wanted)
    paths = output_paths(graph)
    for usual in ("logits", "out"):  # the outermost of that name: an auxiliary head's are inside of something else
        named = [
            (path.index(usual), i) for i, path in enumerate(paths) if usual in path and graph.outputs[i] in carrying
        ]
        if named:
            return carrying[carrying.index(graph.outputs[min(named)[1]])]
    return carrying[0]


def _end_of_data(graph: Graph) -> str:
    """Where what the inputs are made into is data no more, and what to do."""
    ends = [n for n in graph.operators() if isinstance(fake_value(n), Tensor) and not info(n).data and reads_data(n)]
    if not ends:
        return "Integers may have to be converted: x.float()."
    places = list(dict.fromkeys(f"{operator_name(n)} at {where_is(n)}" for n in ends))
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return (
        f"What depends on them ends in {', '.join(places[:3])}{more}. Steps and choices have no share in what they are "
        "made of; to hand relevance on through one, such as a spike, make it a module of its own and say so: "
        "relprop.register_module(Spike, rule=relprop.rules.PassRule())."
    )


def _wanted_output(graph: Graph, names: Sequence[str], wanted: str | int) -> Node:
    known = [name or str(i) for i, name in enumerate(names)]
    fits = [i for i, name in enumerate(names) if wanted in (i, name) or (isinstance(wanted, str) and wanted == str(i))]
    if isinstance(wanted, int) and -len(names) <= wanted < 0:
        fits = [wanted % len(names)]
    if len(fits) != 1:
        raise InputError(f"output={wanted!r}: the model's outputs are {', '.join(known)}.")
    output = graph.outputs[fits[0]]
    if not isinstance(output, Node) or not info(output).data:
        raise InputError(f"output={wanted!r} does not depend on the inputs, so there is no relevance to propagate.")
    return output


def output_names(graph: Graph) -> list[str]:
    """What each flat output is called in the model's output, the innermost name; `""` where it has none."""
    return [path[-1] if path else "" for path in output_paths(graph)]


def output_paths(graph: Graph) -> list[list[str]]:
    """The names on the way to each flat output in the model's output, outermost first; numbers are none."""
    nested = pytree.tree_unflatten(list(range(len(graph.outputs))), graph.out_spec)
    try:
        paths = [path for path, _ in pytree.tree_flatten_with_path(nested)[0]]
    except (ValueError, RuntimeError):  # a class that tells no names of its parts
        return [[] for _ in graph.outputs]
    return [[name for key in path if isinstance(name := _name_of_key(key), str)] for path in paths]


def _name_of_key(key: Any) -> Any:
    return getattr(key, "key", getattr(key, "name", None))


def ledger_of(books: Books, inputs: Iterable[Tensor], rules: Mapping[Node, Rule]) -> Ledger:
    """The books of an audited run.

    Args:
        inputs: relevance that arrived.
    """
    entries = [
        Entry(
            name=node.name,
            operator=operator_name(node),
            module=info(node).path,
            rule=rules.get(node, PassRule()),
            received=received,
            passed=books.sent.get(node, 0.0),
            passed_magnitude=books.sent_magnitude.get(node, 0.0),
            merged=books.merged.get(node),
            sinks=dict(books.sinks.get(node, {})),
            magnitude=books.magnitude[node],
        )
        for node, received in books.received.items()
    ]
    if books.opening is not None:
        amount, kept = books.opening
        started = entries[0].received
        magnitude = entries[0].magnitude + sum(map(abs, kept.values()))
        entries.insert(0, Entry("target", "target", "", PassRule(), amount, started, dict(kept), magnitude))
    arrived = sum(float(r.detach().double().sum()) for r in inputs)
    return Ledger(tuple(entries), entries[0].received if entries else arrived, arrived)
