"""What the graph proves about its nodes: which carry data, which are constants, which are never negative."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from relprop.engine.graph.graph import (
    Graph,
    Node,
    annotate,
    data_inputs,
    fake_value,
    info,
    is_floating,
    is_random,
    operator_name,
)
from relprop.engine.ops.ids import entries
from relprop.engine.ops.registry import lookup, op_of


def analyze(graph: Graph) -> Graph:
    """Set `data`, `static` and `nonneg` on every node, in order of execution."""
    analyze_inputs(graph)
    for node in graph.operators():
        analyze_operator(node)
    return graph


def analyze_inputs(graph: Graph) -> None:
    """Set the flags of what operators begin with: inputs, constants, embeddings of token ids."""
    for embedding, sources in entries(graph):
        annotate(embedding, entry="+".join(source.name for source in sources))
    inputs = set(graph.inputs)
    for node in graph.fx.nodes:
        if node.op == "placeholder":
            is_input = node in inputs
            annotate(node, data=is_input and is_floating(node), static=not is_input)


def analyze_operator(node: Node) -> None:
    """Set the flags of one operator from those of its inputs."""
    arguments = node.all_input_nodes
    static = all(info(a).static for a in arguments) and not is_random(node)
    op = op_of(node)
    carries = not static and op.family != "source" and reads_data(node) and (is_floating(node) or _is_complex(node))
    signs = [info(a).nonneg for a in arguments if info(a).data]
    annotate(
        node,
        static=static,
        data=carries or bool(info(node).entry) or operator_name(node) in BAGS,
        nonneg=op.nonneg(node, signs),
        masked=carries and is_masked(node),
    )


BAGS = {"embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"}
"""They look ids up, and no family explains them: what was not written out is refused, not passed over."""


def is_masked(node: Node) -> bool:
    """Whether entries may be infinite: what was put or added there is no data, or such entries were handed on."""
    op = op_of(node)
    added = op.family == "sum" and any(not info(a).data for a in node.all_input_nodes)
    handed_on = op.infinite == "inherits" and any(info(a).masked for a in data_inputs(node))
    return added or handed_on or op.infinite == "makes"


def only_masks(node: Node, *, added: bool = False) -> bool:
    """Whether all that becomes of a value is a summand of what a softmax reads, or a comparison.

    There -inf means that nothing is read, and such entries carry no relevance.

    Args:
        node: what is looked at.
        added: it is a sum already.
    """
    return bool(node.users) and all(_only_masks(node, reader, added) for reader in node.users)


def _only_masks(node: Node, reader: Node, added: bool) -> bool:
    op = op_of(reader)
    if op.family == "attention":  # the fourth argument of the fused operator
        return node is reader.kwargs.get("attn_mask", reader.args[3] if len(reader.args) > 3 else None)
    if op.family == "softmax":
        return added
    if reader.op != "call_function" or not isinstance(fake_value(reader), Tensor):
        return False
    if not is_floating(reader):
        return True
    moved, summed = op.family == "movement" and op.infinite == "inherits", _is_added(node, reader)
    return (moved or summed) and only_masks(reader, added=added or summed)


def _is_added(node: Node, reader: Node) -> bool:
    """Whether a value is a summand, and none that is taken off."""
    coefficients = reader.kwargs.get("coefficients")
    if operator_name(reader) != "add" or not isinstance(coefficients, (list, tuple)):
        return False
    return all(c == 1 for a, c in zip(reader.args, coefficients, strict=True) if a is node)


def reads_data(node: Node) -> bool:
    """Whether data flows into a node; an argument that only lends its shape or dtype does not count."""
    read = node.args[:1] if op_of(node).like_another else node.all_input_nodes
    return any(isinstance(a, Node) and info(a).data for a in read)


def _is_complex(node: Node) -> bool:
    """Complex numbers carry data too, so that what no family explains is refused, not passed over."""
    value = fake_value(node)
    return isinstance(value, Tensor) and value.dtype.is_complex


def remove_dead(graph: Graph) -> Graph:
    """Erase operators whose result nobody reads."""
    for node in reversed(list(graph.fx.nodes)):
        if node.op == "call_function" and not node.users:
            graph.fx.erase_node(node)
    return graph


def reached_by_relevance(explained: Node) -> set[Node]:
    """The data nodes that relevance can come to from an output: those that need a rule, inputs and embeddings."""
    reached: set[Node] = set()
    waiting = [explained] if info(explained).data else []
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(data_inputs(node))
    return reached


def needs_rule(node: Node) -> bool:
    """Relevance goes through the node; at inputs and embeddings it has arrived."""
    return node.op == "call_function" and info(node).data and not info(node).entry


def stop_at(graph: Graph, stopped: set[Node]) -> None:
    """Count the outputs of some nodes, and what depends on nothing else, as constants."""
    for node in graph.operators():
        alive = bool(info(node).entry) or reads_data(node)
        if node in stopped or not alive:
            annotate(node, data=False)


def unexplained(graph: Graph, reached: set[Node]) -> Iterator[Node]:
    """Operators that relevance would reach and no family explains."""
    for node in graph.fx.nodes:
        if node in reached and needs_rule(node) and lookup(node) is None:
            yield node
