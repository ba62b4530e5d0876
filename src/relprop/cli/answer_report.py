"""What `relprop explain --prompt` prints while it works and when it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from relprop.cli.text_report import lines_of_stdin
from relprop.errors import InputError
from relprop.explanations.shown import one_line, visible
from relprop.jobs.answer_plan import (
    AnswerOptions,
    AnswerPlan,
    Question,
    contrasts,
    make_answer_plan,
    read_chats,
)
from relprop.jobs.answers import AnswerResult, explain_answers, finish_answers, record
from relprop.jobs.text_plan import ALL

TOP = 4
ROWS = 40  # parts of an answer that are listed


def run_answers(
    prompts: Sequence[str] | None,
    chat: Path | None,
    answer: str | None,
    contrast: Sequence[str] | None,
    options: Mapping[str, Any],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Do the whole job, and print what came out.

    Raises:
        RelpropError: what is wrong, before anything was written where it can be known before.
    """
    if options["unit"] not in ("tokens", "words", "sentences"):
        raise InputError(f"--unit is tokens, words or sentences, not {options['unit']!r}")
    questions = _questions(prompts, chat, answer, contrast)
    plan = make_answer_plan(AnswerOptions(questions=questions, **options))
    bar = Console(stderr=True, quiet=quiet or as_json)
    found = track(explain_answers(plan), "explaining", total=len(questions), console=bar, transient=True)
    results = list(found)
    finish_answers(plan, results)
    if as_json:
        typer.echo(json.dumps([record(plan, result) for result in results], indent=2))
    else:
        show_answers(plan, results, Console(quiet=quiet))


def _questions(
    prompts: Sequence[str] | None, chat: Path | None, answer: str | None, contrast: Sequence[str] | None
) -> tuple[Question, ...]:
    if chat is not None and (prompts or answer is not None or contrast):
        raise InputError("a --chat file says prompt, answer and contrast itself: give it alone")
    if chat is not None:
        return tuple(read_chats(chat))
    texts: list[str] = []
    for prompt in prompts or ():
        texts += lines_of_stdin("--prompt") if prompt == "-" else [prompt]
    if len(texts) > 1 and (answer is not None or contrast):
        raise InputError(
            f"--answer and --contrast are of one prompt, and there are {len(texts)}: write them into a --chat file, "
            '{"prompt": ..., "answer": ..., "contrast": ...} a line'
        )
    return tuple(Question(text, answer, contrasts(contrast or ())) for text in texts)


def show_answers(plan: AnswerPlan, results: Sequence[AnswerResult], console: Console) -> None:
    """Prompt and answer in the colours of the whole answer, what each part of it came from, and where the files are."""
    for result in results:
        said = "the given answer" if result.question.answer is not None else "the model's answer"
        console.print(Text(f"{said}: {one_line(''.join(result.found.answer).strip())}", style="bold"))
        console.print(result.found.text().rich())
        console.print(_table(result))
    console.print(
        Text("Colours: red speaks for the whole answer, blue against it. Numbers are parts of logits.", style="dim")
    )
    everything = f", and {ALL}" if len(results) > 1 else ""
    kinds = "NAME.html, .relevance.safetensors and .tokens.json for each answer"
    console.print(Text(visible(f"Files: in {plan.options.out}: {kinds}{everything}")), soft_wrap=True)


def _table(result: AnswerResult) -> Table:
    found = result.found
    table = Table(box=SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
    table.add_column("answer", overflow="fold")
    for column in ("probability", "explained"):
        table.add_column(column, justify="right")
    table.add_column("most for it", overflow="fold")
    for i, word in list(enumerate(found.answer))[:ROWS]:
        against = found.against[i]
        name = one_line(word.strip() or word) + ("" if against is None else f" and not {one_line(against.strip())}")
        best = ", ".join(f"{one_line(token.strip() or token)} {r:.3g}" for token, r in found.top(i, TOP) if r > 0)
        table.add_row(Text(name), f"{float(found.probability[i]):.3f}", f"{float(found.explained[i]):.3g}", Text(best))
    more = len(found.answer) - ROWS
    if more > 0:
        table.add_row(Text(f"and {more} more", style="dim"), "", "", "")
    return table
