"""Parameters, and everything computed from parameters alone: evaluated once, again when a parameter changes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.fx.node import map_arg

from relprop.engine.graph.graph import Graph, Node, ancestors, info, operator_name
from relprop.engine.graph.run import OnTheFly, run_node
from relprop.engine.program.sample import Sample, State, identity

CONVOLUTIONS_2D = {"conv2d", "conv_transpose2d"}


@runtime_checkable
class Constants(Protocol):
    """Values of a graph's constant part, and the weights that rules have modified.

    Attributes:
        keep: modified weights stay from call to call.
        modified: those that were made.
    """

    keep: bool
    modified: MutableMapping[Any, Tensor]

    def values(self) -> dict[Node, Any]:
        """Node -> value, up to date."""

    def live(self) -> dict[Node, Any]:
        """Node -> value, differentiable in the parameters; nothing is kept."""

    def state(self) -> Any:
        """What differs when a parameter has changed."""


class Weights:
    """What was made of a model's parameters, for all graphs that were captured of it.

    A value is known by how it is computed: an operator, on what, down to the parameters themselves. So pictures of
    another size need no second copy.
    """

    def __init__(self) -> None:
        self.values: dict[Hashable, Any] = {}
        self.modified: dict[Any, Tensor] = {}
        self.generation = 0
        self.lock = threading.RLock()
        self._numbers: dict[Hashable, int] = {}
        self._count = itertools.count()

    def number(self, computation: Hashable) -> int:
        """A number for each computation, the same for the same until all is cleared, and never one from before."""
        if computation not in self._numbers:
            self._numbers[computation] = next(self._count)
        return self._numbers[computation]

    def clear(self) -> None:
        """Forget all of it; graphs that have taken something from here ask again."""
        with self.lock:
            self.generation += 1
            self._numbers.clear()
            self.values.clear()
            self.modified.clear()


class Modified(MutableMapping[Any, Tensor]):
    """A graph's view of modified weights: (name of the weight's node, modifier, dtype) -> weight."""

    def __init__(self, shared: dict[Any, Tensor]) -> None:
        self._shared, self._keys = shared, dict[Any, Hashable]()
        self._numbers: Mapping[str, int] = {}

    def renumber(self, numbers: Mapping[str, int]) -> None:
        """Parameters have changed: node's name -> the number of its computation."""
        self._numbers, self._keys = numbers, {}

    def __getitem__(self, key: Any) -> Tensor:
        return self._shared[self._key(key)]

    def __setitem__(self, key: Any, weight: Tensor) -> None:
        self._shared[self._key(key)] = weight

    def __delitem__(self, key: Any) -> None:
        del self._shared[self._key(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key, shared in self._keys.items() if shared in self._shared])

    def __len__(self) -> int:
        return sum(shared in self._shared for shared in self._keys.values())

    def _key(self, key: Any) -> Hashable:
        if key not in self._keys:
            name, *rest = key
            whole, bracket, rows = name.partition("[")  # some rows of a weight are called `weight[8:16]`
            self._keys[key] = (self._numbers.get(whole, (id(self), whole)), bracket + rows, *rest)
        return self._keys[key]


