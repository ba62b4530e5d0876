"""Peak memory of a call, read from Linux's own bookkeeping of the process."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """MiB above what the process held before: at the peak, and afterwards."""

    peak: float
    kept: float


def peak_above(call: Callable[[], object]) -> Memory:
    """Run `call` and report how far resident memory rose."""
    _settle()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    call()
    peak = _status("VmHWM")
    _settle()
    return Memory(peak - before, _status("VmRSS") - before)


def _settle() -> None:
    """Give freed memory back, so that it does not hide what is allocated next."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
