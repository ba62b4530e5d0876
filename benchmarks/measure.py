"""A case's rows: methods take turns, round by round; then memory, conservation and differences."""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import Case
from methods import METHODS
from peers import PEERS
from worker import Apart, Here, Worker

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How thoroughly, and where."""

    device: str = "cpu"
    tiny: bool = False
    rounds: int = 5
    budget: float = 60.0
    """Seconds for the timed rounds of one case: slow methods get fewer, at least two."""
    slow: float = 20.0
    """A call that takes longer gets two rounds."""
    peers: str = sys.executable
    """The interpreter of the environment with the other libraries."""


def measure(case: Case, settings: Settings) -> list[Row]:
    """A row for each method; one that cannot run has its error there."""
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        rows: dict[str, Row] = {}
        for name in case.methods:
            worker = start(case, name, settings)
            stack.callback(worker.end)
            rows[name] = {"case": case.name, "method": name, **worker.ask("first")}
            if "error" not in rows[name]:
                workers[name] = worker
        for name, seconds in timed(workers, settings).items():
            rows[name].update(seconds)
        for name, worker in workers.items():
            rows[name].update(worker.ask("memory"))
        _compare(workers, rows)
    base = rows["plain gradient"]["seconds"]
    for row in rows.values():
        if "seconds" in row:
            row["ratio"] = row["seconds"] / base
    return list(rows.values())


def start(case: Case, name: str, settings: Settings) -> Worker:
    """A process for each method; tiny, all in this one but those that change others' classes."""
    method = (METHODS | PEERS)[name]
    missing = settings.peers == sys.executable and method.package and importlib.util.find_spec(method.package) is None
    if missing or (settings.tiny and not method.patches):
        return Here(case.name, name, settings.device, settings.tiny)
    # Zennit is among relprop's own development dependencies, and has no pins that clash.
    python = settings.peers if method.package not in {"", "zennit"} else sys.executable
    return Apart(python, case.name, name, settings.device, settings.tiny)


def timed(workers: Mapping[str, Worker], settings: Settings) -> dict[str, Row]:
    """Medians of rounds in which methods take turns. The first round decides how many there are for whom."""
    times: dict[str, list[float]] = {name: [worker.ask("time")["seconds"]] for name, worker in workers.items()}
    rounds = {name: how_many(t[0], len(times), settings) for name, t in times.items()}
    for turn in range(1, max(rounds.values())):
        for name, worker in workers.items():
            if turn < rounds[name]:
                times[name].append(worker.ask("time")["seconds"])
    return {name: {"seconds": statistics.median(t), "rounds": len(t)} for name, t in times.items()}


def how_many(seconds: float, methods: int, settings: Settings) -> int:
    """Rounds of a method whose first one took so long."""
    if seconds > settings.slow:
        return min(2, settings.rounds)
    affordable = int(settings.budget / methods / max(seconds, 1e-9))
    return min(settings.rounds, max(2, affordable))


def _compare(workers: Mapping[str, Worker], rows: dict[str, Row]) -> None:
    """Conservation, and the distance to relprop's result where a method means to be the same."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for i, (name, worker) in enumerate(workers.items()):
            path = Path(folder) / f"{i}.pt"
            rows[name].update(worker.ask("result", str(path)))
            if path.exists():
                found[name] = torch.load(path)
        for name, relevance in found.items():
            reference = found.get((METHODS | PEERS)[name].same_as)
            if reference is not None and reference.shape == relevance.shape:
                rows[name]["difference"] = float((relevance - reference).norm() / reference.norm())


def by_case(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    for case in dict.fromkeys(row["case"] for row in rows):
        yield case, [row for row in rows if row["case"] == case]
