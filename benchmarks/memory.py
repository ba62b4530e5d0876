"""Peak memory of a call: from Linux's own bookkeeping of the process, or from the allocator of the GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Memory:
    """MiB above what was held before: at the peak, and afterwards."""

    peak: float
    kept: float


def peak_above(call: Callable[[], object], device: str = "cpu") -> Memory:
    """Run `call` and report how far memory rose: resident memory, or what tensors on the GPU take."""
    return _on_gpu(call) if device.startswith("cuda") else _resident(call)


def held() -> float:
    """MiB that the process has allocated, after freed memory was given back. Files that are mapped come and go."""
    _settle()
    return _status("RssAnon")


def _resident(call: Callable[[], object]) -> Memory:
    _settle()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    call()
    peak = _status("VmHWM")
    _settle()
    return Memory(peak - before, _status("VmRSS") - before)


def _on_gpu(call: Callable[[], object]) -> Memory:
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    gc.collect()
    return Memory((peak - before) / 2**20, (torch.cuda.memory_allocated() - before) / 2**20)


def _settle() -> None:
    """Give freed memory back, so that it does not hide what is allocated next."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
