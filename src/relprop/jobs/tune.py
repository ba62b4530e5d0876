"""The job: search a composite for a classifier and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relprop.errors import InputError
from relprop.evaluation import Patches, Tuned, tune
from relprop.explanations.files import replacing
from relprop.jobs.contest import ContestOptions, check_files, explained_model, loaded_with_pictures
from relprop.jobs.picture_plan import device_named


@dataclass(frozen=True)
class TuneOptions:
    """The command line's arguments, as they were given.

    Attributes:
        asked: the model and its pictures; of its scores the first is searched for.
        trials: how many composites are tried.
        held_out: the share of the pictures that the search does not see.
        storage: file that keeps the search.
    """

    asked: ContestOptions
    trials: int = 40
    held_out: float = 0.5
    storage: Path | None = None


def run_tune(options: TuneOptions, *, progress: bool = False) -> Tuned:
    """Search, and write the files that were asked for.

    Raises:
        RelpropError: what is wrong, before the work where it can be known before.
    """
    asked = options.asked
    if not 0 < options.held_out < 1:
        raise InputError(f"--held-out takes a share between 0 and 1, not {options.held_out}")
    check_files((asked.json, asked.picture), asked.overwrite)
    loaded, pictures = loaded_with_pictures(asked, device_named(asked.device))
    score = asked.scores[0] if asked.scores else "srg"
    found = tune(
        explained_model(loaded, pictures.x[:1]), pictures.x, pictures.targets, score, pictures.masks,
        trials=options.trials, held_out=options.held_out, storage=options.storage,
        groups=None if asked.patch is None else Patches(size=asked.patch), steps=asked.steps, batch=asked.batch_size,
        seed=asked.seed, progress=progress,
    )  # fmt: skip
    if asked.json is not None:
        found.to_json(asked.json)
    if asked.picture is not None:
        with replacing(asked.picture) as path:
            found.plot().savefig(path, dpi=120)
    return found
