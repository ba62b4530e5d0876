"""How time and memory grow with the context, beside LXT: a table in docs/performance.md.

    python benchmarks/contexts.py --peers .venv-bench/bin/python --write docs/performance.md
    python benchmarks/contexts.py --lengths 1024 --write docs/performance.md  # that row anew, the others as they were
    python benchmarks/contexts.py --tiny

A decoder with the sizes of SmolLM2-135M and random weights, explained at its last position. Each method and length has
two processes of its own: one for time, in which short calls come first, and one for memory. Those for time take turns,
so that all meet the same neighbours on a shared machine; medians count.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from machine import processor
from made import put
from measure import Settings, timed
from memory import peak_above
from methods import METHODS
from networks import Built, smollm2, tiny_smollm2, token_ids
from peers import PEERS
from worker import EXACT_MEMORY, Process, answer_each, ask, versions

CACHE = Path(__file__).parent.parent / "build" / "contexts.json"
OURS, PARTS = "relprop AttnLRP", "relprop AttnLRP, checkpoint"
WHOLE, LAST = "LXT AttnLRP", "LXT AttnLRP, last position by hand"
COLUMNS = {
    OURS: "relprop",
    PARTS: "relprop, `checkpoint=True`",
    LAST: "LXT, last position",
    WHOLE: "LXT, all positions",
}
LENGTHS = {128: (OURS, PARTS, LAST, WHOLE), 512: (OURS, PARTS), 1024: (OURS, PARTS, LAST, WHOLE), 2048: (OURS, PARTS),
           4096: (OURS, PARTS, LAST, WHOLE), 8192: (PARTS,)}  # fmt: skip
ROUNDS = Settings(rounds=9, budget=400.0, slow=200.0)
SHORT, WARM = 16, 16
"""Tokens and number of the calls that capture the program and compare it with the model; none of the next 15 does."""

Found = dict[str, Any]


class Context:
    """One method at one length, as its process answers for it."""

    def __init__(self, method: str, length: int, tiny: bool) -> None:
        self._method, self._length, self._tiny = method, length, tiny
        self._run: Callable[[], Any]

    def answer(self, command: str, path: str) -> Found:
        """Do one of prepare, result, time and peak."""
        found: Found = getattr(self, "_" + command)(path)
        return found

    def _prepare(self, path: str) -> Found:
        case = (tiny_smollm2 if self._tiny else smollm2)(SHORT)("cpu")

        def same() -> Built:
            return case

        self._run = (METHODS | PEERS)[self._method].prepare(same)
        for _ in range(WARM):
            self._run()
        vocabulary = case.model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
        case.x = token_ids(vocabulary, 1, self._length)
        return {}

    def _result(self, path: str) -> Found:
        torch.save(self._run().relevance, path)
        return {}

    def _time(self, path: str) -> Found:
        start = time.perf_counter()
        self._run()
        return {"seconds": time.perf_counter() - start}

    def _peak(self, path: str) -> Found:
        return {"peak": peak_above(self._run).peak}


def start(method: str, length: int, arguments: argparse.Namespace, *, exact_memory: bool = False) -> Process:
    """This file, for one method."""
    python = arguments.peers if method in PEERS else sys.executable
    command = [python, "-W", "ignore", __file__, "--one", method, str(length), *["--tiny"] * arguments.tiny]
    return Process(command, EXACT_MEMORY if exact_memory else {})


def row(length: int, methods: tuple[str, ...], arguments: argparse.Namespace) -> Found:
    """What each method takes at one length, and how far it is from relprop's relevance."""
    found: Found = {method: {} for method in methods}
    relevance: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = {method: start(method, length, arguments) for method in methods}
        for worker in workers.values():
            stack.callback(worker.end)
            worker.send("prepare")
        for method, worker in workers.items():
            path = str(Path(folder) / "relevance.pt")
            found[method] |= worker.receive() or ask(worker, "result", path)
            if "error" not in found[method]:
                relevance[method] = torch.load(path).double().flatten()
                relevance[method] /= relevance[method].norm()  # LXT starts with the logit, relprop with 1
        fit = {method: worker for method, worker in workers.items() if method in relevance}
        for method, times in timed(fit, ROUNDS).items():
            found[method] |= times
    for method in fit:
        if OURS in fit and "error" not in found[OURS] | found[method]:
            found[method]["ratio"] = found[method]["seconds"] / found[OURS]["seconds"]
            found[method]["difference"] = float((relevance[method] - relevance[OURS]).norm())
        found[method] |= memory_of(method, length, arguments)
        print(length, method, found[method], file=sys.stderr, flush=True)
    return found | {"machine": circumstances()}


def memory_of(method: str, length: int, arguments: argparse.Namespace) -> Found:
    """The peak of one call, in a process of its own beside which nothing else runs."""
    worker = start(method, length, arguments, exact_memory=True)
    try:
        return ask(worker, "prepare") or ask(worker, "peak")
    finally:
        worker.end()


def circumstances() -> str:
    known = ", ".join(f"{name} {version}" for name, version in versions().items() if name in ("torch", "transformers"))
    return f"{processor()}, {torch.get_num_threads()} threads, {known}"


def render(rows: dict[str, Found]) -> str:
    """The table, and with what it was measured."""
    lines = ["| tokens | " + " | ".join(COLUMNS.values()) + " |", "|---:|" + "---:|" * len(COLUMNS)]
    for length in sorted(rows, key=int):
        cells = [_cell(rows[length].get(method)) for method in COLUMNS]
        lines.append(f"| {int(length):,} | " + " | ".join(cells) + " |")
    gaps = [v["difference"] for found in rows.values() for m, v in found.items() if m in PEERS and "difference" in v]
    agree = f" LXT's relevance is relprop's, to {max(gaps):.0e} of its norm." if gaps else ""
    machines = "; ".join(sorted({found["machine"] for found in rows.values()}))
    return "\n".join(lines) + f"\n\n{machines}.{agree}"


def _cell(found: Found | None) -> str:
    if found is None:
        return ""
    if "error" in found:
        return str(found["error"])
    ratio = f" ({found['ratio']:.2f})" if found.get("ratio", 1) != 1 else ""
    return f"{found['seconds']:.3g} s{ratio}, {found['peak']:,.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="*", type=int, help="of those in the table; none: only write it")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="of the environment with LXT")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    parser.add_argument("--tiny", action="store_true", help="small sizes, and nothing is kept")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "TOKENS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        method, length = arguments.one
        answer_each(Context(method, int(length), arguments.tiny).answer)
        return
    arguments.peers = str(Path(arguments.peers).absolute())
    keeps = CACHE.exists() and not arguments.tiny
    rows: dict[str, Found] = json.loads(CACHE.read_text()) if keeps else {}
    lengths = arguments.lengths if arguments.lengths is not None else list(LENGTHS)
    for length in lengths[:2] if arguments.tiny else lengths:
        rows[str(length)] = row(length, LENGTHS[length], arguments)
        if not arguments.tiny:
            CACHE.parent.mkdir(exist_ok=True)
            CACHE.write_text(json.dumps(rows, indent=1))
    text = render(rows)
    if arguments.write:
        put(arguments.write, "contexts", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
