"""A captured graph, run as it is, or one of its operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from relprop.engine.graph.graph import Graph, Node


@dataclass(frozen=True)
class OnTheFly:
    """A value that is made anew wherever it is read, so that it need not be kept."""

    make: Callable[[], Any]


def made(value: Any) -> Any:
    """The value itself."""
    return value.make() if isinstance(value, OnTheFly) else value


def run_node(node: Node, value: Callable[[Node], Any]) -> Any:
    """What a node's operator makes of its arguments, with `value(n)` in the place of each node `n` among them."""
    assert callable(node.target)
    named = map_arg(node.kwargs, value) if node.kwargs else {}
    return node.target(*map_arg(node.args, value), **named)


def evaluate(graph: Graph, leaves: Sequence[Any]) -> Any:
    """The model's output, with the live parameters, under whatever autograd mode is on."""
    return pytree.tree_unflatten(evaluate_flat(graph, leaves), graph.out_spec)


def evaluate_flat(graph: Graph, leaves: Sequence[Any], check: Callable[[Node, Any], None] | None = None) -> list[Any]:
    """The flat outputs. `check` sees the value of each operator."""
    values: dict[Node, Any] = dict(zip(graph.inputs, leaves, strict=True))
    readers = Counter({node: len(node.users) for node in graph.fx.nodes})
    for node in graph.fx.nodes:
        _compute(graph, node, values)
        if node.op == "call_function":
            if check is not None:
                check(node, values[node])
            _forget(node, values, readers)
    return [values[o] if isinstance(o, Node) else o for o in graph.outputs]


def values_of(graph: Graph, leaves: Sequence[Any], given: Mapping[Node, Any] | None = None) -> dict[Node, Any]:
    """The value of every node.

    Args:
        graph: a captured model.
        leaves: one for each of the graph's inputs.
        given: values that take the place of what some nodes would compute.
    """
    values: dict[Node, Any] = dict(zip(graph.inputs, leaves, strict=True)) | dict(given or {})
    for node in graph.fx.nodes:
        _compute(graph, node, values)
    return values


def _compute(graph: Graph, node: Node, values: dict[Node, Any]) -> None:
    """Add a node's value to those at hand, if it is not there yet."""
    if node in values:
        return
    if node.op == "placeholder":
        values[node] = graph.tensors.get(node.name)
    elif node.op == "call_function":
        values[node] = run_node(node, values.__getitem__)


def _forget(node: Node, values: dict[Node, Any], readers: Counter[Node]) -> None:
    """Drop what `node` was the last to read. Outputs are read by the graph's last node, which is never run."""
    for read in node.all_input_nodes:
        readers[read] -= 1
        if not readers[read]:
            del values[read]
