"""Texts: files of JSON lines, or of plain lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relprop.errors import InputError, JobError
from relprop.jobs.datasets.samples import Index, Sample, Source, digest_of
from relprop.jobs.datasets.sources.columns import choose, label_of
from relprop.jobs.datasets.sources.places import Files


class LinesSource(Source):
    """A file of JSON lines, whose objects have a text and maybe a label and an `id`; or of plain text, a sample a line.

    A line is read where it is in the file, which may be larger than memory.
    """

    kind = "lines of text"
    text = True

    def __init__(self, path: Path, column: str | None, label_column: str | None) -> None:
        self.path, self._asked = path, (column, label_column)
        self._json = path.suffix.lower() != ".txt"
        self._column = ""
        self._places: list[tuple[int, int]] = []
        self._files = Files()

    def index(self) -> Index:
        self._places, keys, labels, start = [], [], [], 0
        label_column: str | None = None
        with open(self.path, "rb") as file:
            for number, line in enumerate(file):
                if line.strip():
                    found = self._parsed(line) if self._json else {}
                    if found and not self._column:
                        self._column, label_column = choose(list(found), *self._asked, self.path)
                    self._places.append((start, len(line)))
                    keys.append(str(found.get("id", number)))
                    labels.append(label_of(found.get(label_column)) if label_column else None)
                start += len(line)
        if not keys or (self._json and not self._column):
            raise JobError(f"{self.path} has no lines{' of JSON objects' if self._json else ''}")
        if len(set(keys)) < len(keys):
            keys = [f"line {i}" for i in range(len(keys))]
        return Index(keys, [size for _, size in self._places], labels)

    def read(self, number: int) -> Sample:
        start, size = self._places[number]
        line = self._files.read(self.path, start, size)
        content = self._parsed(line).get(self._column) if self._json else line.decode().strip()
        if not isinstance(content, str) or not content.strip():
            raise InputError(f"the line is no JSON object with a text in {self._column!r}")
        return Sample(content, digest_of(line))

    def _parsed(self, line: bytes) -> dict[str, Any]:
        """The line's object; an empty one if there is none, which `read` reports."""
        try:
            found = json.loads(line)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
