"""`relprop contest`: which method explains a model best, by what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relprop.cli.once import Once
from relprop.cli.options import BatchSize, Device, Model, OneTarget, Overwrite, Quiet, Size
from relprop.cli.reporting import reporting, say

Data = Annotated[
    list[Path] | None,
    typer.Option("--data", metavar="PATH", help="A picture or a folder of pictures; more than once."),
]
Masks = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where relevance should lie: NAME.png, white inside, for each picture NAME."),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Who takes part; more than once. A composite, an analyzer such as gradient or gradcam, captum:NAME; "
        "composites, analyzers and captum stand for all of each.",
    ),
]
Scores = Annotated[
    list[str] | None,
    typer.Option("--score", metavar="NAME", help="A metric; more than once. The first ranks, by default srg."),
]
Count = Annotated[int, typer.Option(min=2, help="Pictures at most.")]
Steps = Annotated[int, typer.Option(min=1, help="Points of a curve behind its first.")]
Patch = Annotated[int | None, typer.Option(min=1, help="Side of what is occluded together; by default a 16th.")]
Seed = Annotated[int, typer.Option(help="Of all that is random.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write scores of all pictures there.")]
Drawing = Annotated[Path | None, typer.Option("--picture", metavar="FILE", help="Draw means and intervals there.")]


def contest(
    model: Model,
    data: Data = None,
    masks: Masks = None,
    method: Methods = None,
    score: Scores = None,
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
    """Rank composites and other methods by how well they tell what a model looks at, with intervals.

    Without --data, a demo model is asked about newly drawn pictures, of which the truth is known.
    """
    with reporting():
        from relprop.jobs.contest import ContestOptions, run_contest

        options = ContestOptions(
            model, tuple(data or ()), masks, tuple(method or ()), tuple(score or ()), target, count, steps, patch,
            seed, batch_size, device, size, json, picture, overwrite,
        )  # fmt: skip
        found = run_contest(options, progress=not quiet)
        if not quiet:
            say(str(found))
            files = [str(file) for file in (json, picture) if file is not None]
            if files:
                say(f"Files: {', '.join(files)}")


def add(app: typer.Typer, epilog: str) -> None:
    """Make the command known."""
    app.command(cls=Once, epilog=epilog)(contest)
