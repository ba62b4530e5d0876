"""The analyzer of a classifier of pictures, with a composite that was chosen by name."""

from __future__ import annotations

import warnings

from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.composites.names import Given, check_composite, make_composite
from relprop.engine.rewrites.modules import strip_softmax
from relprop.errors import SoftmaxOutputError
from relprop.models import LoadedModel

BEFORE_SOFTMAX = "what comes before the softmax"


def make_analyzer(loaded: LoadedModel, composite: str, x: Tensor) -> tuple[LRP, str]:
    """The analyzer of a model for inputs like `x` (1, C, H, W), captured, so that every problem shows now.

    A softmax at the model's end is left out, with a warning: it mixes all classes, and LRP explains logits.

    Returns:
        The analyzer, and which output it explains: "output", or `BEFORE_SOFTMAX`.

    Raises:
        RelpropError: the composite is unknown, or the model cannot be explained with it.
    """
    check_composite(composite, "pictures")
    low, high = loaded.preprocess.low.to(x.device), loaded.preprocess.high.to(x.device)
    chosen = make_composite(composite, Given(loaded.model, low, high), "pictures")
    try:
        return LRP(loaded.model, chosen, example_inputs=(x,), classes=loaded.classes), "output"
    except SoftmaxOutputError:
        warnings.warn(f"{loaded.name} ends in a softmax; what comes before it is explained", stacklevel=2)
        return LRP(strip_softmax(loaded.model), chosen, example_inputs=(x,), classes=loaded.classes), BEFORE_SOFTMAX
