"""What helps where a model does not take its inputs: one sentence, or none."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")
MISSING = re.compile(r"missing \d+ required (?:positional|keyword-only) arguments?: (.*)")

Call = Callable[[tuple[Any, ...], dict[str, Any]], Any]


def what_helps(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception, call: Call) -> str:
    """A sentence with a space in front; empty where nobody knows.

    Args:
        model: what failed.
        args, kwargs: its inputs.
        error: what it said.
        call: runs it on other inputs.
    """
    leaves = pytree.tree_leaves((tuple(args), dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    found = _dtype(model, tensors, str(error)) or _arrays(leaves) or _missing(model, str(error))
    found = found or _channels(tensors, str(error)) or _batch(args, kwargs, call)
    return f" {found}" if found else ""


def parameters_of(model: nn.Module) -> list[str]:
    """Names of what `forward` takes; empty where it does not say."""
    try:
        return list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return []


def _dtype(model: nn.Module, tensors: Sequence[Tensor], said: str) -> str:
    if "scalar types: Long, Int" in said and any(t.is_floating_point() for t in tensors):
        return "The model looks its input up in an embedding: give token ids, torch.int64."
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    wrong = next((t for t in tensors if t.is_floating_point() and kinds and t.dtype not in kinds), None)
    if wrong is None:
        return ""
    kind = next(iter(kinds))
    return f"The input has dtype {wrong.dtype}, the model {kind}. Convert one: x.to({kind})."


def _arrays(leaves: Sequence[Any]) -> str:
    array = next((leaf for leaf in leaves if isinstance(leaf, np.ndarray)), None)
    return "" if array is None else "One input is a numpy array: give torch.from_numpy(x)."


def _missing(model: nn.Module, said: str) -> str:
    found = MISSING.search(said)
    if found is None:
        return ""
    takes = ", ".join(parameters_of(model))
    return f"Its forward takes ({takes}): give all of them in the call, by position or by name."


def _channels(tensors: Sequence[Tensor], said: str) -> str:
    found = CHANNELS.search(said)
    if found is None or not tensors or tensors[0].dim() < 3:
        return ""
    wanted, got = int(found[1]), int(found[2])
    if tensors[0].shape[-1] == wanted != got:
        return "Channels come before rows and columns: x.movedim(-1, -3)."
    if (wanted, got) == (3, 1):
        return "The model takes colours and the picture is grey: x.expand(-1, 3, -1, -1)."
    if (wanted, got) == (1, 3):
        return "The model takes grey pictures: x.mean(1, keepdim=True)."
    return ""


def _batch(args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> str:
    """Whether the model takes the same inputs with a dimension more."""
    more = pytree.tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, (tuple(args), dict(kwargs)))
    try:
        with torch.no_grad():
            call(*more)
    except Exception:
        return ""
    return "The batch dimension is missing: with x[None] in the place of x, it runs."
