"""What a GPU would refuse or wait for, seen without one.

On the meta device tensors have shapes and no values: whatever reads a value fails there, and autograd runs, which
aborts on fake CUDA tensors where there is no GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from relprop.engine.graph.graph import Graph
from relprop.engine.program.answer import answer
from relprop.engine.program.constants import GivenConstants
from relprop.engine.program.program import Program
from relprop.engine.program.question import Answer, Question

META = torch.device("meta")


def on_meta(value: Any) -> Any:
    """A nest of values, its tensors on the meta device."""
    return pytree.tree_map(lambda leaf: leaf.detach().to(META) if isinstance(leaf, Tensor) else leaf, value)


class OneDevice(TorchDispatchMode):
    """Within it, tensors of two devices in one operator are an error, and so is a tensor made on the CPU.

    As on a GPU, a CPU tensor without dimensions counts as a number, and a copy may lead from one device to another.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs or {}))
        found = func(*args, **(kwargs or {}))
        copies = func._schema.name in ("aten::_to_copy", "aten::copy_")
        numbers = [t for t in given if t.device != META and not t.dim()]
        if not copies and any(t.device != META for t in given) and len(numbers) != sum(t.device != META for t in given):
            raise AssertionError(f"{func} reads tensors on {sorted({str(t.device) for t in given})}")
        if not numbers and any(t.device != META for t in _tensors(found)):
            raise AssertionError(f"{func} makes a tensor on the CPU")
        return found


def answer_on_meta(program: Program, inputs: Sequence[Any], questions: Sequence[Question], **how: Any) -> list[Answer]:
    """The answers of both loops on the meta device, without what was kept from earlier calls."""
    constants = GivenConstants({n: on_meta(v) for n, v in program.constants.values().items()}, {})
    elsewhere, leaves = replace(program, constants=constants), on_meta(list(inputs))
    with torch.no_grad(), _there(program.graph), OneDevice():
        return list(answer(elsewhere, leaves, questions, **how))


@contextmanager
def _there(graph: Graph) -> Iterator[None]:
    """Operators that name the CPU, where the model was captured, name the meta device."""
    named = {n: n.kwargs for n in graph.fx.nodes if n.kwargs.get("device") is not None}
    for node, kwargs in named.items():
        node.kwargs = {**kwargs, "device": META}
    try:
        yield
    finally:
        for node, kwargs in named.items():
            node.kwargs = kwargs


WAITS = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2")
"""Operators that wait for a GPU until a value is known."""

READS = (Tensor.tolist, Tensor.numpy, Tensor.cpu, torch.tensor, torch.as_tensor)
"""Functions that copy between a GPU and Python."""


class _Operators(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in WAITS:
            self.found[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS and not (func is torch.as_tensor and isinstance(args[0], Tensor)):
            self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def waits(call: Callable[[], Any]) -> Counter[str]:
    """How often a call would wait for a GPU, or send it something from Python, by operator."""
    found: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(_Functions(found))
        stack.enter_context(_Operators(found))
        call()
    return found


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
