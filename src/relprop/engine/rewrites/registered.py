"""What users taught relprop, put into a captured graph: operators by their rows, modules as one operator each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph as FxGraph

from relprop.engine.graph.graph import Graph, Node, annotate, fake_value, info
from relprop.engine.ops import Op
from relprop.engine.ops.registration import own_rows, registered_rows, teach
from relprop.engine.ops.units import OwnRule, Unit, own_modules, registered_modules, registered_rule
from relprop.errors import CaptureError
from relprop.rules import Rule


@dataclass(frozen=True)
class Taught:
    """What users said of operators and modules: a value, so that captured graphs can be kept by it.

    Attributes:
        operators, modules: those of one analyzer.
        process: what is registered for the whole process.
    """

    operators: tuple[Op, ...] = ()
    modules: tuple[tuple[type[nn.Module], Rule], ...] = ()
    process: tuple[Any, ...] = ()

    @classmethod
    def now(
        cls, operators: Mapping[Any, Any] | None = None, modules: Mapping[type[nn.Module], OwnRule] | None = None
    ) -> Taught:
        """What holds at the moment.

        Args:
            operators: see `own_rows`. modules: class -> rule, as `register_module` takes it.

        Raises:
            RelpropError, RuleError: as in `register_op` and `register_module`.
        """
        own = tuple(own_rows(operators).values()), tuple(own_modules(modules).items())
        return cls(*own, process=(*registered_rows(), *registered_modules()))

    def into(self, graph: Graph) -> Graph:
        """A graph as captured, with what was taught written into it: the step before `canonical`."""
        operators = {op.name: op for op in self.operators}
        return collapse_registered(teach(graph, operators), dict(self.modules))


def collapse_registered(graph: Graph, modules: Mapping[type[nn.Module], OwnRule] | None = None) -> Graph:
    """Replace the operators of each call of a registered module by one `Unit`.

    Args:
        modules: class -> rule, of one analyzer, beside those registered for the process.
    """
    own = own_modules(modules)
    for path, kind in graph.module_types.items():
        rule = registered_rule(kind, own)
        if rule is not None:
            for call, nodes in enumerate(_calls(graph, path)):
                _collapse(graph, path, kind, call, nodes, rule)
    return graph


def _calls(graph: Graph, path: str) -> Iterable[list[Node]]:
    """The operators of each call of the module at `path`."""
    calls: dict[str, list[Node]] = {}
    for node in graph.operators():
        for key, (where, _) in node.meta.get("nn_module_stack", {}).items():
            if where == path:
                calls.setdefault(key, []).append(node)
    return list(calls.values())


def _collapse(graph: Graph, path: str, kind: type[nn.Module], call: int, nodes: list[Node], rule: Rule) -> None:
    inside = set(nodes)
    outputs = [n for n in nodes if any(user not in inside for user in n.users)]
    if len(outputs) != 1 or not isinstance(fake_value(outputs[0]), Tensor):
        raise CaptureError(
            f"{kind.__name__} at {path or 'the root'} was registered as one layer, but has {len(outputs)} outputs; "
            "relprop can treat modules with one tensor output as a unit."
        )
    (output,) = outputs
    inputs = list(dict.fromkeys(a for n in nodes for a in n.all_input_nodes if a not in inside))
    unit = Unit(kind.__name__, extract(nodes, inputs, output), rule)
    with graph.fx.inserting_after(output):
        node = graph.fx.call_function(unit, tuple(inputs))
    node.meta |= {"val": fake_value(output), "nn_module_stack": output.meta.get("nn_module_stack")}
    node.meta["relprop"] = info(output)
    annotate(node, path=path, call=call, module_type=kind, operator=kind.__name__)
    output.replace_all_uses_with(node)
    for dead in reversed(nodes):
        graph.fx.erase_node(dead)


def extract(nodes: Sequence[Node], inputs: Sequence[Node], output: Node) -> FxGraph:
    """Some operators as a graph of their own."""
    graph = FxGraph()
    copies: dict[Node, Node] = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[output])
    return graph
