"""How time and memory grow with the context, beside LXT: a table in docs/performance.md.

    python benchmarks/contexts.py --peers .venv-bench/bin/python --write docs/performance.md
    python benchmarks/contexts.py --lengths 1024 --write docs/performance.md  # that row anew, the others as they were
    python benchmarks/contexts.py --tiny

A decoder with the sizes of SmolLM2-135M and random weights, explained at its last position. Each method and length has
two processes of its own: one for time, in which short calls come first, and one for memory. Those for time take turns,
so that all meet the same neighbours on a shared machine; medians are told, and the median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
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
from memory import peak_above
from methods import METHODS
from networks import Built, smollm2, tiny_smollm2, token_ids
from peers import PEERS
from worker import EXACT_MEMORY, versions

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
           4096: (OURS, PARTS, LAST), 8192: (PARTS,)}  # fmt: skip
TURNS = {128: 11, 512: 7, 1024: 5}
FEWEST = 3
SHORT, WARM = 16, 16
"""Tokens and number of the calls that capture the program and compare it with the model; none of the next 15 does."""

Found = dict[str, Any]


def prepared(method: str, length: int, tiny: bool) -> Callable[[], Any]:
    """A call of a method, which has been called before with fewer tokens."""
    case = (tiny_smollm2 if tiny else smollm2)(SHORT)("cpu")

    def same() -> Built:
        return case

    run = (METHODS | PEERS)[method].prepare(same)
    for _ in range(WARM):
        run()
    vocabulary = case.model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    case.x = token_ids(vocabulary, 1, length)
    return run


def peak(run: Callable[[], Any]) -> None:
    """Say what one call takes in MiB."""
    print(json.dumps({"peak": peak_above(run).peak}))


def serve(run: Callable[[], Any], path: str) -> None:
    """Say the seconds of a call for each line that comes; relevance goes into a file."""
    torch.save(run().relevance, path)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


class Served:
    """A method in a process of its own that times a call when it is asked to."""

    def __init__(self, method: str, length: int, path: str, arguments: argparse.Namespace) -> None:
        self._errors = Path(path + ".errors")
        asked, pipe = command(method, length, "time", path, arguments), subprocess.PIPE
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(asked, stdin=pipe, stdout=pipe, stderr=errors, text=True)
        self.times: list[float] = []

    def answer(self) -> Found:
        """What it says next, or its error."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: Found = json.loads(line) if line else {"error": _last_line(self._errors.read_text())}
        return found

    def turn(self) -> None:
        """One call more."""
        print(file=self._process.stdin, flush=True)
        self.times.append(self.answer()["seconds"])

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def command(method: str, length: int, kind: str, path: str, arguments: argparse.Namespace) -> list[str]:
    """This file, for one method."""
    python = arguments.peers if method in PEERS else sys.executable
    tiny = ["--tiny"] if arguments.tiny else []
    return [python, "-W", "ignore", __file__, "--one", method, str(length), kind, path, *tiny]


def memory_of(method: str, length: int, arguments: argparse.Namespace) -> Found:
    """The peak of one call, in a process in which nothing else happens."""
    asked = command(method, length, "memory", "", arguments)
    done = subprocess.run(asked, capture_output=True, text=True, env=os.environ | EXACT_MEMORY)
    if done.returncode:
        return {"error": _last_line(done.stderr)}
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def _last_line(errors: str) -> str:
    return errors.strip().splitlines()[-1][:100]


def row(length: int, methods: tuple[str, ...], arguments: argparse.Namespace) -> Found:
    """What each method takes at one length, and how far it is from relprop's relevance."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = {method: str(Path(folder) / f"{number}.pt") for number, method in enumerate(methods)}
        started = {method: Served(method, length, path, arguments) for method, path in paths.items()}
        for served in started.values():
            stack.callback(served.end)
        found: Found = {method: served.answer() for method, served in started.items()}
        fit = {method: served for method, served in started.items() if "error" not in found[method]}
        for _ in range(TURNS.get(length, FEWEST)):
            for served in fit.values():
                served.turn()
        relevance = {method: torch.load(paths[method]).double().flatten() for method in fit}
    for method, served in fit.items():
        found[method] = {"seconds": statistics.median(served.times)}
        if OURS in fit:
            ratios = [own / other for own, other in zip(served.times, fit[OURS].times, strict=True)]
            directions = [r / r.norm() for r in (relevance[method], relevance[OURS])]  # LXT starts with the logit
            found[method] |= {"ratio": statistics.median(ratios), "difference": float(torch.dist(*directions))}
    for method in fit:
        found[method] |= memory_of(method, length, arguments)
        print(length, method, found[method], file=sys.stderr, flush=True)
    return found | {"machine": circumstances()}


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
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "TOKENS", "KIND", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        method, length, kind, path = arguments.one
        run = prepared(method, int(length), arguments.tiny)
        peak(run) if kind == "memory" else serve(run, path)
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
