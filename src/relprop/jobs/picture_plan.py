"""What `relprop explain` is going to do: everything is checked here, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from relprop.analyzers.lrp import LRP
from relprop.composites.names import check_composite, name_for
from relprop.engine.graph.hints import parameters_of, what_helps
from relprop.errors import ImageError, InputError, ModelError
from relprop.explanations.heatmaps import heatmap
from relprop.explanations.shown import encodable
from relprop.jobs.asked import Asked, asked_for
from relprop.jobs.composites import make_analyzer
from relprop.jobs.files import REPORT, SUMMARY, Outputs, check_folder, sheets, unique_names, with_labels
from relprop.models import LoadedModel, load_model, open_picture, picture_suffixes
from relprop.models.dicom import is_dicom
from relprop.targets.names import resolve_target

WITH_PICTURES = ("demo", "demo-vit")
"""Models that bring pictures of their own."""

KEPT = 32
"""Panels of a contact sheet, or fewer, so that the targets of a picture stay together."""


@dataclass(frozen=True)
class PictureOptions:
    """The command line's arguments, as they were given."""

    images: tuple[Path, ...]
    model: str
    composite: str
    out: Path
    targets: tuple[str, ...] = ()
    against: str | None = None
    batch_size: int = 16
    device: str = "cpu"
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    cmap: str = "seismic"
    clip: float | None = None
    overwrite: bool = False
    report: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to explain, its name, the files for each target, and where it has an artefact, (H, W), if known."""

    path: Path
    name: str
    outputs: tuple[Outputs, ...]
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class PicturePlan:
    """Checked: the pictures decode, the model runs on them, the target exists, the files can be written.

    `explains` says what an output is: the model's own, or what comes before its softmax.
    """

    options: PictureOptions
    pictures: list[Picture]
    loaded: LoadedModel
    lrp: LRP
    explains: str
    asked: list[Asked]
    device: torch.device

    @property
    def on_each_sheet(self) -> int:
        """Panels of a contact sheet."""
        return _on_each(len(self.asked))

    @property
    def sheets(self) -> list[Path]:
        """The contact sheets, in order."""
        return _sheets(self.options, len(self.pictures))

    @property
    def model_name(self) -> str:
        """The model's name, in characters that any file can hold."""
        return encodable(self.loaded.name)

    def class_name(self, index: int) -> str:
        """The name of an output, or its number where nobody knows names."""
        return encodable(self.loaded.classes[index]) if self.loaded.classes else f"class {index}"


def _on_each(targets: int) -> int:
    return max(1, KEPT // targets) * targets


def _sheets(options: PictureOptions, pictures: int) -> list[Path]:
    targets = max(1, len(options.targets))
    return sheets(options.out, pictures * targets, _on_each(targets))


def make_picture_plan(options: PictureOptions, written: Sequence[str] | None = None) -> PicturePlan:
    """Check everything that can be wrong.

    Args:
        options: what was asked for.
        written: the files that the job writes into its folder. None: three for each picture, a sheet and a summary.

    Raises:
        RelpropError: what is wrong, and what to do about it.
    """
    # Cheap checks come first: a typo should not cost the loading of a model.
    heatmap(torch.zeros(1, 1), cmap=options.cmap, clip=options.clip)
    device = device_named(options.device)
    check_composite(options.composite, "pictures")
    pictures = _pictures(options)
    files = [file for picture in pictures for outputs in picture.outputs for file in outputs]
    files += [
        *_sheets(options, len(pictures)),
        options.out / SUMMARY,
        *([options.out / REPORT] if options.report else []),
    ]
    own = None if written is None else [options.out / name for name in written]
    check_folder(options.out, files if own is None else own, options.overwrite)
    images = (open_picture(picture.path) for picture in pictures)
    first = next(images)
    for _ in images:
        pass
    loaded = load_model(options.model, size=options.size, mean=options.mean, std=options.std)
    loaded = replace(loaded, model=loaded.model.to(device))
    options = replace(options, composite=name_for(options.composite, loaded.model))
    x = loaded.preprocess(first).to(device)
    outputs = count_outputs(loaded, x)
    asked = asked_for(
        options.targets, options.against, lambda text: resolve_target(text, loaded.classes, outputs), outputs
    )
    lrp, explains = make_analyzer(loaded, options.composite, x)
    return PicturePlan(options, pictures, loaded, lrp, explains, asked, device)


def device_named(text: str) -> torch.device:
    """The device of a name such as `cuda:0`, tried; `InputError` where it cannot be used."""
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"the device {text!r} cannot be used: {reason}") from error
    return device


