"""Output files: their names, and writing them whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relprop.errors import RelpropError

OVERVIEW = "overview.png"
SUMMARY = "summary.json"
REPORT = "report.html"
LONGEST = 180  # bytes of a name, of the 255 that file systems take
LABEL = 40  # bytes of a label behind it


def sheets(folder: Path, panels: int, on_each: int) -> list[Path]:
    """The contact sheets of so many panels: overview.png, overview-2.png, ..."""
    first = folder / OVERVIEW
    later = range(2, -(-panels // on_each) + 1)
    return [first, *(first.with_stem(f"{first.stem}-{number}") for number in later)]


@dataclass(frozen=True)
class Outputs:
    """The three files that explain one picture."""

    heatmap: Path
    overlay: Path
    relevance: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> Outputs:
        """The files of the picture that has this name."""
        return cls(
            folder / f"{name}.heatmap.png",
            folder / f"{name}.overlay.png",
            folder / f"{name}.relevance.safetensors",
        )

    def __iter__(self) -> Iterator[Path]:
        return iter((self.heatmap, self.overlay, self.relevance))


def with_labels(names: Sequence[str], labels: Sequence[str]) -> list[list[str]]:
    """Of each name one for each label, `NAME.LABEL`, short enough; the names themselves where there is one label."""
    if len(labels) < 2:
        return [[name] for name in names]
    plain = [Path(f"{re.sub('[./]', '_', label)}.x") for label in labels]
    return [[f"{name}.{label}" for label in unique_names(plain, LABEL)] for name in names]


def unique_names(paths: Sequence[Path], longest: int = LONGEST) -> list[str]:
    """A name for each picture: its stem, numbered where an earlier one took it.

    Names that differ only in case count as the same, because some file systems take them so. What cannot be shown in
    a stem becomes `_`, and a long one is cut, so that an ending fits behind it.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = _writable(path.stem, longest)
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _writable(stem: str, longest: int) -> str:
    shown = "".join(c if c.isprintable() else "_" for c in stem)
    return shown.encode()[:longest].decode(errors="ignore") or "_"


def check_folder(folder: Path, files: Sequence[Path], overwrite: bool) -> None:
    """Refuse a folder that cannot be made or written to, and files that exist, without writing anything.

    Raises:
        RelpropError: the folder is a file or not writable, or a file exists and `overwrite` is False.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise RelpropError(f"the output folder {folder} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RelpropError(f"the output folder {folder} cannot be written: no permission in {existing}")
    present = [file for file in files if file.exists()]
    if present and not overwrite:
        more = f" and {len(present) - 1} more files" if len(present) > 1 else ""
        raise RelpropError(f"{present[0]}{more} would be overwritten; use --overwrite, or another --out")
