"""What is said on the terminal, whatever is in it: results, and errors and warnings in one form."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from relprop.errors import RelpropError
from relprop.explanations.shown import visible


def say(text: str) -> None:
    """Print a result as it is, but for characters that a terminal would obey."""
    typer.echo(visible(text))


@contextmanager
def reporting() -> Iterator[None]:
    """Errors of ours as one paragraph in red and exit code 2; warnings as one in yellow; both on stderr."""
    console = Console(stderr=True)

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        console.print(Text(visible(f"warning: {message}"), style="yellow"))

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            yield
        except RelpropError as error:
            console.print(Text(visible(f"error: {error}"), style="red"))
            raise typer.Exit(2) from error
