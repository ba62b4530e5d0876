"""Only what the target needs: one position of a sequence need not pay for all the others.

For an output (B, T, V) of which one position is explained, the operators behind the last mixing of positions run for
that position alone: the head over the vocabulary, the last norm, the last block's feed-forward layers. So they do for
classifiers that read one position, such as a class token's. The graph shows which operators these are. What else the
model returns is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph as FxGraph

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, ancestors, annotate, fake_value, info, operator_name
from relprop.engine.ops.analysis import remove_dead
from relprop.engine.ops.registry import op_of
from relprop.rules import AffineRule, PassRule, Rule

DIM = 1
"""Of positions, in (B, T, ...)."""


@dataclass(frozen=True)
class Focused:
    """A copy of a graph in which some operators run for one position only.

    Attributes:
        graph: the copy.
        explained: its explained node.
        rules: the rule of each of its operators.
    """

    graph: Graph
    explained: Node
    rules: dict[Node, Rule]


def focus(graph: Graph, explained: Node, rules: Mapping[Node, Rule]) -> Focused | None:
    """The explained output (B, 1, ...) holds one position: the last input of the copy, an integer or a tensor of one.

    Returns:
        None where that would save nothing.
    """
    if len(fake_value(explained).shape) < 3:
        return None
    chosen = _by_position(graph, explained, ancestors(explained), rules)
    if not _saves(chosen):
        return None
    narrowing = _Narrowing(graph, rules)
    with narrowing.fx.inserting_before(next(n for n in narrowing.fx.nodes if n.op == "call_function")):
        position = narrowing.fx.placeholder("position")
    position.meta["val"] = torch.zeros((), dtype=torch.long, device=fake_value(explained).device)
    narrowing.narrow(chosen, position)
    return Focused(narrowing.graph, narrowing.narrowed[explained], narrowing.rules)


def trim(graph: Graph, explained: Node, rules: Mapping[Node, Rule]) -> Focused | None:
    """Values of which the explained output reads one position, such as that of a class token, hold that one.

    Returns:
        None where that would save nothing.
    """
    needed = ancestors(explained)
    narrowing: _Narrowing | None = None
    for node in graph.operators():
        readers = [user for user in node.users if user in needed]
        position, *others = {_position_read(user, node) for user in readers} or {None}
        if node not in needed or position is None or others:
            continue
        chosen = _by_position(graph, node, needed, rules)
        if not _saves(chosen):
            continue
        narrowing = narrowing or _Narrowing(graph, rules)
        narrowing.narrow(chosen, position)
        for reader in readers:
            narrowing.read_the_only_position(reader, node)
    if narrowing is None:
        return None
    remove_dead(narrowing.graph)
    return Focused(narrowing.graph, narrowing.copies[explained], narrowing.rules)


def _position_read(reader: Node, node: Node) -> int | None:
    """The one position of a node's value that a reader takes; None if it takes others, or may."""
    name, args = operator_name(reader), reader.args
    rank = len(_shape(node) or ())
    if name not in {"select", "slice"} or rank < 3 or args[1] % rank != DIM:  # type: ignore[operator]
        return None
    if name == "select":
        return args[2] if isinstance(args[2], int) else None
    if len(args) != 4 or not all(isinstance(a, int) for a in args[2:]):
        return None
    begin, end = args[2:]
    assert isinstance(begin, int)
    assert isinstance(end, int)
    one = end - begin == 1 and end != 0  # x[:, -1:0] is empty
    return begin if one or (begin == -1 and end == torch.iinfo(torch.int64).max) else None


def _saves(chosen: set[Node]) -> bool:
    """A linear layer or a product is among them; whatever else is local costs little."""
    return any(op_of(n).bilinear or op_of(n).family == "product" for n in chosen)


