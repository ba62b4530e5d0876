"""Modules of a model, by name or as they are."""

from __future__ import annotations

from torch import nn

from relprop.errors import InputError


def name_of(model: nn.Module, layer: str | nn.Module, option: str = "layer") -> str:
    """The name of one of a model's modules, which may be given as such.

    Raises:
        InputError: it is none of the model's.
    """
    if isinstance(layer, str):
        return layer
    if not isinstance(layer, nn.Module):
        raise InputError(f"{option} is a {type(layer).__name__}: give the name of a module, or the module itself.")
    found = next((name for name, module in model.named_modules() if module is layer), "")
    if not found:
        raise InputError(f"{option}: this {type(layer).__name__} is no module inside of {type(model).__name__}.")
    return found
