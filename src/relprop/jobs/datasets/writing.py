"""Shards are written by a thread, so that the disk keeps no analyzer waiting."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from relprop.errors import JobError
from relprop.jobs.datasets.explaining import Row
from relprop.jobs.datasets.parts import Parts


class Writer:
    """Writes one shard while the next one is explained; a third has to wait, so that memory is bounded.

    What is wrong with one shows when the next one comes, or at the end of the block, where all has been written.

    Args:
        parts: the folder.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._pool = ThreadPoolExecutor(1, "relprop-write")
        self._last: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def write(self, shard: int, rows: Mapping[int, Row]) -> None:
        """Have a shard written.

        Raises:
            JobError: the one before could not be written.
        """
        self._wait()
        self._last = self._pool.submit(self._parts.write, shard, rows)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None:
                self._wait()
            else:
                with suppress(JobError):  # what happened first is what is told
                    self._wait()
        finally:
            self._pool.shutdown()
