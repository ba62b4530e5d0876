"""What `relprop concepts` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from relprop.jobs.concepts import FOUND, RELEVANCE, SHEET, Shares


def show(shares: Sequence[Shares], folder: Path, quiet: bool) -> None:
    """The channels of each picture with their shares of the layer's relevance, and where the files are."""
    table = Table(box=None, pad_edge=False)
    table.add_column("picture")
    table.add_column("explained")
    for rank in range(len(shares[0].channels)):
        table.add_column(f"channel {rank + 1}", justify="right")
    for found in shares:
        cells = [f"{channel} ({share:.0%})" for channel, share in found.channels]
        table.add_row(Text(found.picture.name), Text(found.predicted), *cells)
    console = Console(quiet=quiet)
    console.print(table)
    note = "Shares are of the relevance that came to the layer, of which some channels take away."
    console.print(Text(note, style="dim"))
    console.print(Text(f"{folder}/{SHEET}, {FOUND}, {RELEVANCE}"), soft_wrap=True)
