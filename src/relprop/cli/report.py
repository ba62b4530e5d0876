"""What the command line prints while it works and when it is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from relprop.explanations.heatmaps import terminal
from relprop.explanations.shown import one_line, visible
from relprop.jobs.files import OVERVIEW, REPORT, SUMMARY
from relprop.jobs.picture_plan import PictureOptions, PicturePlan, make_picture_plan
from relprop.jobs.picture_report import REPORTED, sections, write_report
from relprop.jobs.pictures import DRAWN, PictureResult, explain_pictures, finish_pictures, summary, trouble

WIDTH = 24  # of each of them and of its heatmap, in columns
GAP = 2
TALLEST = 80  # rows of pixels; a picture that is longer gets narrower


def run(options: PictureOptions, quiet: bool, as_json: bool = False) -> None:
    """Do the whole job with a progress bar, and print what came out, or the summary as JSON.

    Raises:
        RelpropError: what is wrong, before anything was written where it can be known before.
    """
    plan = make_picture_plan(options)
    results = list(tracked(explain_pictures(plan), plan, Console(stderr=True, quiet=quiet)))
    finish_pictures(plan, results)
    if options.report:
        pages = track(
            sections(plan),
            "reporting",
            total=min(len(plan.pictures), REPORTED),
            console=Console(stderr=True, quiet=quiet),
            transient=True,
        )
        write_report(plan, list(pages))
    if as_json:
        print(json.dumps(summary(plan, results), indent=2))
        return
    show(plan, results, Console(quiet=quiet))


def tracked(results: Iterable[PictureResult], plan: PicturePlan, console: Console) -> Iterator[PictureResult]:
    """The same results, with a progress bar where there are many pictures to wait for."""
    total = len(plan.pictures) * len(plan.asked)
    if len(plan.pictures) <= plan.options.batch_size:
        return iter(results)
    return iter(track(results, "explaining", total=total, console=console, transient=True))


def show(plan: PicturePlan, results: Sequence[PictureResult], console: Console) -> None:
    """Predictions, conservation, the Clever Hans numbers, and where the files are."""
    if console.color_system in ("256", "truecolor"):
        console.print(_drawings(results, console.width))
    console.print(_table(results))
    console.print(
        Text(
            "Σ R: relevance that reached the picture, of 1 at the target, or -1 where what is explained is negative; "
            "biases and ε keep the rest.",
            style="dim",
        )
    )
    said = trouble(plan, results)
    if said:
        console.print(Text(f"warning: {visible(said)}", style="yellow"))
    sentence = clever_hans(results)
    if sentence:
        console.print(Text(sentence, style="bold"))
    if plan.explains != "output":
        console.print(Text(f"Outputs and relevance are those of {plan.explains}.", style="dim"))
    name = "NAME" if len(plan.asked) == 1 else "NAME.TARGET"
    kinds = "heatmap.png, .overlay.png and .relevance.safetensors"
    sheets = OVERVIEW if len(plan.sheets) == 1 else f"{OVERVIEW} to {plan.sheets[-1].name}"
    files = f"Files: in {plan.options.out}: {name}.{kinds} for each picture, {sheets} and {SUMMARY}"
    files += f", {REPORT}" if plan.options.report else ""
    console.print(Text(visible(files)), soft_wrap=True)


def clever_hans(results: Sequence[PictureResult]) -> str | None:
    """One sentence about the pictures that have an artefact, or None where there is none."""
    shares = [(each.share.relevance, each.share.area) for each in results if each.share and each.share.relevance]
    if not shares:
        return None
    inside = sum(relevance for relevance, _ in shares) / len(shares)
    area = sum(area for _, area in shares) / len(shares)
    number = len({id(each.picture) for each in results if each.share and each.share.relevance})
    pictures = "1 picture" if number == 1 else f"{number} pictures"
    return (
        f"Clever Hans: in {pictures} with a watermark, it covers {area:.1%} of the area and holds "
        f"{inside:.0%} of the positive relevance."
    )


def _table(results: Sequence[PictureResult]) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
    for column in ("name", "predictions", "explained"):
        table.add_column(column, overflow="fold")
    marked = any(result.share is not None for result in results)
    for column in ("Σ R", "in mark", "its area")[: 3 if marked else 1]:
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(*_row(result, marked))
    return table


def _row(result: PictureResult, marked: bool) -> list[Text]:
    predictions = [
        Text(f"{one_line(name)} {value:.2f}", style="dim" if i else "") for i, (name, value) in enumerate(result.top)
    ]
    row = [
        Text(one_line(result.picture.name)),
        Text("\n").join(predictions),
        Text(f"{one_line(result.target_name)} {result.output:.2f}"),
        Text(_sum(result.total)),
    ]
    share = result.share
    if share is not None:
        row += [Text(_percent(share.relevance)), Text(_percent(share.area))]
    elif marked:
        row += [Text(), Text()]
    return row


def _sum(total: float) -> str:
    """A number as it can be read, however large or small."""
    return f"{total:.3f}" if 5e-4 <= abs(total) < 1e4 or total == 0 else f"{total:.0e}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _drawings(results: Sequence[PictureResult], width: int) -> Columns:
    """The first pictures, each next to its heatmap, as many beside each other as fit."""
    width = max(1, min(WIDTH, (width - GAP) // 2))
    pairs = []
    for result in results[:DRAWN]:
        assert result.images is not None  # the first results keep them
        seen, heat, _ = result.images
        pair = Table.grid(padding=(0, GAP, 0, 0))
        columns = max(1, min(width, TALLEST * seen.width // (seen.height or 1)))
        pair.add_row(terminal(seen, width=columns), terminal(heat, width=columns))
        pair.add_row(
            Text(one_line(result.picture.name), style="dim"),
            Text(f"{one_line(result.target_name)} {result.output:.2f}\n"),
        )
        pairs.append(pair)
    return Columns(pairs, padding=(0, GAP))
