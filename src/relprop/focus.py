"""Only what the target needs: a target at one position of a sequence need not pay for all the others.

For an output (B, T, V) of which one position is explained, the operators behind the last mixing of positions run for
that position alone: the head over the vocabulary, the last norm, the last block's feed-forward layers. The graph shows
which these are. What else the model returns is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.fx import Graph as FxGraph

from relprop import functions as f
from relprop.graph import Graph, Node, ancestors, annotate, fake_value, info, operator_name
from relprop.ops.registry import lookup
from relprop.rules import PassRule, Rule

DIM = 1
"""Of positions, in (B, T, ...)."""

BY_POSITION = frozenset(
    [
        "linear",
        "scale",
        "add",
        "product",
        "gated",
        "rsqrt",
        "reciprocal",
        "negative_power",
        "to",
        "_to_copy",
        "alias",
        "clone",
        "contiguous",
        "dropout",
    ]
)
"""Operators that treat each position by itself, as activations do, and linear layers and norms over features."""


def focus(graph: Graph, explained: Node, rules: Mapping[Node, Rule]) -> tuple[Graph, Node, dict[Node, Rule]] | None:
    """A copy of the graph whose explained output (B, 1, ...) holds one position, which is its last input, an integer.

    Returns:
        The copy, its explained node, and its rules; None where that would save nothing.
    """
    shape = fake_value(explained).shape
    if len(shape) < 3:
        return None
    chosen = _by_position(graph, explained)
    if not any(operator_name(n) in {"linear", "product"} for n in chosen):
        return None
    copy, copies = _copied(graph)
    with copy.fx.inserting_before(next(n for n in copy.fx.nodes if n.op == "call_function")):
        position = copy.fx.placeholder("position")
    position.meta["val"] = 0
    taken: dict[tuple[Node, int], Node] = {}
    narrowed: dict[Node, Node] = {}
    renewed = {copies[n]: rule for n, rule in rules.items() if n not in chosen}

    def at(value: Any, rank: int, before: Node) -> Any:
        """An argument of an operator with an output of a rank, at the position."""
        if isinstance(value, (list, tuple)):
            return type(value)(at(v, rank, before) for v in value)
        if not isinstance(value, Node):
            return value
        if value in narrowed:
            return narrowed[value]
        size = _shape(value)
        dim = DIM - rank + len(size or ())
        if size is None or dim < 0 or (isinstance(size[dim], int) and size[dim] == 1):
            return value  # the same at all positions
        if (value, dim) not in taken:
            with copy.fx.inserting_before(before):
                node = copy.fx.call_function(f.at, (value, dim, position))
            node.meta |= {"val": fake_value(value).narrow(dim, 0, 1), "relprop": info(value)}
            annotate(node, static=False, entry="", operator="slice")
            taken[value, dim] = node
            if info(value).data:
                renewed[node] = PassRule()
        return taken[value, dim]

    for node in graph.operators():  # in order of execution
        if node not in chosen:
            continue
        old = copies[node]
        rank = len(fake_value(node).shape)
        parameters = 1 if operator_name(node) == "linear" else len(node.args)
        args = (*(at(a, rank, old) for a in old.args[:parameters]), *old.args[parameters:])
        with copy.fx.inserting_before(old):
            new = copy.fx.call_function(old.target, args, dict(old.kwargs))  # type: ignore[arg-type]
        new.meta |= old.meta | {"val": fake_value(node)[:, :1]}
        narrowed[old] = new
        if node in rules:
            renewed[new] = rules[node]
    return copy, narrowed[copies[explained]], renewed


def _by_position(graph: Graph, explained: Node) -> set[Node]:
    """Operators that the explained output alone needs, and only at the position that is explained."""
    chosen: set[Node] = set()
    needed = ancestors(explained)
    for node in reversed(list(graph.operators())):
        if node in needed and not info(node).static and _keeps_positions(node, explained):
            readers = [user for user in node.users if user in needed]
            if node is explained or all(user in chosen for user in readers):
                chosen.add(node)
    return chosen if explained in chosen else set()


def _keeps_positions(node: Node, explained: Node) -> bool:
    """The operator computes each position of (B, T, ...) from the same position of what it reads."""
    if not isinstance(fake_value(node), Tensor) or any(_shape(a) is None for a in node.all_input_nodes if _is_made(a)):
        return False
    shape, whole = fake_value(node).shape, fake_value(explained).shape
    if len(shape) != len(whole) or str(shape[DIM]) != str(whole[DIM]):
        return False
    name, op = operator_name(node), lookup(node)
    last = {-1, len(shape) - 1}
    if name == "linear":
        weight = node.args[1]
        return isinstance(weight, Node) and info(weight).static
    if name == "normalize":
        dims, groups = node.args[1:3]
        return not groups and set(dims) <= last  # type: ignore[arg-type]
    if name == "mean":
        return len(node.args) > 2 and bool(node.args[2]) and set(node.args[1]) <= last  # type: ignore[arg-type]
    return name in BY_POSITION or (op is not None and op.family == "activation" and len(node.all_input_nodes) == 1)


def _is_made(node: Node) -> bool:
    """A constant that a rewrite has made, of which the export knows no shape."""
    return info(node).static and not isinstance(fake_value(node), Tensor)


def _shape(node: Node) -> tuple[Any, ...] | None:
    """The shape, partly symbolic; None where it is not known, or where there is none."""
    if isinstance(fake_value(node), Tensor):
        return tuple(fake_value(node).shape)
    if operator_name(node) == "scalar":
        return ()
    source = node.args[0] if operator_name(node) == "reciprocal" else None
    return _shape(source) if isinstance(source, Node) else None


def _copied(graph: Graph) -> tuple[Graph, dict[Node, Node]]:
    """The graph again, node by node, under the same names."""
    copies: dict[Node, Node] = {}
    fx = FxGraph()
    for node in graph.fx.nodes:
        copies[node] = fx.node_copy(node, copies.__getitem__)
        copies[node].meta = dict(node.meta)
    return replace(graph, fx=fx), copies
