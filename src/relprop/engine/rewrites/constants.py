"""What counts as a constant although data flows into it: inputs that a user names, and straight-through estimators."""

from __future__ import annotations

from collections.abc import Collection

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, info, operator_name
from relprop.engine.rewrites.rewriting import insert, positional, refresh
from relprop.errors import InputError


def hold_inputs(graph: Graph, names: Collection[str]) -> Graph:
    """Count some inputs as constants, which keep their relevance in a sink of their name.

    Raises:
        InputError: the model has no input of that name, or no other would be left.
    """
    inputs = {node.name: node for node in graph.inputs}
    missing = [name for name in names if name not in inputs]
    if missing:
        raise InputError(f"constant={missing[0]!r}: the model's inputs are {', '.join(inputs)}.")
    for name in names:
        node = inputs[name]
        readers = [user for user in node.users if operator_name(user) not in {"sym_size", "sym_numel"}]
        if readers:
            held = insert(graph, next(n for n in graph.fx.nodes if n.op == "call_function"), f.hold, node, like=node)
            for reader in readers:
                reader.replace_input_with(node, held)
    return graph


def hold_estimates(graph: Graph) -> Graph:
    """In `x + (q − x).detach()`, count what is detached as a constant, as the straight-through estimator does.

    As a sum of three, x would cancel out, and where q is looked up in a codebook, nothing but a constant would be left.
    What is detached elsewhere is read as data.
    """
    detached = [n for n in graph.operators() if operator_name(n) == "detach" and info(n).data]
    for node in detached:
        inside = _summands(positional(node)[0], 1.0)
        for reader in list(node.users):
            around = _summands_around(reader, node)
            cancelled = {x for x, k in inside.items() if x in around and around[x] == -k * around[node]}
            if cancelled and not any(info(x).data for x in inside if x not in cancelled):
                reader.replace_input_with(node, insert(graph, reader, f.hold, node, like=node))
                refresh([reader])
    return graph


def _summands(node: Node, coefficient: float) -> dict[Node, float]:
    """What a node is the sum of, with coefficients: itself, where it is no sum."""
    if operator_name(node) != "add":
        return {node: coefficient}
    total: dict[Node, float] = {}
    for x, k in zip(positional(node), node.kwargs["coefficients"], strict=True):  # type: ignore[arg-type]
        if isinstance(x, Node):
            for part, share in _summands(x, coefficient * k).items():
                total[part] = total.get(part, 0.0) + share
    return total


def _summands_around(reader: Node, node: Node) -> dict[Node, float]:
    """Those of the largest sum that a node's reader is a part of; none but the node where the reader is no sum."""
    if operator_name(reader) != "add":
        return {node: 1.0}
    whole = reader
    while len(whole.users) == 1 and operator_name(next(iter(whole.users))) == "add":
        whole = next(iter(whole.users))
    return _summands(whole, 1.0)
