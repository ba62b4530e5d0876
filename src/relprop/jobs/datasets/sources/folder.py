"""A folder of pictures; folders inside it are classes."""

from __future__ import annotations

import os
from pathlib import Path

from relprop.errors import ImageError, JobError
from relprop.explanations.shown import encodable
from relprop.jobs.datasets.samples import Index, Sample, Source, picture_sample
from relprop.models import picture_suffixes


class FolderSource(Source):
    """All pictures in a folder and the folders inside it, by path. The first folder on the way is a sample's label."""

    kind = "folder of pictures"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._paths: list[str] = []

    def index(self) -> Index:
        suffixes = picture_suffixes()
        found: list[tuple[str, int]] = []
        seen: set[str] = set()
        for place, folders, files in os.walk(self.path, followlinks=True):
            here = os.path.realpath(place)
            if here in seen:  # links may lead in a circle
                folders.clear()
                continue
            seen.add(here)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in files:
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                    where = os.path.join(place, name)
                    found.append((os.path.relpath(where, self.path).replace(os.sep, "/"), _size(where)))
        if not found:
            raise JobError(f"the folder {self.path} has no pictures in it")
        found.sort()
        self._paths = [path for path, _ in found]
        keys = [encodable(path) for path in self._paths]
        labels = [key.partition("/")[0] if "/" in key else None for key in keys]
        return Index(keys, [size for _, size in found], labels)

    def read(self, number: int) -> Sample:
        path = self._paths[number]
        try:
            data = (self.path / path).read_bytes()
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error
        return picture_sample(data, path)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a link that leads nowhere: the sample will say so
        return -1
