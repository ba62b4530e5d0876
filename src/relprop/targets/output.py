"""What is explained: from a target to the relevance that the output starts with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import TargetError

Target = SupportsIndex | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None
"""None: the largest output of each sample. int: that class. (B,) integers: a class per sample. tuple: an index into the
dimensions behind the batch. callable: output (B, ...) -> its relevance (B, ...)."""


def seed_relevance(
    output: Float[Tensor, "B *output"], target: Any, normalize_output: bool
) -> tuple[Float[Tensor, "B *output"], Int[Tensor, " B"] | None]:
    """The relevance that the output (B, ...) starts with.

    Args:
        output: what the model said.
        target: what `LRP` takes as target.
        normalize_output: start with 1 at the target instead of the output's value there.

    Returns:
        Relevance shaped like the output, and the target's flat index per sample (None for a callable).

    Raises:
        TargetError: the target selects nothing in this output.
    """
    if callable(target):
        return _from_callable(output, target), None
    index = flat_index(output, target)
    return seed_index(output, index, normalize_output)


def seed_index(
    output: Float[Tensor, "B *output"], index: Int[Tensor, " B"], normalize_output: bool
) -> tuple[Float[Tensor, "B *output"], Int[Tensor, " B"]]:
    """`seed_relevance` for a flat index per sample: 1 (or the output's own value) there, 0 elsewhere.

    Reads no values, so a program that takes `index` as an input can be traced. -1 is the last output.
    """
    flat = output.reshape(output.shape[0], -1)
    index = torch.where(index < 0, index + flat.shape[1], index)
    position = index.unsqueeze(1)
    value = flat.new_ones(()).expand(position.shape) if normalize_output else flat.gather(1, position)
    return torch.zeros_like(flat).scatter(1, position, value).reshape(output.shape), index


def check_target(target: Target, batch: int, shape: tuple[int | None, ...]) -> None:
    """Raise `TargetError` before any work, where the target can be seen not to fit outputs of a shape (B, *shape)."""
    if target is not None and not callable(target) and all(s is not None for s in shape):
        flat_index(torch.empty(batch, *[int(s) for s in shape if s is not None], device="meta"), target)


def flat_index(output: Float[Tensor, "B *output"], target: Any) -> Int[Tensor, " B"]:
    """Index of the target in each sample's flattened output, shape (B,)."""
    batch, shape = output.shape[0], tuple(output.shape[1:])
    if target is None:
        return output.reshape(batch, -1).argmax(1)
    if isinstance(target, Tensor) and target.dim() > 0:
        return _per_sample(target, batch, shape, output.device)
    if isinstance(target, (list, tuple)):
        position = tuple(int(t) for t in target)
    elif isinstance(target, bool) or not isinstance(target, (Integral, Tensor)):
        raise TargetError(
            f"target={target!r}: give None, a class index, a LongTensor of shape (B,), a tuple that indexes one "
            "sample's output, or a function from the output to its relevance."
        )
    else:
        position = (int(target),)
    if len(position) != max(len(shape), 1) and not (shape == () and position == (0,)):
        raise TargetError(
            f"target={target!r} has {len(position)} entries, but one sample's output has shape {shape}. "
            "Give one index per dimension, as a tuple."
        )
    return torch.full((batch,), _ravel(position, shape or (1,), target), dtype=torch.long, device=output.device)


def _per_sample(target: Tensor, batch: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TargetError(f"target has dtype {target.dtype}; a target tensor holds class indices, so integers.")
    if tuple(target.shape) != (batch,):
        raise TargetError(
            f"target has shape {tuple(target.shape)}, but there are {batch} samples: it must be ({batch},)."
        )
    if len(shape) != 1:
        raise TargetError(
            f"a target tensor needs an output of shape (B, classes), got (B, {', '.join(map(str, shape))})."
        )
    low, high = int(target.min()), int(target.max())
    if low < -shape[0] or high >= shape[0]:
        wrong = low if low < -shape[0] else high
        raise TargetError(f"target {wrong} is out of range: the model has {shape[0]} outputs, so 0 to {shape[0] - 1}.")
    return target.to(device=device, dtype=torch.long) % shape[0]


def _ravel(position: Sequence[int], shape: tuple[int, ...], target: object) -> int:
    index = 0
    for i, size in zip(position, shape, strict=True):
        if not -size <= i < size:
            raise TargetError(f"target={target!r} is out of range: one sample's output has shape {shape}.")
        index = index * size + i % size
    return index


def _from_callable(output: Tensor, target: Callable[[Tensor], Tensor]) -> Tensor:
    seed = target(output)
    if not isinstance(seed, Tensor) or seed.shape != output.shape:
        got = f"shape {tuple(seed.shape)}" if isinstance(seed, Tensor) else type(seed).__name__
        raise TargetError(
            f"a target function must return relevance shaped like the output {tuple(output.shape)}, got {got}."
        )
    return seed.to(device=output.device, dtype=output.dtype)
