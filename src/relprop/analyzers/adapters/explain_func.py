"""Quantus' form: a function of a model, inputs and targets, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from relprop.analyzers.analyzer import Analyzer
from relprop.analyzers.lrp import LRP
from relprop.errors import InputError

Made = Callable[..., Analyzer]
"""A model, and options -> its analyzer: `LRP`, `Gradient`, or a function of yours."""


def quantus_explain_func(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    analyzer: Made = LRP,
    device: str | torch.device | None = None,
    call: dict[str, Any] | None = None,
    **options: Any,
) -> np.ndarray[Any, Any]:
    """Relevance as Quantus asks for it: `metric(..., explain_func=quantus_explain_func, explain_func_kwargs={...})`.

    Args:
        model: the model; what was captured of it is kept as long as it lives.
        inputs: (B, ...), an array or a tensor.
        targets: (B,), the class of each sample.
        analyzer: what makes the analyzer of the model: `LRP`, `Gradient`, or a function such as
            `lambda model: NoiseAugmentation(LRP(model, EpsilonPlus()))`, since Quantus changes models.
        device: Quantus passes it on. The model is there already, and it is computed where the model is.
        call: options of the analyzer's call.
        **options: for the analyzer, such as `composite=EpsilonPlus()`.

    Returns:
        Relevance in the shape of the inputs.

    Raises:
        InputError, TargetError: as the analyzer does.
    """
    if not callable(analyzer) or isinstance(analyzer, Analyzer):
        raise InputError(
            "analyzer= is an analyzer of one model, and Quantus changes models: give what makes it, LRP, or a function "
            "such as lambda model: LRP(model, composite)."
        )
    parameter = next(model.parameters(), None)
    place = torch.device("cpu") if parameter is None else parameter.device
    dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
    x, classes = torch.as_tensor(inputs), torch.as_tensor(targets).reshape(-1)
    x = x.to(device=place, dtype=dtype if x.is_floating_point() else x.dtype)
    explained = analyzer(model, **options)
    return np.asarray(explained.attribute(x, target=classes.long().to(place), **(call or {})).detach().cpu().numpy())
