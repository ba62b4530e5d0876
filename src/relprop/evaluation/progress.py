"""A bar for those who wait, on stderr, that leaves nothing behind."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress


def bar(wanted: bool) -> Progress:
    """A bar that shows where it is wanted and somebody looks at a terminal."""
    console = Console(stderr=True)
    seen = console.is_terminal or console.is_jupyter
    return Progress(console=console, transient=True, disable=not (wanted and seen))
