"""All that one input signature needs: a graph, its layers, a rule for each operator, and the program made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import ceil, prod, sqrt
from typing import Any

from torch import Tensor, nn

from relprop.analyzers import checks as _checks
from relprop.composites.assign import node_rule, unit_rule
from relprop.engine import ops
from relprop.engine.graph.graph import Graph, Node, ancestors, info, operator_name
from relprop.engine.layers.layers import Layer, layers_of_graph
from relprop.engine.layers.select import by_pattern, module_outputs
from relprop.engine.ops.analysis import needs_rule, reached_by_relevance, stop_at, unexplained
from relprop.engine.program.answer import Explained, Seed, explain, explain_each
from relprop.engine.program.constants import Constants, SharedConstants
from relprop.engine.program.focus import Focused, focus, trim
from relprop.engine.program.loops import Result
from relprop.engine.program.program import Program, compile_program
from relprop.errors import InputError
from relprop.explanations.ledger import Entry, Ledger
from relprop.rules import PassRule, Rule, StopRule
from relprop.targets.output import seed_index, seed_relevance

Layers = bool | str | Sequence[str] | None


@dataclass(frozen=True)
class Call:
    """What one call runs.

    Attributes:
        program: the program, and `leaves` its inputs, flat.
        target: as the call has it. wanted: name -> node whose relevance is asked for.
        index: the target's flat index (B,) in what the program explains, where that is a part of the output.
        reported: then its index in the whole output.
    """

    program: Program
    leaves: Sequence[Any]
    target: Any
    wanted: Mapping[str, Node]
    index: Tensor | None = None
    reported: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """What an analyzer keeps of a captured model; `compiled` fills as calls come.

    Attributes:
        program: explains the whole output, and holds every operator.
        layers: the rows of the printed table. row_rules: the rule of each.
        rules: the rule of each operator that relevance reaches.
        checkpoint: run the forward pass in parts, see `LRP`.
    """

    program: Program
    layers: list[Layer]
    rules: Mapping[Node, Rule]
    row_rules: list[Rule]
    compiled: dict[Any, Any] = field(default_factory=dict)
    checkpoint: bool | int = False

    def segments(self, program: Program) -> int:
        """Into how many parts the forward pass is cut: √n for n operators, or as many as were asked for."""
        if isinstance(self.checkpoint, bool):
            return ceil(sqrt(len(program.operators))) if self.checkpoint else 1
        return self.checkpoint

    @cached_property
    def focused(self) -> Program | None:
        """Explains one position of a sequence; None where that saves nothing."""
        return self._of_copy(focus(self.program.graph, self.program.explained, self.rules))

    @cached_property
    def trimmed(self) -> Program:
        """Explains the whole output, without what it does not read."""
        return self._of_copy(trim(self.program.graph, self.program.explained, self.rules)) or self.program

    def with_outputs(self, wanted: Mapping[str, Node]) -> Program:
        """The program that does the least for all outputs and the whole output's relevance."""
        return self.program if wanted or self.trimmed.later else self.trimmed

    def _of_copy(self, found: Focused | None) -> Program | None:
        if found is None:
            return None
        later = frozenset(found.graph.operators()) - ancestors(found.explained)
        constants = SharedConstants(found.graph, self.program.constants)
        return compile_program(found.graph, found.explained, found.rules, later=later, constants=constants)

    def call(self, leaves: Sequence[Any], target: Any, wanted: Mapping[str, Node], audit: bool) -> Call:
        """The program that fits the target; what is recorded or audited is the whole output's."""
        whole = bool(wanted) or audit
        positional = isinstance(target, (list, tuple)) and len(target) > 1
        if whole or not positional or self.focused is None:
            return Call(self.program if whole else self.trimmed, leaves, target, wanted)
        index = self.program.index_of(target, leaves)
        entries = prod(self.program.explained_shape(leaves)[2:])
        return Call(self.focused, [*leaves, int(index[0]) // entries], target, wanted, index % entries, index)

    def explain(self, call: Call, normalize_output: bool, audit: bool) -> Explained:
        """Run a call."""
        seed: Seed
        if call.index is None:
            seed = partial(seed_relevance, target=call.target, normalize_output=normalize_output)
        else:
            seed = partial(seed_index, index=call.index, normalize_output=normalize_output)
        found = explain(call.program, call.leaves, seed, call.wanted, audit, self.segments(call.program))
        return found if call.reported is None else replace(found, target=call.reported)

    def explain_each(
        self,
        leaves: Sequence[Any],
        targets: Sequence[Any],
        normalize_output: bool,
        wanted: Mapping[str, Node],
        chunk: int | None,
    ) -> Iterator[Explained]:
        """One explanation for each target, with one forward pass."""
        seeds = [partial(seed_relevance, target=target, normalize_output=normalize_output) for target in targets]
        return explain_each(self.program if wanted else self.trimmed, leaves, seeds, wanted, chunk)

    def wanted(self, layers: Layers, flatten: bool) -> dict[str, Node]:
        """Name -> node whose relevance is asked for."""
        if layers is None or layers is False:
            return {}
        available = module_outputs(self.program.graph, self.layers, self.program.forms)
        if layers is not True:
            return by_pattern(available, layers)
        if not flatten:
            return {name: node for name, node in available.items() if "." not in name and ":" not in name[1:] and name}
        return {layer.name: available[layer.name] for layer in self.layers if layer.name in available}


def prepare(
    graph: Graph,
    model: nn.Module,
    assign: Callable[[list[Layer]], list[Rule]],
    *,
    flatten: bool,
    checks: bool,
    keep_weights: bool = True,
    checkpoint: bool | int = False,
) -> Prepared:
    """Assign rules to a canonical graph and compile its program.

    Args:
        assign: the rule of each row of the table.
        keep_weights: keep modified weights between calls. checkpoint: run the forward pass in parts.

    Raises:
        SoftmaxOutputError, UnexplainedError, CompositeError, RuleError: with the next step.
    """
    explained = explained_output(graph)
    if checks:
        _checks.check_output(explained)
    reached = reached_by_relevance(explained)
    layers = layers_of_graph(graph, reached, model, flatten=flatten)
    row_rules = [unit_rule(layer) or rule for layer, rule in zip(layers, assign(layers), strict=True)]
    assigned = list(zip(layers, row_rules, strict=True))
    stop_at(graph, {node for layer, rule in assigned if isinstance(rule, StopRule) for node in layer.nodes})
    reached = reached_by_relevance(explained)
    _checks.check_explained(unexplained(graph, reached))
    rules: dict[Node, Rule] = {node: PassRule() for node in reached if needs_rule(node)}
    for layer, rule in assigned:
        rules.update({node: node_rule(node, rule) for node in layer.nodes if node in rules})
    for node, rule in rules.items():
        ops.check(node, rule)
    program = compile_program(graph, explained, rules, constants=Constants(graph, keep=keep_weights))
    return Prepared(program, layers, rules, row_rules, checkpoint=checkpoint)


def explained_output(graph: Graph) -> Node:
    """The output that is explained: the one called `logits` or `out` if there is one, else the first."""
    carrying = [o for o in graph.outputs if isinstance(o, Node) and info(o).data]
    if not carrying:
        raise InputError(
            "No output of the model depends on a floating point input or on embedded token ids, so there is no "
            "relevance to propagate. Integers may have to be converted: x.float()."
        )
    names = output_names(graph)
    for wanted in ("logits", "out"):
        for name, output in zip(names, graph.outputs, strict=True):
            if name == wanted and output in carrying:
                return carrying[carrying.index(output)]
    return carrying[0]


def output_names(graph: Graph) -> list[str]:
    """The keys of a dict or a named tuple that the model returns, one for each output; `""` where there are none."""
    spec = graph.out_spec
    context = getattr(spec, "context", None)
    keys = context if isinstance(context, (list, tuple)) else []
    names = [str(k) for k in keys if isinstance(k, str)]
    return names if len(names) == len(graph.outputs) else [""] * len(graph.outputs)


def ledger_of(result: Result, rules: Mapping[Node, Rule]) -> Ledger:
    """The books of an audited run."""
    entries = [
        Entry(
            name=node.name,
            operator=operator_name(node),
            module=info(node).path,
            rule=rules[node],
            received=received,
            passed=result.sent[node],
            sinks=dict(result.sinks.get(node, {})),
            magnitude=result.magnitude[node],
        )
        for node, received in result.received.items()
    ]
    arrived = sum(float(r.double().sum()) for r in result.relevance.values())
    return Ledger(tuple(entries), entries[0].received if entries else arrived, arrived)
