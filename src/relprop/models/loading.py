"""`load_model`: one line of text to a classifier that is ready to be fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from relprop.errors import ModelError
from relprop.models.loaded import LoadedModel
from relprop.models.sources import parse, source_of


def load_model(
    spec: str,
    *,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LoadedModel:
    """Build the classifier that a specification such as `"torchvision:vgg16@IMAGENET1K_V1"` names.

    `load` is the same function under a shorter name. Artifacts, which `LRP.export` writes, are read by
    `relprop.load_artifact`.

    Args:
        spec: see `relprop.models`. `@WEIGHTS` is a .safetensors, .pt or .pth file, a torchvision weights
            name such as `DEFAULT`, a timm pretrained tag, or `pretrained`. Without it, torchvision and timm
            models have random weights (the same ones every time), which a warning says.
        size: takes the place of the size of the model's own preprocessing, see `Preprocess.override`.
        mean: of each channel, likewise.
        std: of each channel, likewise.

    Raises:
        ModelError: the specification, the weights or the preprocessing does not fit.
        MissingExtraError: the source's library is not installed.
    """
    if str(spec).endswith(".pt2"):
        raise ModelError(f"{spec} is an artifact, which explains without its model: relprop.load_artifact reads it")
    parsed = parse(spec)
    loaded = source_of(parsed).load(parsed)
    loaded.model.eval()
    return replace(loaded, preprocess=loaded.preprocess.override(size=size, mean=mean, std=std))


load = load_model
