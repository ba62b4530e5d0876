"""The job: rank composites and other methods on a classifier and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from relprop.errors import ImageError, InputError
from relprop.evaluation import Contest, Patches, contest
from relprop.evaluation.entrants import Entrant, Ground, entrants
from relprop.evaluation.groups import groups_for
from relprop.evaluation.metrics import as_metrics
from relprop.explanations.files import replacing
from relprop.jobs.composites import make_analyzer
from relprop.jobs.files import check_folder
from relprop.jobs.masks import mask_of
from relprop.jobs.picture_plan import WITH_PICTURES, count_outputs, device_named, expanded
from relprop.models import LoadedModel, load_model, open_picture
from relprop.targets.names import resolve_target


@dataclass(frozen=True)
class ContestOptions:
    """The command line's arguments, as they were given.

    Attributes:
        model: its specification.
        data: pictures and folders of them; none: newly drawn ones, of a demo.
        masks: a folder with a picture of where relevance should lie, white, under the name of each picture.
        methods: who takes part; none: all.
        scores: the first ranks; none: SRG, and with masks mass accuracy.
        target: a class, by index or name. None: the predicted one; of drawn pictures the true one.
        count: of pictures at most.
        steps: points of the curves behind the first.
        patch: side of what is occluded together. None: a 16th of the picture.
        seed: of all that is random.
        json: file for the scores. picture: file for the drawing.
    """

    model: str
    data: tuple[Path, ...] = ()
    masks: Path | None = None
    methods: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    target: str | None = None
    count: int = 64
    steps: int = 25
    patch: int | None = None
    seed: int = 0
    batch_size: int = 64
    device: str = "cpu"
    size: int | None = None
    json: Path | None = None
    picture: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class Pictures:
    """A model's inputs, (B, C, H, W), what is explained of each, and where relevance should lie, (B, H, W)."""

    x: Tensor
    targets: int | Tensor | None
    masks: Tensor | None


def run_contest(options: ContestOptions, *, progress: bool = False) -> Contest:
    """Rank the methods, and write the files that were asked for.

    Raises:
        RelpropError: what is wrong, before the work where it can be known before.
    """
    check_files((options.json, options.picture), options.overwrite)
    as_metrics(options.scores or None, masks=True)
    device = device_named(options.device)
    loaded, pictures = loaded_with_pictures(options, device)
    explained, methods = explained_model(loaded, pictures.x[:1]), options.methods or None
    groups = groups_for(pictures.x) if options.patch is None else Patches(size=options.patch)
    entrants(methods, Ground(explained, pictures.x[:1], groups))  # an unknown name should not cost the others' work
    entered: Sequence[Entrant] | None = methods
    found = contest(
        explained, pictures.x, pictures.targets, entered, options.scores or None, pictures.masks, groups=groups,
        steps=options.steps, batch=options.batch_size, seed=options.seed, progress=progress,
        low=loaded.preprocess.low[0].to(device), high=loaded.preprocess.high[0].to(device),
    )  # fmt: skip
    if options.json is not None:
        found.to_json(options.json)
    if options.picture is not None:
        with replacing(options.picture) as path:
            found.plot().savefig(path, dpi=120)
    return found


def check_files(files: Sequence[Path | None], overwrite: bool) -> None:
    """Refuse files that exist or cannot be written."""
    for file in files:
        if file is not None:
            check_folder(file.parent, [file], overwrite)


def loaded_with_pictures(options: ContestOptions, device: torch.device) -> tuple[LoadedModel, Pictures]:
    """The model, and what it is asked about.

    Raises:
        RelpropError: there are no pictures, or they are of several sizes, or the target does not exist.
    """
    if not options.data and options.model not in WITH_PICTURES:
        raise ImageError(f"give --data, pictures or a folder; only {' and '.join(WITH_PICTURES)} bring pictures")
    paths = expanded(options.data)[: options.count]
    loaded = load_model(options.model, size=options.size)
    loaded = replace(loaded, model=loaded.model.to(device))
    pictures = _read(loaded, paths, options.masks) if paths else _drawn(options.count, options.seed)
    x = pictures.x.to(device)
    outputs = count_outputs(loaded, x[:1])
    named = None if options.target is None else resolve_target(options.target, loaded.classes, outputs)
    targets = pictures.targets if named is None else named
    return loaded, Pictures(x, targets.to(device) if isinstance(targets, Tensor) else targets, pictures.masks)


def explained_model(loaded: LoadedModel, x: Tensor) -> nn.Module:
    """The model without a softmax at its end, which a warning says."""
    lrp, _ = make_analyzer(loaded, "zero", x)
    return lrp.explained


def _drawn(count: int, seed: int) -> Pictures:
    from relprop.models import demo
    from relprop.models.demo.pictures import draw_many

    drawn = draw_many(np.random.default_rng(seed), count)
    x = demo.to_input(np.stack([d.image for d in drawn]))
    masks = torch.from_numpy(np.stack([d.artefact_mask for d in drawn]))
    return Pictures(x, torch.tensor([d.label for d in drawn]), masks if bool(masks.any()) else None)


def _read(loaded: LoadedModel, paths: Sequence[Path], folder: Path | None) -> Pictures:
    seen = [loaded.preprocess.picture(open_picture(path)) for path in paths]
    odd = next((k for k, picture in enumerate(seen) if picture.size != seen[0].size), None)
    if odd is not None:
        raise InputError(f"{paths[0].name} is {seen[0].size} and {paths[odd].name} {seen[odd].size}: give --size N")
    x = torch.cat([loaded.preprocess.tensor(picture) for picture in seen])
    if folder is None:
        return Pictures(x, None, None)
    masks = torch.stack([mask_of(loaded, folder, path.stem, x.shape[2:]) for path in paths])
    if not bool(masks.any()):
        raise ImageError(f"{folder} has no mask for any picture: NAME.png, white inside, for a picture NAME")
    return Pictures(x, None, masks)
