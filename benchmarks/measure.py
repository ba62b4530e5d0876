"""A case's rows: methods take turns, round by round; then memory, conservation and differences."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import Case
from methods import METHODS
from peers import PEERS
from worker import Apart, Here, Worker, ask

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How thoroughly, and where."""

    device: str = "cpu"
    tiny: bool = False
    rounds: int = 5
    budget: float = 40.0
    """Seconds for the timed rounds of one case: slow methods get fewer, at least two."""
    slow: float = 20.0
    """A call that takes longer gets two rounds."""
    peers: str = sys.executable
    """The interpreter of the environment with the other libraries."""

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


BASE = "plain gradient"
"""What ratios are to."""

MOST_PROCESSES = 7
"""At a time: all that take turns stay in memory, and some libraries hold gigabytes."""


def measure(case: Case, settings: Settings) -> list[Row]:
    """A row for each method; one that cannot run has its error there."""
    rows: dict[str, Row] = {}
    for names in [case.methods] if settings.tiny else together(case.methods):
        rows = _in_turn(case, names, settings) | rows
    rows = {name: rows[name] for name in case.methods}
    if not settings.tiny:
        _compare(rows, lambda name, path: _result_of_its_own(case, name, settings, path))
    return list(rows.values())


def together(methods: Sequence[str]) -> list[tuple[str, ...]]:
    """Methods that take turns: the plain gradient, which all are compared to, and some others, in order."""
    others, most = [name for name in methods if name != BASE], MOST_PROCESSES - 1
    return [(BASE, *others[i : i + most]) for i in range(0, len(others), most)]


def _in_turn(case: Case, names: Sequence[str], settings: Settings) -> dict[str, Row]:
    with contextlib.ExitStack() as stack:
        workers = {name: start(case, name, settings) for name in names}
        rows: dict[str, Row] = {name: {"method": name} for name in workers}
        for worker in workers.values():
            stack.callback(worker.end)
            worker.send("prepare")
        for name, worker in workers.items():
            rows[name].update(worker.receive())
        for name in _fit(rows):
            rows[name].update(ask(workers[name], "first"))
        workers = {name: workers[name] for name in _fit(rows)}
        for name, found in timed(workers, settings).items():
            rows[name].update(found)
        if settings.tiny:
            _compare(rows, lambda name, path: ask(workers[name], "result", path))
    base = rows[BASE].get("seconds", math.nan)
    for name in _fit(rows):
        rows[name]["ratio"] = rows[name]["seconds"] / base
    return rows


def start(case: Case, name: str, settings: Settings, *, exact_memory: bool = False) -> Worker:
    """A process for each method; tiny, all in this one but those that change others' classes."""
    method = (METHODS | PEERS)[name]
    missing = settings.peers == sys.executable and method.package and importlib.util.find_spec(method.package) is None
    if missing or (settings.tiny and not method.patches):
        return Here(case.name, name, settings.device, settings.tiny)
    # Zennit is among relprop's own development dependencies, and has no pins that clash.
    python = settings.peers if method.package not in {"", "zennit"} else sys.executable
    return Apart(python, case.name, name, settings.device, settings.tiny, exact_memory)


def timed(workers: Mapping[str, Worker], settings: Settings) -> dict[str, Row]:
    """Medians of rounds in which methods take turns. The first round decides how many there are for whom."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    rounds = dict.fromkeys(workers, 1)
    errors: dict[str, Row] = {}
    for turn in range(settings.rounds):
        for name, worker in workers.items():
            if name in errors or turn >= rounds[name]:
                continue
            answer = ask(worker, "time")
            if "error" in answer:
                errors[name] = answer
                continue
            times[name].append(answer["seconds"])
            rounds[name] = how_many(times[name][0], len(workers), settings)
    found = {n: {"seconds": statistics.median(t), "rounds": len(t)} for n, t in times.items() if n not in errors}
    return found | errors


def how_many(seconds: float, methods: int, settings: Settings) -> int:
    """Rounds of a method whose first one took so long."""
    if seconds > settings.slow:
        return min(2, settings.rounds)
    affordable = int(settings.budget / methods / max(seconds, 1e-9))
    return min(settings.rounds, max(2, affordable))


def _result_of_its_own(case: Case, name: str, settings: Settings, path: str) -> Row:
    """What a method's `result` says in a process that holds no memory that is not in use, and where nobody waits."""
    worker = start(case, name, settings, exact_memory=True)
    try:
        _, first, result = (ask(worker, command, path) for command in ("prepare", "first", "result"))
    finally:
        worker.end()
    return {key: first[key] for key in ("kept", "error") if key in first} | result


def _compare(rows: dict[str, Row], result: Callable[[str, str], Row]) -> None:
    """Memory, conservation, and the distance to relprop's result where a method means to be the same.

    Args:
        result: method, path -> its `result`, with relevance in the file.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for i, name in enumerate(_fit(rows)):
            path = Path(folder) / f"{i}.pt"
            rows[name].update(result(name, str(path)))
            if path.exists():
                found[name] = torch.load(path)
        for name, relevance in found.items():
            reference = found.get((METHODS | PEERS)[name].same_as)
            if reference is not None and reference.shape == relevance.shape:
                rows[name]["difference"] = float((relevance - reference).norm() / reference.norm())


def _fit(rows: Mapping[str, Row]) -> list[str]:
    """Methods that had no error so far."""
    return [name for name, row in rows.items() if "error" not in row]
