"""Modules as units: relevance at a module's output, and modules that a user registered as one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relprop.graph import Graph, Node, info
from relprop.layers import Layer
from relprop.tape import Forms


def module_outputs(graph: Graph, layers: Sequence[Layer], forms: Mapping[Node, Forms]) -> dict[str, Node]:
    """Name -> the node that is the output of a layer or a module, for all that relevance passes."""
    members: dict[str, list[Node]] = {}
    for node in graph.operators():
        if node in forms:
            for path in {info(node).path, *info(node).aliases}:
                parts = path.split(".") if path else []
                for depth in range(1, len(parts) + 1):
                    members.setdefault(".".join(parts[:depth]), []).append(node)
    outputs = {path: _last_read_outside(nodes) for path, nodes in members.items()}
    for layer in layers:
        if layer.nodes:
            outputs[layer.name] = _last_read_outside(list(layer.nodes))
    return outputs


def _last_read_outside(nodes: list[Node]) -> Node:
    inside = set(nodes)
    leaving = [n for n in nodes if any(user not in inside for user in n.users)]
    return (leaving or nodes)[-1]