class OwnConstants:
    """Constants of a captured graph, computed once, and again when a parameter changes.

    The tensors are those of the user's model, so training on, `load_state_dict` and `.to(device)` are followed; and so
    is what raises no version, such as fused optimizers and `.data`, by a look at some of the numbers.

    Args:
        weights: where they are kept; None: a place of their own.
        keep: keep modified weights from call to call, and weights in the layout that is fastest; otherwise there is
            never a second copy of more than one layer's weights: those that linear layers make of something else, such
            as packed integers, are made wherever they are read.
    """

    def __init__(self, graph: Graph, weights: Weights | None = None, *, keep: bool = True) -> None:
        self.keep = keep
        self._graph, self._weights = graph, weights or Weights()
        self._static = [n for n in graph.fx.nodes if info(n).static and n.op in ("call_function", "placeholder")]
        self._read = {a for n in graph.fx.nodes if not info(n).static for a in n.all_input_nodes if info(a).static}
        self._convolved = {n.args[1] for n in graph.operators() if operator_name(n) in CONVOLUTIONS_2D}
        self._anew = {} if keep else {n: self._way_to(n) for n in self._read if _is_made_for_layers(n)}
        self._key: tuple[int, State] | None = None
        self._sample, self._sampled = Sample(()), cast("tuple[Any, ...]", ())
        self._numbers: dict[Node, int] = {}
        self._values: dict[Node, Any] = {}
        self._view = Modified(self._weights.modified)
        self.modified: MutableMapping[Any, Tensor] = self._view

    def _way_to(self, node: Node) -> list[Node]:
        """What a value is made of, in order."""
        needed = ancestors(node)
        return [n for n in self._static if n in needed]

    def values(self) -> dict[Node, Any]:
        state = self.state()
        if (self._weights.generation, state) != self._key:
            with self._weights.lock:
                self._make(state)
        return self._values

    def _make(self, state: State) -> None:
        """All values anew, unless another thread has made them meanwhile."""
        weights = self._weights
        if (weights.generation, state) == self._key:
            return
        if self._key is not None and state != self._key[1]:  # other graphs of the model find out by themselves
            weights.clear()
        self._numbers = self._numbered()
        self._view.renumber({n.name: number for n, number in self._numbers.items()})
        with torch.no_grad():
            self._values = self._known_or_made()
        self._key = weights.generation, state

    def live(self) -> dict[Node, Any]:
        values: dict[Node, Any] = {}
        for node in self._static:
            values[node] = self._made(node, values, lambda tensor: tensor)
        return values

    def state(self) -> State:
        tensors = list(self._graph.tensors.values())
        identities = tuple(map(identity, tensors))
        if identities != self._sampled:
            self._sample, self._sampled = Sample(tensors), identities
        return State(identities, self._sample.read())

    def _known_or_made(self) -> dict[Node, Any]:
        """The values that are read, from those of other graphs where they have them."""
        known, values = self._weights.values, dict[Node, Any]()
        kept = self._read - self._anew.keys()
        keys: dict[Node, Hashable] = {n: (self._numbers[n], self.keep and n in self._convolved) for n in kept}
        missing = _with_ancestors(n for n in kept if keys[n] not in known)
        for node in self._static:
            if node in missing:
                values[node] = self._made(node, values, _plain)
        for node, key in keys.items():
            if key not in known:
                known[key] = self._laid_out(node, values[node])
        on_the_fly = {node: OnTheFly(partial(self._made_anew, node)) for node in self._anew}
        return {node: known[key] for node, key in keys.items()} | on_the_fly

    def _made_anew(self, node: Node) -> Any:
        """A value of which nothing is kept."""
        values: dict[Node, Any] = {}
        with torch.no_grad():
            for each in self._anew[node]:
                values[each] = self._made(each, values, _plain)
        return values[node]

    def _made(self, node: Node, values: Mapping[Node, Any], read: Callable[[Tensor], Tensor]) -> Any:
        if node.op == "placeholder":
            return read(self._graph.tensors[node.name])
        return run_node(node, values.__getitem__)

    def _numbered(self) -> dict[Node, int]:
        """Each static node's computation as a number; where it cannot be told, one of its own."""
        numbers: dict[Node, int] = {}
        for node in self._static:
            computation: Hashable = (id(self), node.name)
            if node.op == "placeholder":
                computation = identity(self._graph.tensors[node.name])
            else:
                described = repr(map_arg((node.args, node.kwargs), lambda n: f"%{numbers[n]}"))
                computation = (node.target, described)
            numbers[node] = self._weights.number(computation)
        return numbers

    def _laid_out(self, node: Node, value: Any) -> Any:
        """Weights of 2-D convolutions go channels-last on the CPU, where that saves a copy in every call."""
        if self.keep and node in self._convolved and prefers_channels_last(value):
            return value.contiguous(memory_format=torch.channels_last)
        return value


class SharedConstants:
    """Those of another graph, of which `graph` is a copy with the same names: nothing is computed or kept twice."""

    def __init__(self, graph: Graph, source: Constants) -> None:
        self.keep, self.modified, self._source = source.keep, source.modified, source
        self._known: dict[Node, Any] = {}
        self._values: dict[Node, Any] = {}
        self._nodes = {n.name: n for n in graph.fx.nodes if info(n).static}

    def values(self) -> dict[Node, Any]:
        known = self._source.values()
        if known is not self._known:
            self._known = known
            self._values = self._renamed(known)
        return self._values

    def live(self) -> dict[Node, Any]:
        return self._renamed(self._source.live())

    def state(self) -> Any:
        return self._source.state()

    def _renamed(self, values: dict[Node, Any]) -> dict[Node, Any]:
        return {self._nodes[n.name]: value for n, value in values.items() if n.name in self._nodes}


class GivenConstants:
    """Constants that stand in for a program's own while it is traced."""

    def __init__(self, values: dict[Node, Any], modified: dict[Any, Tensor]) -> None:
        self.keep, self._values = True, values
        self.modified: MutableMapping[Any, Tensor] = modified

    def values(self) -> dict[Node, Any]:
        return self._values

    def live(self) -> dict[Node, Any]:
        return self._values

    def state(self) -> Any:
        return None


def _with_ancestors(nodes: Iterable[Node]) -> set[Node]:
    found: set[Node] = set()
    for node in nodes:
        if node not in found:
            found |= ancestors(node)
    return found


def _is_made_for_layers(node: Node) -> bool:
    """A weight that is computed, and read by linear layers alone: it can be made for each of them in turn."""
    return node.op == "call_function" and all(
        operator_name(reader) == "linear" and reader.args[1] is node for reader in node.users
    )


def _plain(tensor: Tensor) -> Tensor:
    """Detached from autograd, and out of inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def prefers_channels_last(value: Any) -> bool:
    """4-D tensors on the CPU, whose convolutions work channels-last inside anyway."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.device.type == "cpu" and value.is_floating_point()
