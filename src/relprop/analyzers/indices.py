"""The indices of layers, printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from relprop.analyzers.lrp import LRP
from relprop.engine.rewrites.chains import is_sequential


def layer_indices(
    model: nn.Module, example_inputs: Sequence[Any] | Mapping[str, Any] | None = None, *, flatten: bool = True
) -> None:
    """Print the index of each layer, as `LayerMap` takes it.

    Args:
        model: any module; it is captured only if `example_inputs` is given.
        example_inputs: positional inputs as a tuple, or keyword inputs as a dict. Without them layers are listed as
            modules are registered, which is the order
            of execution for nested `nn.Sequential` only.
        flatten: as in `LRP`.

    Raises:
        CaptureError, InputError: `example_inputs` do not fit the model.
    """
    lrp = LRP(model, flatten=flatten, example_inputs=example_inputs, checks=False)
    if example_inputs is None and not is_sequential(model):
        print("# modules as registered; give example_inputs for the order of execution")
    for layer in lrp.layers:
        index = layer.index[0] if len(layer.index) == 1 else layer.index
        print(f"{index}: {layer.row.partition(': ')[2] or layer.name}")
