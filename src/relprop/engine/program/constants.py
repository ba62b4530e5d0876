"""Parameters, and everything computed from parameters alone: evaluated once, again when a parameter changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Graph, Node, info
from relprop.engine.graph.run import run_node
from relprop.engine.ops.registry import op_of


class Constants:
    """Values of a graph's static nodes, and the weights that rules have modified.

    The tensors are those of the user's model, so training on, `load_state_dict` and `.to(device)` are followed.

    Args:
        keep: keep modified weights from call to call, and weights in the layout that is fastest; otherwise there is
            never a second copy of more than one layer's weights.
    """

    def __init__(self, graph: Graph, *, keep: bool = True) -> None:
        self.keep = keep
        self._graph = graph
        self._static = [n for n in graph.fx.nodes if info(n).static and n.op in ("call_function", "placeholder")]
        self._read = {a for n in graph.fx.nodes if not info(n).static for a in n.all_input_nodes}
        self._convolved = {n.args[1] for n in graph.operators() if op_of(n).convolves == 2}
        self._key: Any = None
        self._values: dict[Node, Any] = {}
        self.modified: dict[Any, Tensor] = {}

    def values(self) -> dict[Node, Any]:
        """Node -> value, up to date."""
        key = tuple((id(t), t._version, t.data_ptr(), t.device, t.dtype) for t in self._graph.tensors.values())
        if key != self._key:
            self.modified.clear()
            self._values = self._evaluate()
            self._key = key
        return self._values

    def _evaluate(self) -> dict[Node, Any]:
        values: dict[Node, Any] = {}
        with torch.no_grad():
            for node in self._static:
                if node.op == "placeholder":
                    values[node] = _plain(self._graph.tensors[node.name])
                else:
                    values[node] = run_node(node, values.__getitem__)
        return {n: self._laid_out(n, v) for n, v in values.items() if n in self._read}

    def _laid_out(self, node: Node, value: Any) -> Any:
        """Weights of 2-D convolutions go channels-last on the CPU, where that saves a copy in every call."""
        if self.keep and node in self._convolved and prefers_channels_last(value):
            return value.contiguous(memory_format=torch.channels_last)
        return value


class SharedConstants(Constants):
    """Those of another graph, of which `graph` is a copy with the same names: nothing is computed or kept twice."""

    def __init__(self, graph: Graph, source: Constants) -> None:
        self.keep, self.modified, self._source = source.keep, source.modified, source
        self._known: dict[Node, Any] = {}
        self._nodes = {n.name: n for n in graph.fx.nodes if info(n).static}

    def values(self) -> dict[Node, Any]:
        known = self._source.values()
        if known is not self._known:
            self._known = known
            self._values = {self._nodes[n.name]: value for n, value in known.items() if n.name in self._nodes}
        return self._values


def _plain(tensor: Tensor) -> Tensor:
    """Detached from autograd, and out of inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def prefers_channels_last(value: Any) -> bool:
    """4-D tensors on the CPU, whose convolutions work channels-last inside anyway."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.device.type == "cpu" and value.is_floating_point()
