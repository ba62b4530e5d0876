"""Values that no data flows into, computed while the model is exported.

Models make sizes out of tensors, or branch on masks that they have made themselves. To an export such a tensor has no
value. Under `KnownValues` what is made of numbers and of the model's own constants is computed there and then, so that
it is part of the program. Its sizes must be fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

MADE = (torch.tensor, torch.ones, torch.zeros, torch.full, torch.arange, torch.eye, torch.linspace, torch.scalar_tensor)
"""What makes tensors out of numbers."""

LIKE = (torch.ones_like, torch.zeros_like, torch.full_like)
"""What needs no more of a tensor than its form."""

ON_NUMBERS = (torch.div, torch.floor_divide, torch.true_divide, torch.remainder)
"""What takes numbers for tensors too."""

FEW = 16
"""Entries of a buffer that may be sizes."""

SIZED = frozenset(
    (
        *("view", "reshape", "expand", "repeat", "tile", "pad", "narrow", "split", "chunk", "unfold", "as_strided"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "interpolate", "roll", "flatten", "unflatten"),
    )
)
"""What takes sizes, which may be integers in tensors."""


class KnownValues(TorchFunctionMode):
    """Within it, functions of known tensors and numbers are computed, and not traced."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in LIKE and not args[0].is_floating_point() and not _is_known(args[0]):
            args = (_of_the_form_of(args[0]), *args[1:])  # masks of ids
        leaves = pytree.tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if all(map(_is_known, tensors)) and (tensors or func in MADE or func in ON_NUMBERS):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if getattr(func, "__name__", "") in SIZED:
            args, kwargs = pytree.tree_map(_as_size, (tuple(args), kwargs))
        return func(*args, **kwargs)


def needs_values(error: BaseException) -> bool:
    """An export failed because it did not know a value that the model asked for."""
    return "DataDependent" in type(error).__name__


def hold_numbers(shadow: nn.Module) -> None:
    """Make small buffers of integers, such as strides, plain attributes of a copy, whose values are known."""
    for module in shadow.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and not buffer.is_floating_point() and buffer.numel() <= FEW:
                del module._buffers[name]
                module.__dict__[name] = buffer.detach()


def _of_the_form_of(tensor: Tensor) -> Tensor:
    with _disable_current_modes():
        return torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=tensor.device)


def _is_known(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.device.type != "meta"


def _as_size(leaf: Any) -> Any:
    """A single known integer as a number."""
    integer = isinstance(leaf, Tensor) and _is_known(leaf) and leaf.dim() == 0 and not leaf.is_floating_point()
    if not integer:
        return leaf
    with _disable_current_modes():
        return int(leaf)
