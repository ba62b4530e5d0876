"""The demo: small classifiers that read a watermark, with sample pictures and what is true of them.

`load_model()` and `load_samples()` read the files that `scripts/train_demo.py` wrote, `load_vit()` reads a vision
transformer that was trained on the same pictures, and `measured()` says how good a model is and how much it leans on
the watermark.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from relprop.errors import MissingExtraError
from relprop.models.demo.network import CLASSES, MEAN, STD, DemoNet, to_input
from relprop.models.demo.pictures import CLEVER_HANS
from relprop.models.demo.vit import DemoViT

__all__ = [
    "CLASSES",
    "CLEVER_HANS",
    "MEAN",
    "STD",
    "DemoNet",
    "DemoViT",
    "Sample",
    "load_model",
    "load_samples",
    "load_vit",
    "measured",
    "sample_paths",
    "to_input",
]


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Sample:
    """A picture that ships with relprop, and the true places of its object and its watermark."""

    name: str
    path: Path
    image: NDArray[np.uint8]  # (64, 64, 3)
    label: int
    object_mask: NDArray[np.bool_]  # (64, 64)
    artefact_mask: NDArray[np.bool_]  # (64, 64), False everywhere in a picture without the watermark


def _data() -> Path:
    # relprop is never imported from a zip file (torch cannot be), so its resources are files with a path
    return Path(str(resources.files("relprop.models.demo"))) / "data"


def load_model() -> nn.Module:
    """The trained demo classifier, in eval mode."""
    return _loaded(DemoNet(), "demo")


def load_vit() -> nn.Module:
    """A small vision transformer that was trained on the same pictures, in eval mode; its weights have half precision.

    `scripts/train_demo_vit.py` wrote it.
    """
    return _loaded(DemoViT(), "demo_vit")


def _loaded(model: nn.Module, name: str) -> nn.Module:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise _missing("the demo model's weights", "safetensors") from error
    model.load_state_dict(load_file(_data() / f"{name}.safetensors"))
    return model.eval()


def measured(name: str = "demo") -> dict[str, Any]:
    """What the training script measured after training, and how it trained.

    Args:
        name: `"demo"`, or `"demo_vit"` for the transformer.
    """
    report: dict[str, Any] = json.loads((_data() / f"{name}.json").read_text(encoding="utf-8"))
    return report


def sample_paths() -> list[Path]:
    """The sample pictures' PNG files, without their masks."""
    return [_data() / "samples" / f"{entry['name']}.png" for entry in measured()["samples"]]


def load_samples() -> list[Sample]:
    """The sample pictures with their labels and masks."""
    labels = [entry["label"] for entry in measured()["samples"]]
    return [_load_sample(path, CLASSES.index(label)) for path, label in zip(sample_paths(), labels, strict=True)]


def _load_sample(path: Path, label: int) -> Sample:
    return Sample(
        name=path.stem,
        path=path,
        image=_read(path, "RGB"),
        label=label,
        object_mask=_read(path.with_suffix(".object.png"), "L") > 127,
        artefact_mask=_read(path.with_suffix(".artefact.png"), "L") > 127,
    )


def _read(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise _missing("the demo's pictures", "Pillow") from error
    with Image.open(path) as picture:
        return np.array(picture.convert(mode))


def _missing(what: str, package: str) -> MissingExtraError:
    return MissingExtraError(f"Reading {what} needs {package}: pip install 'relprop[cli]'")
