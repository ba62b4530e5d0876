"""One method of one case, in a process of its own or in this one, that does what it is asked and reports.

Peers change classes, models and global tables. So each method has a process that lives as long as its case, and those
processes take turns: `first`, then `time` round by round, then `memory` and `result`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Answer = dict[str, Any]


class Worker(Protocol):
    """What both kinds answer to."""

    def ask(self, command: str, path: str = "") -> Answer: ...

    def end(self) -> None: ...


class Here:
    """A method in this process."""

    def __init__(self, case: str, method: str, device: str, tiny: bool) -> None:
        self._case, self._method, self._device, self._tiny = case, method, device, tiny
        self._run: Callable[[], Any] | None = None

    def ask(self, command: str, path: str = "") -> Answer:
        """Do one of first, time, memory, result; an error is an answer too."""
        try:
            answer: Answer = getattr(self, "_" + command)(path)
            return answer
        except Exception as error:
            return {"error": _shortened(error)}

    def end(self) -> None:
        self._run = None

    def _first(self, path: str) -> Answer:
        """Prepare, call once: what that takes, and what it leaves behind."""
        from cases import CASES
        from memory import peak_above
        from methods import METHODS
        from peers import PEERS

        case = next(c for c in CASES if c.name == self._case)
        method = (METHODS | PEERS)[self._method]
        if method.package and importlib.util.find_spec(method.package) is None:
            return {"error": "not installed"}
        self._run = method.prepare(lambda: case.build(self._tiny)(self._device))
        seconds = 0.0

        def call() -> None:
            nonlocal seconds
            seconds = self._seconds()

        kept = peak_above(call, self._device).kept
        return {"first": seconds, "kept": max(kept, 0.0)}

    def _time(self, path: str) -> Answer:
        return {"seconds": self._seconds()}

    def _memory(self, path: str) -> Answer:
        from memory import peak_above

        assert self._run is not None
        return {"peak": peak_above(self._run, self._device).peak}

    def _result(self, path: str) -> Answer:
        """Conservation; the relevance of each sample, as a share of what it started with, goes into a file."""
        import torch

        assert self._run is not None
        relevance, start = self._run()
        if start is None:
            return {"conservation": None}
        flat = relevance.detach().flatten(1).double().cpu()
        shares = flat / start.double().cpu()[:, None]
        torch.save(shares, path)
        return {"conservation": float(shares.sum(1).mean())}

    def _versions(self, path: str) -> Answer:
        return versions()

    def _seconds(self) -> float:
        assert self._run is not None
        _wait_for(self._device)
        start = time.perf_counter()
        self._run()
        _wait_for(self._device)
        return time.perf_counter() - start


class Apart:
    """A method in a process of its own, asked over pipes, a line of JSON each way."""

    def __init__(self, python: str, case: str, method: str, device: str, tiny: bool) -> None:
        command = [python, "-W", "ignore", str(Path(__file__)), case, method, device, "tiny" if tiny else "full"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: str, path: str = "") -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([command, path]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"the process ended with status {self._process.wait()}"}
        answer: Answer = json.loads(line)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def versions() -> Answer:
    """Of everything that takes part, in this environment."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("relprop", "torch", "torchvision", "transformers", "zennit", "captum", "lxt"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _shortened(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def serve(case: str, method: str, device: str, tiny: bool) -> None:
    """Answer until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    os.dup2(1, 2)
    worker = Here(case, method, device, tiny)
    for line in sys.stdin:
        command, path = json.loads(line)
        answers.write(json.dumps(worker.ask(command, path)) + "\n")
        answers.flush()


if __name__ == "__main__":
    case, method, device, size = sys.argv[1:]
    serve(case, method, device, size == "tiny")
