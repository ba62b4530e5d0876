"""Bytes from a place in a file, for several threads at once."""

from __future__ import annotations

import threading
from io import FileIO
from pathlib import Path


class Files:
    """Files that are read at places. Each thread has its own of each, since a file that is open has one position.

    They stay open as long as this, or the thread, is there.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def read(self, path: Path, start: int, size: int) -> bytes:
        """So many bytes from a place on; fewer where the file ends before.

        Raises:
            OSError: it cannot be read.
        """
        held: dict[Path, FileIO] = self._own.__dict__.setdefault("files", {})
        if path not in held:
            held[path] = path.open("rb", buffering=0)  # what lies there now, not what was read ahead
        file = held[path]
        file.seek(start)
        return file.read(size)
