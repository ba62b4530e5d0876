"""What is said on the terminal, whatever is in it: results, and errors and warnings in one form."""

from __future__ import annotations

import logging
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
    """Errors of ours as one paragraph in red and exit code 2; warnings as one in yellow; both on stderr.

    A terminal is also told what takes long.
    """
    console = Console(stderr=True)

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        console.print(Text(visible(f"warning: {message}"), style="yellow"))

    with warnings.catch_warnings(), _heard(console):
        warnings.showwarning = show_warning
        try:
            yield
        except RelpropError as error:
            console.print(Text(visible(f"error: {error}"), style="red"))
            raise typer.Exit(2) from error


class _Dim(logging.Handler):
    """Prints what is said of long work."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text(visible(record.getMessage()), style="dim"))


@contextmanager
def _heard(console: Console) -> Iterator[None]:
    """The logger `relprop` speaks on a terminal, and is as it was afterwards."""
    logger = logging.getLogger("relprop")
    handler, level = _Dim(console), logger.level
    if not console.is_terminal:
        yield
        return
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
