"""Signals that ask a job to end: what is done is kept."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Stopping:
    """In its block SIGTERM and SIGINT set `by` to their names; a second one ends the process as ever.

    Only the main thread of Python gets signals. In another one nothing changes.
    """

    def __init__(self) -> None:
        self.by: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _stop(self, number: int, _: object) -> None:
        self.by = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
