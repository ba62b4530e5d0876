"""Weights from files, checked against the model before any of them is written into it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import MissingExtraError, ModelError
from relprop.models.spec import WEIGHT_SUFFIXES

WRAPPERS = ("state_dict", "model", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before each name
SHOWN = 5


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights in a file, or leave it as it was and say why they do not fit.

    Raises:
        ModelError: the file is missing, unreadable, holds more than tensors, or does not fit the model.
        MissingExtraError: a .safetensors file without safetensors installed.
    """
    state = read_state_dict(path)
    complaint = misfit(model, state)
    if complaint:
        raise ModelError(
            f"the weights in {path} do not fit the model\n{complaint}\nWeights of another architecture, "
            "or for another number of classes, need a model built for them: path/to/file.py:function@WEIGHTS"
        )
    # Not strict, because `misfit` has judged every key, and forgave the counters that inference never reads.
    model.load_state_dict(state, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors, .pt or .pth file, without wrappers and prefixes that training added.

    Raises:
        ModelError: the file is missing, unreadable, or holds more than tensors.
        MissingExtraError: a .safetensors file without safetensors installed.
    """
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        raise ModelError(f"{path}: weights come from a file ending in {', '.join(WEIGHT_SUFFIXES)}")
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds no state dict but {type(content).__name__}: save model.state_dict()")
    strange = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange:
        raise ModelError(
            f"{path} is no state dict, because {_first(strange)} are no tensors: save model.state_dict(), "
            f"or put it under one of {', '.join(WRAPPERS)}"
        )
    return _without_prefixes(dict(content))


def misfit(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What is wrong with `state` for `model`, a line for each kind of fault; empty if it fits."""
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and isinstance(value, Tensor) and state[key].shape != value.shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "\n".join(f"  {len(keys)} {fault}: {_first(keys)}" for fault, keys in faults.items() if keys)


def _first(keys: list[str]) -> str:
    more = len(keys) - SHOWN
    return ", ".join(keys[:SHOWN]) + (f", and {more} more" if more > 0 else "")


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError(f"{path} needs safetensors: pip install 'relprop[cli]' ({error})") from error
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type, and OSError
        raise ModelError(f"{path} is not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        # Never anything but tensors and plain containers: a checkpoint from elsewhere must not run code.
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors (a whole pickled model?), and relprop runs no code from "
            "a file of weights: save model.state_dict() instead"
        ) from error
    except Exception as error:  # a broken file: RuntimeError, EOFError, OSError, ...
        raise ModelError(f"{path} is not a readable weights file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
