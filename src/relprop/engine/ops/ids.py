"""Token ids and categories: which inputs' ids an integer holds, and where their relevance is read.

Ids are followed from the input to the embedding through whatever only moves them, cuts them, or counts them anew: an
offset, a bound, a table's column. What is computed from several inputs' values, or compared, ranked and summed up (as
positions are, from a mask), is no id any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

from relprop.engine.graph.graph import Graph, Node, fake_value, is_floating, operator_name
from relprop.engine.ops.registry import op_of

SEGMENTS = re.compile("token_type|segment")
"""Inputs that say which sentence a token is in: embedded like tokens, but no part of what is read."""

COUNTED_ANEW = {
    "add", "sub", "rsub", "mul", "scale", "remainder", "fmod", "div", "floor_divide", "neg", "abs", "floor", "round",
    "trunc", "clamp", "clamp_min", "clamp_max", "minimum", "maximum", "bucketize", "searchsorted", "bitwise_and",
}  # fmt: skip
"""Operators behind which one input's ids are still told apart, shifted and scaled by constants."""

CHOSEN = {
    "where": (1, 2),
    "masked_fill": (0,),
    "gather": (0,),
    "index_select": (0,),
    "index": (0,),
    "take_along_dim": (0,),
}
"""Operators of which some operands say where, not what."""

BINS = {"bucketize": 0, "searchsorted": 1}
"""Operators that say which bin a value is in, and which argument is that."""

SHAPES = {"sym_size", "sym_numel", "sym_stride", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros",
          "new_ones", "new_empty", "new_full", "arange", "zeros", "ones", "full"}  # fmt: skip
"""Operators that look at no value."""

TABLES = {"embedding": (0, 1), "index": (0, 1), "index_select": (0, 2)}
"""Operators that look rows of a table up: which argument is the table, and which the ids."""


class Ids:
    """What integers of a graph are ids of."""

    def __init__(self, graph: Graph) -> None:
        self._inputs = {n for n in graph.inputs if not SEGMENTS.search(n.name)}
        self._all = set(graph.inputs)
        self._known: dict[Node, tuple[Node, ...]] = {}
        self._varying: dict[Node, bool] = {}
        for node in graph.fx.nodes:  # in order of execution, so that no walk is deep
            self._varying[node] = node in self._all or self._varies(node)
            self._known[node] = (node,) if node in self._inputs else self._from(node)

    def of(self, value: object) -> tuple[Node, ...]:
        """The inputs whose ids a value holds; none where it is no node, or holds something else."""
        return self._known.get(value, ()) if isinstance(value, Node) else ()

    def varies(self, value: object) -> bool:
        """Whether it depends on the values of inputs, not on their shapes alone."""
        return isinstance(value, Node) and self._varying.get(value, False)

    def _varies(self, node: Node) -> bool:
        return operator_name(node) not in SHAPES and any(self._varying.get(a, False) for a in node.all_input_nodes)

    def _from(self, node: Node) -> tuple[Node, ...]:
        name = operator_name(node)
        if node.op != "call_function" or not self._varying[node]:
            return ()
        if name in CHOSEN:
            read: Iterable[object] = [a for i, a in enumerate(node.args) if i in CHOSEN[name]]
        elif name in COUNTED_ANEW:
            read = self._counted(node, name)
        elif name == "getitem":
            source, index = node.args[:2]
            ranked = isinstance(source, Node) and operator_name(source) in {"sort", "topk"} and index != 0
            read = [] if ranked else [source]
        elif op_of(node).family == "movement" or name in {"copy", "alias"}:
            read = [a for a in node.all_input_nodes if not op_of(node).like_another or a is node.args[0]]
        else:
            return ()
        return tuple(dict.fromkeys(source for a in read for source in self.of(a)))

    def _counted(self, node: Node, name: str) -> list[Node]:
        """The one operand that depends on inputs; none where the others tell the result's places apart, too."""
        read = [a for a in node.all_input_nodes if self._varying[a]]
        others = [a for a in node.all_input_nodes if not self._varying[a]]
        by_place = name == "mul" and any(operand.op != "placeholder" for operand in others)  # mask * arange(T)
        borders = name in BINS and not (read and node.args[BINS[name]] is read[0])
        return [] if len(read) != 1 or by_place or borders else read


def entries(graph: Graph) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Embeddings of the user's ids, each with the inputs that the ids come from: there relevance is read.

    Embeddings of anything else, such as positions, are constants.
    """
    ids = Ids(graph)
    for node in graph.operators():
        sources = ids.of(looked_up(node, ids))
        if sources:
            yield node, sources


def looked_up(node: Node, ids: Ids) -> object:
    """The ids that an operator looks up in a table of weights, or makes one-hot rows of; None if it does not."""
    name = operator_name(node)
    if name == "categories":
        return _one_hot_ids(node)
    if name not in TABLES or not is_floating(node):
        return None
    table, indices = (node.args[i] if i < len(node.args) else None for i in TABLES[name])
    if ids.varies(table):
        return None
    if isinstance(indices, (list, tuple)):
        given = [i for i in indices if isinstance(i, Node) and ids.of(i)]
        return given[0] if len(given) == 1 else None
    return indices if is_integer(indices) else None


def _one_hot_ids(node: Node) -> object:
    source = node.args[0]
    while isinstance(source, Node) and operator_name(source) not in {"one_hot", "scatter", "eq"}:
        source = source.args[0]
    if not isinstance(source, Node):
        return None
    if operator_name(source) == "eq":
        return compared_with_all(source)
    return source.args[0] if operator_name(source) == "one_hot" else source.args[2]


def compared_with_all(node: Node) -> Node | None:
    """The ids of `ids[..., None] == arange(V)`; None where two values are compared in another way."""
    ids, others = node.args[:2]
    for value, table in ((ids, others), (others, ids)):
        if isinstance(value, Node) and isinstance(table, Node) and is_integer(value) and is_integer(table):
            of_value, of_table = fake_value(value).shape, fake_value(table).shape
            if len(of_value) > 1 and of_value[-1] == 1 and len(of_table) and of_table[-1] != 1:
                return value
    return None


def is_integer(value: object) -> bool:
    """A node whose value may be ids."""
    known = fake_value(value) if isinstance(value, Node) else None
    return isinstance(known, torch.Tensor) and not known.dtype.is_floating_point and known.dtype != torch.bool
