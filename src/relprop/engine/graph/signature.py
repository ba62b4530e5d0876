"""Input signatures: what decides whether a captured graph can be used again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from relprop.errors import InputError


def signature_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """What inputs are like, and the flat inputs.

    Alike are those of one structure; of each tensor dtype, device and shape less what may vary; other inputs by value.
    """
    leaves, spec = pytree.tree_flatten((list(args), dict(kwargs)))
    return (str(spec), tuple(_describe(leaf) for leaf in leaves)), leaves


def _describe(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape[len(varying_dims(leaf)) :]), leaf.dim(), leaf.dtype, leaf.device
    return repr(leaf)


def varying_dims(leaf: Tensor) -> range:
    """The dimensions that one capture serves in any size: the batch, and for token ids and masks the sequence."""
    integers = not leaf.is_floating_point() and not leaf.is_complex()
    return range(min(leaf.dim(), 2 if integers else 1))


def batch_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """First dimension of the first tensor."""
    for leaf in pytree.tree_leaves((list(args), dict(kwargs))):
        if isinstance(leaf, Tensor) and leaf.dim():
            return leaf.shape[0]
    return None


def usable(leaf: Any, *, detach: bool = True) -> Any:
    """An input outside of inference mode and, if it is to `detach`, without an autograd history."""
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.is_inference():
        with torch.inference_mode(False):
            return leaf.clone()
    return leaf.detach() if detach else leaf


Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of a model."""


def inputs_of(given: Any, name: str = "example_inputs") -> Inputs:
    """Positional inputs from a tuple, keyword inputs from a dict.

    Raises:
        InputError: it is something else.
    """
    if isinstance(given, Mapping):
        return (), dict(given)
    if isinstance(given, (tuple, list)):
        return tuple(given), {}
    kind = "a tensor" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    raise InputError(
        f"{name} is {kind}; give the model's positional inputs as a tuple: (x,), or its keyword inputs as a dict."
    )