def _pictures(options: PictureOptions) -> list[Picture]:
    masks = _demo_masks() if options.model in WITH_PICTURES else {}
    if not options.images and not masks:
        raise ImageError("give at least one picture or folder; only --model demo brings pictures of its own")
    paths = expanded(options.images) if options.images else list(masks)
    names = unique_names(paths)
    return [
        Picture(path, name, tuple(Outputs.of(options.out, file) for file in files), masks.get(_place(path)))
        for path, name, files in zip(paths, names, with_labels(names, options.targets), strict=True)
    ]


def _demo_masks() -> dict[Path, NDArray[np.bool_] | None]:
    """The demo's samples, and where they have the watermark."""
    from relprop.models.demo import load_samples

    return {
        _place(sample.path): sample.artefact_mask if sample.artefact_mask.any() else None for sample in load_samples()
    }


def expanded(images: Sequence[Path]) -> list[Path]:
    """Pictures as they are, folders as the pictures in them, each picture once."""
    paths: dict[Path, Path] = {}
    for image in images:
        found = _pictures_in(image) if os.path.isdir(image) else [image]
        paths |= {_place(path): path for path in found if _place(path) not in paths}
    return list(paths.values())


def _place(path: Path) -> Path:
    """The file that a path leads to; `Path.resolve` raises where links lead in a circle."""
    return Path(os.path.realpath(path))


def _pictures_in(folder: Path) -> list[Path]:
    suffixes = picture_suffixes()
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and (path.suffix.lower() in suffixes or (not path.suffix and is_dicom(path)))
    )
    if not found:
        raise ImageError(f"the folder {folder} has no pictures in it (folders inside it are not searched)")
    return found


def _helps(loaded: LoadedModel, x: torch.Tensor, error: Exception) -> str:
    """What a model said of a picture, and the next step."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    found = what_helps(loaded.model, (x,), {}, error, lambda args, kwargs: loaded.model(*args, **kwargs))
    if "required positional argument" in said:
        inputs = ", ".join(parameters_of(loaded.model))
        return (
            f"it takes {inputs}, and the command line has one picture. Let the function return a module that knows the "
            f"others, or explain it from Python: LRP(model)({inputs})"
        )
    if "grey" in found:
        return f"{said}. Say PREPROCESS = Preprocess(mean=(0.5,), std=(0.5,)) in its file, which makes pictures grey"
    return f"{said}.{found}" if found else f"{said}; try --size"


def count_outputs(loaded: LoadedModel, x: torch.Tensor) -> int:
    """Run the model once: only that tells whether it takes such inputs, and how many outputs it has."""
    shape = tuple(x.shape)
    try:
        with torch.no_grad():
            output = loaded.model(x)
    except Exception as error:
        raise ModelError(
            f"{loaded.name} cannot run on an input of shape {shape}: {_helps(loaded, x, error)}"
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(x):
        got = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(f"{loaded.name} is no classifier: its output must have shape (1, classes), not {got}")
    if loaded.classes is not None and len(loaded.classes) != output.shape[1]:
        raise ModelError(f"{loaded.name} has {output.shape[1]} outputs but {len(loaded.classes)} class names")
    return output.shape[1]
