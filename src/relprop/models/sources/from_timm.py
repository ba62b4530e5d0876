"""timm's models."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import nn

from relprop.errors import ModelError
from relprop.models.loaded import LoadedModel, build, optional_import, unknown
from relprop.models.preprocess import Preprocess
from relprop.models.source import Source, read_named
from relprop.models.spec import Spec


def load_timm(spec: Spec) -> LoadedModel:
    """`timm:NAME[@WEIGHTS]`, where WEIGHTS is a file, `pretrained`, or a pretrained tag such as `a1_in1k`."""
    timm = optional_import("timm")
    architecture = spec.name.partition(".")[0]
    if not timm.is_model(architecture):
        raise unknown("the timm model", architecture, timm.list_models())
    if spec.weights is None or spec.weights_file is not None:
        model = build(spec, lambda: timm.create_model(spec.name, pretrained=False))
    else:
        model = _pretrained(timm, spec, architecture)
    return LoadedModel(model, str(spec), _classes(timm, model, spec), _preprocess(timm, model))


def _pretrained(timm: Any, spec: Spec, architecture: str) -> nn.Module:
    name = spec.name if spec.weights == "pretrained" else f"{architecture}.{spec.weights}"
    if spec.weights != "pretrained":
        tags = [each.partition(".")[2] for each in timm.list_models(f"{architecture}.*", pretrained=True)]
        if spec.weights not in tags:
            raise unknown(f"for {architecture}, the pretrained tag", str(spec.weights), tags)
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # no network, no such file on the hub, an invalid tag: each its own type
        raise ModelError(
            f"the weights of {spec} could not be loaded: {error}. "
            "Offline, get the file elsewhere and name it with @FILE"
        ) from error
    return model


def _preprocess(timm: Any, model: nn.Module) -> Preprocess:
    config = timm.data.resolve_model_data_config(model)
    _, height, width = config["input_size"]
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        warnings.warn(f"crop mode {mode!r} is not supported; the centre is cropped instead", stacklevel=2)
    resized = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    return Preprocess(
        resize=resized[0] if mode != "squash" and height == width else resized,
        crop=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"] if config["interpolation"] != "random" else "bilinear",
    )


def _classes(timm: Any, model: nn.Module, spec: Spec) -> list[str] | None:
    """ImageNet's names, where the model's pretrained configuration says that it is of ImageNet."""
    if spec.weights is None:
        return None
    subset = timm.data.infer_imagenet_subset(model)
    return list(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else None


def _names() -> list[str]:
    return [f"timm:{name}" for name in optional_import("timm").list_models()]


TIMM = Source("timm", "timm:NAME[@WEIGHTS]", read_named("timm"), load_timm, "timm", _names)
