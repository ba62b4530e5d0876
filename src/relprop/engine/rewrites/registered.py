"""Modules that a user registered, captured as one operator each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.fx import Graph as FxGraph

from relprop.engine.graph.graph import Graph, Node, annotate, fake_value, info
from relprop.engine.ops.units import OwnRule, Unit, own_modules, registered_rule
from relprop.errors import CaptureError
from relprop.rules import Rule


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
