"""A captured program against the model itself: both must return the same, through values as they were recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.engine.graph.graph import Graph, Node, fake_value
from relprop.engine.graph.outputs import as_records
from relprop.engine.graph.run import evaluate_flat

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-2}
"""Largest difference, relative to the largest value of an output: the operators are the same, but not their order."""


@contextlib.contextmanager
def same_numbers(tensors: Sequence[Any]) -> Iterator[None]:
    """Random numbers drawn within are the same each time, and nobody else's are changed."""
    devices = sorted({t.device.index for t in tensors if isinstance(t, Tensor) and t.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def _without_fast_paths() -> Iterator[None]:
    """PyTorch's fused encoder layers, taken in eval mode without gradients, return zeros where there is padding."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def own_output(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """What the model's own code returns, flat. It works on copies of the inputs."""
    args, kwargs = pytree.tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, (args, dict(kwargs)))
    with torch.no_grad(), _without_fast_paths(), same_numbers(pytree.tree_leaves((args, kwargs))):
        return pytree.tree_leaves(as_records(model(*args, **kwargs)))


def difference(graph: Graph, leaves: Sequence[Any], own: Sequence[Any]) -> str:
    """How the program differs from the model for these inputs; empty where it does not."""
    try:
        with torch.no_grad(), same_numbers(leaves):
            found = evaluate_flat(graph, leaves, check=_as_recorded(graph.open_sizes(leaves)))
    except Exception as error:
        return f"the program fails ({type(error).__name__}: {error})"
    if len(found) != len(own):
        return f"the program returns {len(found)} values, the model {len(own)}"
    return next((said for pair in zip(found, own, strict=True) if (said := _differs(*pair))), "")


def _as_recorded(sizes: Mapping[Any, int]) -> Callable[[Node, Any], None]:
    """A check that each value has the shape that the export has recorded for it."""

    def check(node: Node, value: Any) -> None:
        recorded = fake_value(node)
        pairs = zip(recorded, value, strict=False) if isinstance(recorded, (list, tuple)) else [(recorded, value)]
        for known, actual in pairs:
            if isinstance(known, Tensor) and isinstance(actual, Tensor) and not _fits(known, actual, sizes):
                raise ValueError(f"{node.name} has shape {tuple(actual.shape)}, recorded was {tuple(known.shape)}")

    return check


def _fits(known: Tensor, actual: Tensor, sizes: Mapping[Any, int]) -> bool:
    return known.dim() == actual.dim() and all(
        expected is None or expected == size
        for expected, size in zip((_size(s, sizes) for s in known.shape), actual.shape, strict=True)
    )


def _size(known: Any, sizes: Mapping[Any, int]) -> int | None:
    """A recorded size at the sizes of these inputs; None where it depends on values."""
    if isinstance(known, int):
        return known
    expr = known.node.expr
    if expr in sizes:
        return sizes[expr]
    found = expr.subs(sizes)
    return int(found) if found.is_number else None


def _differs(found: Any, own: Any) -> str:
    if not isinstance(own, Tensor):
        return ""
    if not isinstance(found, Tensor):
        return "an output is no tensor in the program"
    if found.shape != own.shape:
        return f"an output has shape {tuple(found.shape)} in the program, and {tuple(own.shape)} in the model"
    if not own.is_floating_point() or not own.numel():
        return ""
    wide = torch.float64 if own.dtype == torch.float64 else torch.float32
    worst = scale = 0.0
    for part, same in zip(_pieces(found), _pieces(own), strict=True):
        a, b = part.to(wide), same.to(wide)
        finite = torch.isfinite(b)
        if not torch.equal(torch.isfinite(a), finite):
            return "other entries of an output are infinite or NaN in the program than in the model"
        a, b = torch.where(finite, a, 0), torch.where(finite, b, 0)
        worst, scale = max(worst, float((a - b).abs().max())), max(scale, float(b.abs().max()))
    return "" if worst <= TOLERANCE.get(own.dtype, 5e-2) * scale else f"an output differs by {worst:.3g} of {scale:.3g}"


PIECE = 1 << 22
"""Entries that are compared at a time: logits of all positions may be the largest tensor that there is."""


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    return torch.split(tensor.reshape(-1), PIECE)
