"""Options of `relprop explain` for the answers of language models, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Explain what a language model answers to this; more than once, or - for the lines of stdin.",
    ),
]
Answer = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Prompts: explain this answer; by default what the model says."),
]
Contrasts = Annotated[
    list[str] | None,
    typer.Option(
        "--contrast",
        metavar="[N=]TOKEN",
        help="Prompts: explain why the answer's first token, or its N-th from 0, and not this one; more than once.",
    ),
]
Chat = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Explain the answer to a chat: messages in .json, or a chat a line in .jsonl."),
]
UnitName = Annotated[
    str,
    typer.Option("--unit", metavar="NAME", help="Prompts: what is explained together: tokens, words or sentences."),
]
Longest = Annotated[int, typer.Option(min=1, help="Prompts: how many tokens the model may say.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON in the place of a table and colours.")]
