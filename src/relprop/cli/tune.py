"""`relprop tune`: a composite for one model, searched for by a score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relprop.cli.contest import Count, Data, Json, Masks, Patch, Seed, Steps
from relprop.cli.once import Once
from relprop.cli.options import BatchSize, Device, Model, OneTarget, Overwrite, Quiet, Size
from relprop.cli.reporting import reporting, say

Score = Annotated[str, typer.Option("--score", metavar="NAME", help="The metric that is searched for.")]
Trials = Annotated[int, typer.Option(min=1, help="How many composites are tried.")]
HeldOut = Annotated[float, typer.Option(help="Share of the pictures that the search does not see.")]
Storage = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep the search there, so that it goes on after a stop; .db: a database."),
]
Drawing = Annotated[Path | None, typer.Option("--picture", metavar="FILE", help="Draw the search there.")]


def tune(
    model: Model,
    data: Data = None,
    masks: Masks = None,
    score: Score = "srg",
    trials: Trials = 40,
    held_out: HeldOut = 0.5,
    storage: Storage = None,
    target: OneTarget = None,
    count: Count = 64,
    steps: Steps = 25,
    patch: Patch = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    size: Size = None,
    json: Json = None,
    picture: Drawing = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Search a composite for a model by a score on some pictures, and say what it gains on others.

    Without --data, a demo model is asked about newly drawn pictures.
    """
    with reporting():
        from relprop.jobs.contest import ContestOptions
        from relprop.jobs.tune import TuneOptions, run_tune

        asked = ContestOptions(
            model, tuple(data or ()), masks, (), (score,), target, count, steps, patch, seed, batch_size, device, size,
            json, picture, overwrite,
        )  # fmt: skip
        found = run_tune(TuneOptions(asked, trials, held_out, storage), progress=not quiet)
        if not quiet:
            say(str(found))


def add(app: typer.Typer, epilog: str) -> None:
    """Make the command known."""
    app.command(cls=Once, epilog=epilog)(tune)
