"""Archives of WebDataset: the files of a sample lie together and have one name with different endings."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

from relprop.errors import ImageError, JobError
from relprop.explanations.shown import encodable
from relprop.jobs.datasets.samples import Index, Sample, Source, picture_sample
from relprop.jobs.datasets.sources.places import Files
from relprop.models import picture_suffixes

LABELS = ("cls", "label", "class")


@dataclass
class _Place:
    """Where a sample lies: number of the archive, first byte, number of bytes."""

    archive: int
    offset: int
    size: int


class TarSource(Source):
    """A tar archive, or all in a folder, by name. Pictures are read where they lie, so archives are not compressed."""

    kind = "WebDataset"

    def __init__(self, path: Path, column: str | None, label_column: str | None) -> None:
        self._archives = [path] if path.is_file() else sorted(path.glob("*.tar"))
        self._endings = [column.lstrip(".")] if column else [suffix.lstrip(".") for suffix in picture_suffixes()]
        self._label_endings = [label_column.lstrip(".")] if label_column else list(LABELS)
        self._places: list[_Place] = []
        self._keys: list[str] = []
        self._files = Files()

    def index(self) -> Index:
        found: dict[str, _Place] = {}
        labels: dict[str, str] = {}
        for i in range(len(self._archives)):
            self._scan(i, found, labels)
        if not found:
            raise JobError(f"{self._archives[0]} has no files that end in {', '.join(sorted(self._endings)[:8])}, ...")
        self._keys, self._places = [encodable(key) for key in found], list(found.values())
        return Index(self._keys, [place.size for place in self._places], [labels.get(key) for key in self._keys])

    def _scan(self, i: int, found: dict[str, _Place], labels: dict[str, str]) -> None:
        """Add what lies in an archive."""
        archive = self._archives[i]
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, ending = name.partition(".")
                    key = f"{archive.name}/{folder}/{stem}".replace("//", "/")
                    if member.isfile() and ending.lower() in self._endings:
                        found[key] = _Place(i, member.offset_data, member.size)
                    elif member.isfile() and ending in self._label_endings:
                        held = tar.extractfile(member)
                        labels[key] = held.read().decode("utf-8", "replace").strip() if held else ""
        except (tarfile.TarError, OSError) as error:
            raise JobError(f"{archive} is no readable tar archive without compression: {error}") from error

    def read(self, number: int) -> Sample:
        place = self._places[number]
        data = self._files.read(self._archives[place.archive], place.offset, place.size)
        if len(data) < place.size:
            raise ImageError(f"{self._keys[number]} is cut off: its archive ends before")
        return picture_sample(data, self._keys[number])
