"""`relprop run` and `relprop merge`: jobs over datasets."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from relprop.cli.inquiry import examples
from relprop.cli.once import Once
from relprop.cli.options import Quiet
from relprop.cli.reporting import reporting
from relprop.explanations.shown import one_line, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from relprop.jobs.datasets.work import Finished, Progress

LISTED = 20
"""Samples that failed, of which more are counted only."""

JobFile = Annotated[Path, typer.Argument(metavar="JOB.TOML", help="What to explain, with what, and where to.")]
Shard = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Only the I-th of N parts, I from 0, as for one process of Slurm or torchrun."),
]
Retry = Annotated[bool, typer.Option("--retry", help="Explain samples again that failed before.")]
Out = Annotated[str | None, typer.Option(metavar="FOLDER", help="Takes the place of the job's folder.")]
Into = Annotated[Path, typer.Argument(metavar="OUT", help="The folder for all results.")]
Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Folders of parts of one job.")]


def add_commands(app: typer.Typer) -> None:
    """Make the commands known."""
    ways = "relprop run job.toml", "relprop run job.toml --retry", "relprop run job.toml --shard 0/4 --out part0"
    app.command("run", cls=Once, epilog=examples(*ways))(run)
    app.command("merge", cls=Once, epilog=examples("relprop merge found part0 part1 part2 part3"))(merge)


def run(job: JobFile, shard: Shard = None, retry: Retry = False, out: Out = None, quiet: Quiet = False) -> None:
    """Explain a dataset into a folder; run it again, and it goes on where it ended, however it ended.

    SIGTERM and Ctrl-C write what is done before they end it.
    """
    with reporting():
        import relprop.jobs

        console = Console(stderr=True, quiet=quiet)
        with _bar(console) as show:
            options = {} if out is None else {"out": out}
            finished = relprop.jobs.run(job, shard=shard, retry=retry, progress=show, **options)
        _report(finished, Console(quiet=quiet))
        _ranking(finished.folder, Console(quiet=quiet))
    if finished.stopped is not None:
        raise typer.Exit(128 + signal.Signals[finished.stopped])


def merge(out: Into, folders: Folders, quiet: Quiet = False) -> None:
    """Put the folders of a job's parts into one, which has the bytes of a job that was not divided."""
    with reporting():
        import relprop.jobs

        merged = relprop.jobs.merge(folders, out)
        _report(merged, Console(quiet=quiet))
        _ranking(merged.folder, Console(quiet=quiet))


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar with rate and time left, from the first pass on."""
    columns = (TextColumn("explaining"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("explaining", total=None, rate="")

        def show(progress: Progress) -> None:
            bar.update(task, total=progress.total, completed=progress.done, rate=f"{progress.rate:.3g} a second")

        yield show


def _report(finished: Finished, console: Console) -> None:
    """What was done, what failed, and where it lies."""
    if finished.explained:
        rate = finished.explained / max(finished.seconds, 1e-9)
        console.print(Text(f"{finished.explained} samples explained, {rate:.3g} a second"))
    for failure in finished.failed[:LISTED]:
        console.print(Text(f"failed: {one_line(failure.key)}: {one_line(failure.error)}", style="yellow"))
    if len(finished.failed) > LISTED:
        console.print(Text(f"... and {len(finished.failed) - LISTED} more failed", style="yellow"))
    if finished.failed:
        console.print(Text("relprop run JOB.TOML --retry explains them again", style="dim"))
    state = f"{finished.done} of {finished.total} samples in {finished.folder}"
    console.print(Text(visible(state)), soft_wrap=True)
    if finished.stopped is not None:
        said = f"{finished.stopped}: what was done is written; run the job again, and it goes on"
        console.print(Text(said, style="yellow"))


def _ranking(folder: Path, console: Console) -> None:
    """What a contest says, once all of its rows are there."""
    import relprop.jobs

    found = relprop.jobs.open(folder)
    if found.methods and found.complete:
        console.print(Text(visible(str(found.contest()))), soft_wrap=True)
