"""torchvision's classifiers."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

from relprop.errors import ModelError
from relprop.models.loaded import LoadedModel, build, optional_import, unknown
from relprop.models.preprocess import Preprocess
from relprop.models.source import Source, read_named
from relprop.models.spec import Spec


def load_torchvision(spec: Spec) -> LoadedModel:
    """`torchvision:NAME[@WEIGHTS]`, where WEIGHTS is a file, or a name such as `DEFAULT`."""
    models = optional_import("torchvision.models")
    known = models.list_models(module=models)
    if spec.name not in known:
        raise unknown("the torchvision classifier", spec.name, known)
    enum = models.get_model_weights(spec.name)
    if spec.weights is not None and spec.weights_file is None:
        weights = _named(enum, spec)
        try:
            model = models.get_model(spec.name, weights=weights)
        except (URLError, OSError, RuntimeError) as error:
            raise ModelError(
                f"the weights of {spec} could not be downloaded from {weights.url}: {error}. "
                "Offline, get that file elsewhere and name it with @FILE"
            ) from error
        return LoadedModel(model, str(spec), list(weights.meta["categories"]), _preprocess(weights))
    official = _official(enum, spec)
    model = build(spec, lambda: models.get_model(spec.name, weights=None, **_arguments(spec, official)), "@DEFAULT")
    # A file that fits is taken to have the classes and the preprocessing of the official one; random weights
    # know no classes.
    classes = list((official or enum.DEFAULT).meta["categories"]) if spec.weights is not None else None
    return LoadedModel(model, str(spec), classes, _preprocess(official or enum.DEFAULT))


def _named(enum: Any, spec: Spec) -> Any:
    name = str(spec.weights).rpartition(".")[2]  # both IMAGENET1K_V1 and ResNet18_Weights.IMAGENET1K_V1
    if name not in enum.__members__:
        raise ModelError(
            f"{spec.name} has no weights named {spec.weights!r}; it has {', '.join(enum.__members__)}, "
            "and a file must end in .safetensors, .pt or .pth"
        )
    return enum[name]


def _official(enum: Any, spec: Spec) -> Any | None:
    """The official weights that a file is, by its name, such as resnet18-f37072fd.pth."""
    file = spec.weights_file
    return next((weights for weights in enum if file is not None and weights.url.endswith(f"/{file.name}")), None)


def _arguments(spec: Spec, official: Any | None) -> dict[str, Any]:
    """What torchvision's own builders add for official weights, and for random ones to be quiet and quick."""
    if spec.name in ("googlenet", "inception_v3"):
        return {"transform_input": official is not None, "init_weights": official is None}
    if official is not None and spec.name.startswith("vit_"):
        return {"image_size": official.meta["min_size"][0]}
    return {}


def _preprocess(weights: Any) -> Preprocess:
    transform = weights.transforms()
    crop, resize = transform.crop_size, transform.resize_size
    return Preprocess(
        resize=resize[0] if len(resize) == 1 else tuple(resize),
        crop=(crop[0], crop[-1]),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
    )


def _names() -> list[str]:
    models = optional_import("torchvision.models")
    return [f"torchvision:{name}" for name in models.list_models(module=models)]


TORCHVISION = Source(
    "torchvision", "torchvision:NAME[@WEIGHTS]", read_named("torchvision"), load_torchvision, "torchvision", _names
)
