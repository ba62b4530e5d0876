"""What takes long is said, on the logger `relprop`, which nobody hears who has not asked for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

LOGGER = logging.getLogger("relprop")
PATIENCE = 1.0
"""Seconds that may pass in silence."""


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Say what is waited for, at level INFO, once it has taken longer than `PATIENCE`.

    Args:
        what: a sentence. It may not come true: what is quicker is not spoken of.
    """
    timer = Timer(PATIENCE, LOGGER.info, (what,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
