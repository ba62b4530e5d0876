"""Modules as units: relevance at a module's output, and modules that a user registered as one layer."""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from relprop.engine.graph.graph import Graph, Node, info
from relprop.engine.layers.layers import Layer
from relprop.engine.ops.tape import Forms
from relprop.errors import InputError

INPUT = ":input"
"""What the name of a module's input ends in."""


def module_outputs(graph: Graph, layers: Sequence[Layer], passed: Container[Node]) -> dict[str, Node]:
    """Name -> the node that is the output of a layer or a module, for all that relevance passes."""
    members: dict[str, list[Node]] = {}
    for node in graph.operators():
        if node in passed:
            for path in {info(node).path, *info(node).aliases}:
                parts = path.split(".") if path else []
                for depth in range(1, len(parts) + 1):
                    members.setdefault(".".join(parts[:depth]), []).append(node)
    outputs = {path: _last_read_outside(nodes) for path, nodes in members.items()}
    for layer in layers:
        if layer.nodes:
            outputs[layer.name] = _last_read_outside(list(layer.nodes))
    return outputs


def module_inputs(graph: Graph, layers: Sequence[Layer], forms: Mapping[Node, Forms]) -> dict[str, Node]:
    """`NAME:input` -> the one value from outside that a layer or a module reads and that relevance passes."""
    members: dict[str, set[Node]] = {}
    for node in graph.operators():
        parts = info(node).path.split(".") if info(node).path else []
        for depth in range(1, len(parts) + 1):
            members.setdefault(".".join(parts[:depth]), set()).add(node)
    members |= {layer.name: set(layer.nodes) for layer in layers if layer.nodes}
    found = {}
    for name, inside in members.items():
        outside = {n for node in inside for n in node.all_input_nodes if n in forms and n not in inside}
        if len(outside) == 1:
            found[f"{name}{INPUT}"] = outside.pop()
    return found


def by_pattern(available: Mapping[str, Node], layers: Any, option: str = "layers") -> dict[str, Node]:
    """Those whose names match a name or glob, or one of a list of them.

    Args:
        option: what they were given as, for the error.

    Raises:
        InputError: `layers` is something else, or one of them matches nothing.
    """
    patterns = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else [layers]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f"{option}={layers!r}: give True, a name or glob such as 'features.*', or a list of them.")
    wanted: dict[str, Node] = {}
    for pattern in patterns:
        found = [name for name in available if name and fnmatch.fnmatchcase(name, pattern)]
        if not found:
            names = ", ".join(n for n in list(available)[:8] if n)
            raise InputError(f"{option}={pattern!r} matches no module that relevance passes. There are {names}, ...")
        wanted.update({name: available[name] for name in found})
    return wanted


def _last_read_outside(nodes: list[Node]) -> Node:
    inside = set(nodes)
    leaving = [n for n in nodes if any(user not in inside for user in n.users)]
    return (leaving or nodes)[-1]
