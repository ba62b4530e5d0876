"""The composites that the command line knows by name, and the analyzer that they make."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.composites import (
    Composite,
    ConvLayer,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    GlobalTypeMap,
    LinearLayer,
)
from relprop.engine.rewrites.modules import strip_softmax
from relprop.errors import CompositeError, SoftmaxOutputError
from relprop.models import LoadedModel, Preprocess
from relprop.rules import EpsilonRule, GammaRule

# Only the box rule needs the preprocessing: its bounds are the lowest and the highest possible input.
COMPOSITES: dict[str, Callable[[Preprocess, torch.device], Composite]] = {
    "epsilon-plus-flat": lambda _preprocess, _device: EpsilonPlusFlat(),
    "epsilon-plus": lambda _preprocess, _device: EpsilonPlus(),
    "epsilon-alpha2-beta1-flat": lambda _preprocess, _device: EpsilonAlpha2Beta1Flat(),
    "epsilon-alpha2-beta1": lambda _preprocess, _device: EpsilonAlpha2Beta1(),
    "epsilon-gamma-box": lambda preprocess, device: EpsilonGammaBox(
        preprocess.low.to(device), preprocess.high.to(device)
    ),
    "zero": lambda _preprocess, _device: Composite(),
    "epsilon": lambda _preprocess, _device: Composite(EpsilonRule()),
    "gamma": lambda _preprocess, _device: Composite(GlobalTypeMap({ConvLayer: GammaRule(), LinearLayer: GammaRule()})),
}


def check_composite(name: str) -> None:
    """Refuse a name that no composite has.

    Raises:
        CompositeError: with the names that exist.
    """
    if name not in COMPOSITES:
        raise CompositeError(f"unknown composite {name!r}; choose one of {', '.join(COMPOSITES)}")


def make_analyzer(loaded: LoadedModel, composite: str, x: Tensor) -> LRP:
    """The analyzer of a model for inputs like `x` (1, C, H, W), captured, so that every problem shows now.

    A softmax at the model's end is left out, with a warning: it mixes all classes, and LRP explains logits.

    Raises:
        RelpropError: the composite is unknown, or the model cannot be explained with it.
    """
    check_composite(composite)
    chosen = COMPOSITES[composite](loaded.preprocess, x.device)
    try:
        return LRP(loaded.model, chosen, example_inputs=(x,))
    except SoftmaxOutputError:
        warnings.warn(f"{loaded.name} ends in a softmax; what comes before it is explained", stacklevel=2)
        return LRP(strip_softmax(loaded.model), chosen, example_inputs=(x,))
