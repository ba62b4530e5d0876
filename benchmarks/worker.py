"""One method of one case, in a process of its own or in this one, that does what it is asked and reports.

Peers change classes, models and global tables. So each method has a process that lives as long as its case. All of
them `prepare` at once, then they take turns: `first`, then `time` round by round, then `result`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

Answer = dict[str, Any]

EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""For a process whose memory is looked at: what is freed goes back at once, so that what is held is what is in use. It
makes large allocations slower, so nothing is timed there."""


class Worker(Protocol):
    """What both kinds answer to."""

    def send(self, command: str, path: str = "") -> None: ...

    def receive(self) -> Answer: ...

    def end(self) -> None: ...


class Here:
    """A method in this process."""

    def __init__(self, case: str, method: str, device: str, tiny: bool) -> None:
        self._case, self._method, self._device, self._tiny = case, method, device, tiny
        self._run: Callable[[], Any] | None = None
        self._answer: Answer = {}

    def send(self, command: str, path: str = "") -> None:
        """Do one of prepare, first, time, result."""
        try:
            self._answer = getattr(self, "_" + command)(path)
        except Exception as error:
            self._answer = {"error": _shortened(error)}

    def receive(self) -> Answer:
        """What came of it; an error is an answer too."""
        return self._answer

    def end(self) -> None:
        self._run = None

    def _prepare(self, path: str) -> Answer:
        from cases import CASES
        from methods import METHODS
        from peers import PEERS

        case = next(c for c in CASES if c.name == self._case)
        method = (METHODS | PEERS)[self._method]
        if method.package and importlib.util.find_spec(method.package) is None:
            return {"error": "not installed"}
        self._run = method.prepare(lambda: case.build(self._tiny)(self._device))
        gc.collect()
        gc.freeze()  # nothing of this becomes garbage, and memory is looked at after collections: they are faster now
        return {}

    def _first(self, path: str) -> Answer:
        """Call once: what that takes, and what it leaves behind."""
        from memory import peak_above

        seconds = 0.0

        def call() -> None:
            nonlocal seconds
            seconds = self._seconds()

        kept = peak_above(call, self._device).kept
        return {"first": seconds, "kept": max(kept, 0.0)}

    def _time(self, path: str) -> Answer:
        return {"seconds": self._seconds()}

    def _result(self, path: str) -> Answer:
        """Memory and conservation. Relevance, each sample's as a share of what it started with, goes into a file."""
        import torch
        from memory import peak_above

        assert self._run is not None
        run, found = self._run, []
        peak = peak_above(lambda: found.append(run()), self._device).peak
        relevance, start = found[0]
        if start is None:
            return {"peak": peak}
        flat = relevance.detach().flatten(1).double().cpu()
        shares = flat / start.double().cpu()[:, None]
        torch.save(shares, path)
        return {"peak": peak, "conservation": float(shares.sum(1).mean())}

    def _seconds(self) -> float:
        assert self._run is not None
        _wait_for(self._device)
        start = time.perf_counter()
        self._run()
        _wait_for(self._device)
        return time.perf_counter() - start


class Process:
    """A process that is asked over pipes, a line of JSON each way; `answer_each` runs in it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, **pipes, text=True, env=os.environ | environment)

    def send(self, command: str, path: str = "") -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer to receive
            self._process.stdin.write(json.dumps([command, path]) + "\n")
            self._process.stdin.flush()

    def receive(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"the process ended with status {self._process.wait()}"}
        answer: Answer = json.loads(line)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Apart(Process):
    """A method in a process of its own."""

    def __init__(
        self, python: str, case: str, method: str, device: str, tiny: bool, exact_memory: bool = False
    ) -> None:
        command = [python, "-W", "ignore", str(Path(__file__)), case, method, device, "tiny" if tiny else "full"]
        super().__init__(command, EXACT_MEMORY if exact_memory else {})


def ask(worker: Worker, command: str, path: str = "") -> Answer:
    """Send, and wait for the answer."""
    worker.send(command, path)
    return worker.receive()


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


def answer_each(reply: Callable[[str, str], Answer]) -> None:
    """Answer until nobody asks any more; an error is an answer too."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    os.dup2(1, 2)
    for line in sys.stdin:
        try:
            answer = reply(*json.loads(line))
        except Exception as error:
            answer = {"error": _shortened(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    case, method, device, size = sys.argv[1:]
    answer_each(partial(ask, Here(case, method, device, size == "tiny")))
