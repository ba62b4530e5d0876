"""What `relprop explain --text` prints while it works and when it is done."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from relprop.errors import InputError
from relprop.explanations.shown import one_line, visible
from relprop.jobs.text import TextResult, explain_texts, finish_texts, record
from relprop.jobs.text_plan import ALL, TextOptions, TextPlan, make_text_plan

TOP = 5
MANY = 8  # sentences from which on a progress bar shows


def sentences(given: Sequence[str]) -> tuple[str, ...]:
    """The texts of `--text`, with the lines of stdin in the place of `-`; empty lines are none.

    Raises:
        InputError: there is nothing in them.
    """
    texts: list[str] = []
    for text in given:
        if text == "-":
            texts += lines_of_stdin("--text")
        elif not text.strip():
            raise InputError("--text is empty")
        else:
            texts.append(text)
    return tuple(texts)


def lines_of_stdin(option: str) -> list[str]:
    """The lines of stdin that are not empty.

    Raises:
        InputError: there are none, or they are not valid Unicode.
    """
    lines = [line.strip() for line in _stdin().splitlines()]
    texts = [line for line in lines if line]
    if not texts:
        raise InputError(f"there is no text on stdin: {option} - takes one sentence a line")
    return texts


def _stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not valid Unicode; is it UTF-8? ({error})") from error


def run_texts(options: TextOptions, quiet: bool, as_json: bool = False) -> None:
    """Do the whole job, and print what came out, or everything that is known as JSON.

    Raises:
        RelpropError: what is wrong, before anything was written where it can be known before.
    """
    plan = make_text_plan(options)
    console = Console(stderr=True, quiet=quiet)
    total = len(plan.sentences)
    bar = track(explain_texts(plan), "explaining", total=total, console=console, transient=True, disable=total < MANY)
    results = list(bar)
    finish_texts(plan, results)
    if as_json:
        typer.echo(json.dumps([record(plan, result) for result in results], indent=2))
        return
    show_texts(plan, results, Console(quiet=quiet))


def show_texts(plan: TextPlan, results: Sequence[TextResult], console: Console) -> None:
    """The coloured sentences, what was explained, the books, and where the files are."""
    limit = max(result.explained.limit for result in results)
    for result in results:
        console.print(Text(one_line(result.explained.title), style="bold"))
        console.print(result.explained.rich(limit))
        best = ", ".join(f"{one_line(text)} {r:.3g}" for text, r in result.explained.top(TOP))
        console.print(Text(f"most for it: {best}"))
        console.print(Text(f"{result.books}\n", style="dim"))
    scale = "; all sentences have one scale" if len(results) > 1 else ""
    console.print(Text(f"Red speaks for the target, blue against it{scale}.", style="dim"))
    if plan.loaded.kind == "encoder" and plan.other is None:
        console.print(
            Text("The length of an embedding says little; --similar-to SENTENCE explains a similarity.", "dim")
        )
    everything = f", and {ALL}" if len(results) > 1 else ""
    name = "NAME" if len(plan.targets) == 1 else "NAME.TARGET"
    kinds = f"{name}.html, .relevance.safetensors and .tokens.json for each sentence"
    console.print(Text(visible(f"Files: in {plan.options.out}: {kinds}{everything}")), soft_wrap=True)
