"""Values that no data flows into, computed while the model is exported.

Models make sizes out of tensors, or branch on masks that they have made themselves. To an export such a tensor has no
value. Under `KnownValues` what is made of numbers and of the model's own constants is computed there and then, so that
it is part of the program. Its sizes must be fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
"""Entries of a tensor that may be sizes, or numbers such as a temperature."""

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
                return pytree.tree_map(_on_its_own, func(*args, **kwargs))
        args, kwargs = pytree.tree_map(_as_dense, (tuple(args), kwargs))
        if getattr(func, "__name__", "") in SIZED:
            args, kwargs = pytree.tree_map(_as_size, (tuple(args), kwargs))
        return func(*args, **kwargs)


def needs_values(error: BaseException) -> bool:
    """An export failed because it did not know a value that the model asked for."""
    return "DataDependent" in type(error).__name__ or ".numpy() is not supported" in str(error)


def holds_sparse(model: nn.Module) -> bool:
    """Some module holds a sparse tensor, such as a graph's edges, which an export can do nothing with."""
    return any(_is_sparse(value) for module in model.modules() for value in _held_by(module))


def _held_by(module: nn.Module) -> Iterator[Any]:
    yield from module._buffers.values()
    yield from module._parameters.values()
    yield from vars(module).values()


def hold_numbers(shadow: nn.Module) -> list[Tensor]:
    """Make few numbers that a module holds plain attributes of a copy, whose values are known.

    Integers are sizes, such as strides. Others that are no weights of PyTorch's own layers may become Python numbers,
    by `item()`, `float()` or a branch. Sparse tensors are held whatever their size.

    Returns:
        What may become part of the program.
    """
    held = list[Tensor]()
    for module in shadow.modules():
        of_torch = type(module).__module__.startswith("torch.nn.")
        for tensors in (module._buffers, module._parameters):
            for name, tensor in list(tensors.items()):
                if tensor is None:
                    continue
                sparse, few = _is_sparse(tensor), tensor.numel() <= FEW
                if sparse or (few and not (of_torch and tensor.is_floating_point())):
                    del tensors[name]
                    module.__dict__[name] = tensor.detach()
                    held += [] if sparse else [tensor]
    return held


def _of_the_form_of(tensor: Tensor) -> Tensor:
    with _disable_current_modes():
        return torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=tensor.device)


def _is_known(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.device.type != "meta"


def _is_sparse(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout != torch.strided


def _as_dense(leaf: Any) -> Any:
    """A known sparse tensor as what it is when it is written out."""
    if not _is_sparse(leaf) or not _is_known(leaf):
        return leaf
    with _disable_current_modes():
        return leaf.to_dense()


def _on_its_own(value: Any) -> Any:
    """A tensor that is no view of a sparse one, as its values are."""
    view = isinstance(value, Tensor) and value._is_view() and _is_sparse(value._base) and not _is_sparse(value)
    return value.clone() if view else value


def _as_size(leaf: Any) -> Any:
    """A single known integer as a number."""
    integer = isinstance(leaf, Tensor) and _is_known(leaf) and leaf.dim() == 0 and not leaf.is_floating_point()
    if not integer:
        return leaf
    with _disable_current_modes():
        return int(leaf)
