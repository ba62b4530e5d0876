"""Batches of a dataset, with labels or without, as users have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.errors import InputError


def inputs_and_labels(given: Any) -> tuple[Any, Tensor | None]:
    """Inputs and labels."""
    if isinstance(given, (Tensor, Mapping)):
        return given, None
    if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], (Tensor, Mapping)):
        labels = torch.as_tensor(given[1])
        if labels.dim() == 1 and not labels.is_floating_point() and not labels.is_complex():
            return given[0], labels
    raise InputError("A batch is an input (B, ...), a dict of keyword inputs, or a pair of that and labels (B,).")


def rows_of(inputs: Any, kept: Tensor, length: int) -> Any:
    """Some samples of a batch."""
    if bool(kept.all()):
        return inputs
    return pytree.tree_map(
        lambda leaf: (
            leaf[kept.to(leaf.device)] if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == length else leaf
        ),
        inputs,
    )


def input_of(item: Any) -> Any:
    """A sample without its label."""
    return item[0] if isinstance(item, (tuple, list)) else item


def placed_with(model: nn.Module, inputs: Any) -> Any:
    """Inputs on the device of the model's parameters."""
    first = next(model.parameters(), None)
    if first is None:
        return inputs
    return pytree.tree_map(lambda leaf: leaf.to(first.device) if isinstance(leaf, Tensor) else leaf, inputs)
