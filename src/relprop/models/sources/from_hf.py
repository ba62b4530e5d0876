"""Hugging Face image classifiers, by id or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from relprop.errors import ModelError
from relprop.models.loaded import LoadedModel, optional_import
from relprop.models.preprocess import Preprocess
from relprop.models.source import Source
from relprop.models.spec import Spec


class Logits(nn.Module):
    """A Hugging Face classifier whose output is its logits (B, K) instead of a dataclass."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pixel_values=pixel_values).logits
        return logits


def load_hf(spec: Spec) -> LoadedModel:
    """`hf:ID_OR_FOLDER`: weights, preprocessing and class names from the hub or from a folder."""
    transformers = optional_import("transformers")
    where = str(Path(spec.name).expanduser()) if Path(spec.name).expanduser().is_dir() else spec.name
    try:
        # Without trust_remote_code, transformers would ask on the terminal whether it may run code of the checkpoint's.
        model, info = transformers.AutoModelForImageClassification.from_pretrained(
            where, output_loading_info=True, trust_remote_code=False
        )
        processor = transformers.AutoImageProcessor.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, ImportError, RuntimeError for other shapes, ...
        raise ModelError(f"{spec} could not be loaded: {error}") from error
    absent = sorted(info["missing_keys"])
    if absent:
        raise ModelError(
            f"{spec} lacks {len(absent)} weights of an image classifier: {', '.join(absent[:5])}"
            f"{', ...' if len(absent) > 5 else ''}. It was saved without a classification head?"
        )
    names = model.config.id2label
    classes = [str(names[index]) for index in range(len(names))]
    return LoadedModel(Logits(model), str(spec), classes, _preprocess(processor, spec))


def _preprocess(processor: Any, spec: Spec) -> Preprocess:
    from PIL.Image import Resampling

    resize, crop = _geometry(processor, spec)
    # The processor does (byte * rescale_factor - offset - mean) / std, and we do (byte / 255 - mean) / std.
    rescales = getattr(processor, "do_rescale", False)
    factor = 255 * float(processor.rescale_factor) if rescales else 255.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    normalizes = getattr(processor, "do_normalize", False)
    mean = processor.image_mean if normalizes else (0.0, 0.0, 0.0)
    std = processor.image_std if normalizes else (1.0, 1.0, 1.0)
    resample = getattr(processor, "resample", None)
    return Preprocess(
        resize=resize,
        crop=crop,
        mean=tuple((m + offset) / factor for m in mean),
        std=tuple(s / factor for s in std),
        interpolation=Resampling(int(resample)).name.lower() if resample is not None else "bilinear",
    )


def _geometry(processor: Any, spec: Spec) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """(resize, crop) of `Preprocess`, from the several ways in which processors say it."""
    resize: int | tuple[int, int] | None = None
    size = dict(getattr(processor, "size", None) or {})
    size = {key: value for key, value in size.items() if value is not None}
    crop = None
    if getattr(processor, "do_resize", False):
        if "height" in size:
            resize = (size["height"], size["width"])
        elif "shortest_edge" in size and "longest_edge" not in size:
            resize = size["shortest_edge"]
        else:
            raise ModelError(f"{spec} resizes pictures by {size}, which relprop does not know; write a .py file for it")
        percent = getattr(processor, "crop_pct", None)
        if percent is not None and isinstance(resize, int):
            # ConvNeXt: below 384 pixels resize to a bit more and crop, from there on squash.
            crop = (resize, resize) if resize < 384 else None
            resize = int(resize / percent) if crop else (resize, resize)
    if getattr(processor, "do_center_crop", False):
        box = dict(processor.crop_size)
        crop = (box["height"], box["width"])
    return resize, crop


def _read(text: str) -> Spec | None:
    """A folder may have "@" in its name, and an id never has weights apart from itself."""
    source, _, name = text.partition(":")
    return Spec("hf", name) if source == "hf" and name else None


HF = Source("hf", "hf:ID_OR_FOLDER", _read, load_hf, "the Hugging Face hub, or a folder with such a model")
