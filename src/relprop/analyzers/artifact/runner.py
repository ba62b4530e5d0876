"""The module that is exported: a flat graph with its tensors, called like the model, answering in plain containers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from relprop.engine.graph.graph import Graph
from relprop.engine.program.trace import Key, Traced

TARGET = "target"
"""Name of the target among the inputs and the results."""


class Runner(nn.Module):
    """The flat graph with its tensors as buffers, and with the model's own inputs and outputs.

    Args:
        graph: the captured model. traced: its program. state: the tensors of `traced.keys`.
        takes_target: the target is an input by the name of `target`.
    """

    def __init__(self, graph: Graph, traced: Traced, state: Sequence[Tensor], takes_target: bool) -> None:
        super().__init__()
        self.flat = traced.module
        self._captured, self._traced, self._takes_target = graph, traced, takes_target
        self._names: list[str] = []
        for key, tensor in zip(traced.keys, state, strict=True):
            name = _buffer_name(key)
            name = f"{name}_{len(self._names)}" if name in self._names else name
            self._names.append(name)
            self.register_buffer(name, _whole(tensor))
        self.forward = self._with_signature()  # torch.export names inputs by it

    def _with_signature(self) -> Callable[..., dict[str, Any]]:
        names = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in positional_names(self._captured)]
        names += [Parameter(name, Parameter.KEYWORD_ONLY) for name in keyword_names(self._captured)]
        names += [Parameter(TARGET, Parameter.KEYWORD_ONLY)] if self._takes_target else []

        def forward(*args: Any, **kwargs: Any) -> dict[str, Any]:
            return self._run(args, kwargs)

        forward.__signature__ = Signature(names)  # type: ignore[attr-defined]
        return forward

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        target = kwargs.pop(TARGET) if self._takes_target else None
        leaves = pytree.tree_leaves((args, kwargs))
        _check_conditions(self._captured, leaves)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if target is not None:
            _require(target.shape[0] == first_tensor(tensors).shape[0])
            tensors.append(target)
        results = self.flat(*[getattr(self, name) for name in self._names], *tensors)
        outputs, inputs, layers, index = self._traced.unpack(results)
        several = tuple(inputs.values())
        found: dict[str, Any] = {
            "output": plain(pytree.tree_unflatten(outputs, self._captured.out_spec)),
            "relevance": several[0] if len(several) == 1 else several,
        }
        return found | ({"target": index} if index is not None else {}) | ({"layers": layers} if layers else {})


def positional_names(graph: Graph) -> list[str]:
    """A name for each positional input: that of its tensor, or of the first of several."""
    args, _ = pytree.tree_unflatten([node.name for node in graph.inputs], graph.in_spec)
    return [next(iter(pytree.tree_leaves(arg)), f"input_{i}") for i, arg in enumerate(args)]


def keyword_names(graph: Graph) -> list[str]:
    """The names of the inputs that a model was captured with by name, in order."""
    return list(pytree.tree_unflatten(graph.inputs, graph.in_spec)[1])


def plain(value: Any) -> Any:
    """A model's output in tuples, lists and dicts, for whoever does not have the model's classes."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {name: plain(part) for name, part in fields.items() if part is not None}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value] if isinstance(value, list) else tuple(plain(part) for part in value)
    if value is None or isinstance(value, (Tensor, int, float, str, bool)):
        return value
    return [plain(part) for part in pytree.tree_leaves(value)]


def first_tensor(values: Iterable[Any]) -> Tensor:
    """The first with dimensions: its first one is the batch."""
    return next(t for t in values if isinstance(t, Tensor) and t.dim())


def _buffer_name(key: Key) -> str:
    """`p_features_0_weight`, and `p_features_0_weight_positive` for what a rule has made of it."""
    kind, what = key
    if kind == "value":
        return str(what.name)
    weight, modifier, _ = what
    made = getattr(modifier, "__name__", type(modifier).__name__)
    return re.sub("[^0-9a-zA-Z]+", "_", f"{weight}_{made}").strip("_")


def _whole(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it where it is a part of other memory, which would be stored with it."""
    own = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor.detach() if own else tensor.detach().clone()


def _check_conditions(graph: Graph, leaves: Sequence[Any]) -> None:
    """Put what the model's own code asked of its input's sizes into the program, as `Graph.serves` has it."""
    sizes = graph.open_sizes(leaves)
    for condition in graph.conditions():
        if condition.free_symbols <= sizes.keys():
            _require(sympy_interp(PythonReferenceAnalysis, sizes, condition))


def _require(condition: bool | torch.SymBool) -> None:
    """Make a condition on sizes a part of the program that is being exported."""
    torch._check(condition)  # type: ignore[no-untyped-call]