class _Narrowing:
    """Makes some operators of a copy run for one position.

    Attributes:
        graph: the copy. rules: those of its nodes.
        copies: node of the original -> its copy.
        narrowed: node of the original -> its narrowed copy.
    """

    def __init__(self, graph: Graph, rules: Mapping[Node, Rule]) -> None:
        self.fx, self.copies = FxGraph(), dict[Node, Node]()
        for node in graph.fx.nodes:
            self.copies[node] = self.fx.node_copy(node, self.copies.__getitem__)
            self.copies[node].meta = dict(node.meta)
        self.graph = replace(graph, fx=self.fx)
        self.rules = {self.copies[node]: rule for node, rule in rules.items()}
        self.narrowed: dict[Node, Node] = {}
        self._taken: dict[tuple[Node, int, Any], Node] = {}

    def narrow(self, chosen: set[Node], position: Node | int) -> None:
        """Put operators for one position beside those for all, which stay for whoever else reads them."""
        for node in self.copies:  # in order of execution
            if node not in chosen:
                continue
            old, rank = self.copies[node], len(fake_value(node).shape)
            k = op_of(node).positions
            places, rest = (node.args, ()) if k is None else (node.args[:k], old.args[k:])
            args = (*(self._at(a, rank, position, old) for a in places), *rest)
            with self.fx.inserting_before(old):
                new = self.fx.call_function(old.target, args, dict(old.kwargs))  # type: ignore[arg-type]
            new.meta |= old.meta | {"val": fake_value(node)[:, :1]}
            self.narrowed[node] = new
            if old in self.rules:
                self.rules[new] = self.rules.pop(old)

    def read_the_only_position(self, reader: Node, node: Node) -> None:
        """A reader of one position reads what there is now of a node."""
        self.copies[reader].args = (self.narrowed[node], DIM, 0, *((1,) if operator_name(reader) == "slice" else ()))

    def _at(self, value: Any, rank: int, position: Node | int, before: Node) -> Any:
        """An argument of an operator with an output of a rank, at the position."""
        if isinstance(value, (list, tuple)):
            return type(value)(self._at(v, rank, position, before) for v in value)
        if not isinstance(value, Node):
            return value
        if value in self.narrowed:
            return self.narrowed[value]
        size = _shape(value)
        dim = DIM - rank + len(size or ())
        if size is None or dim < 0 or (isinstance(size[dim], int) and size[dim] == 1):
            return self.copies[value]  # the same at all positions
        if (value, dim, position) not in self._taken:
            with self.fx.inserting_before(before):
                node = self.fx.call_function(f.at, (self.copies[value], dim, position))
            node.meta |= {"val": fake_value(value).narrow(dim, 0, 1), "relprop": info(value)}
            annotate(node, static=False, entry="", operator="slice")
            self._taken[value, dim, position] = node
            if info(value).data:
                self.rules[node] = PassRule()
        return self._taken[value, dim, position]


def _by_position(graph: Graph, last: Node, needed: set[Node], rules: Mapping[Node, Rule]) -> set[Node]:
    """Operators that a node alone needs (of those that are `needed`), at the same position as that of its value."""
    chosen: set[Node] = set()
    for node in reversed(list(graph.operators())):
        rule = rules.get(node)
        local = not isinstance(rule, AffineRule) or rule.is_local
        if local and node in needed and not info(node).static and _keeps_positions(node, last):
            readers = [user for user in node.users if user in needed]
            if node is last or (readers and all(user in chosen for user in readers)):
                chosen.add(node)
    return chosen if last in chosen else set()


def _keeps_positions(node: Node, final: Node) -> bool:
    """The operator computes each position of (B, T, ...) from the same position of what it reads."""
    if not isinstance(fake_value(node), Tensor) or any(_shape(a) is None for a in node.all_input_nodes if _is_made(a)):
        return False
    shape, whole = fake_value(node).shape, fake_value(final).shape
    if len(shape) != len(whole) or str(shape[DIM]) != str(whole[DIM]):
        return False
    return op_of(node).local(node, DIM)


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
