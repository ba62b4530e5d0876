"""How time and memory grow with the context, beside LXT: a table in docs/performance.md.

    python benchmarks/contexts.py --peers .venv-bench/bin/python --write docs/performance.md
    python benchmarks/contexts.py --lengths 1024 --write docs/performance.md  # that row anew, the others as they were
    python benchmarks/contexts.py --tiny

A decoder with the sizes of SmolLM2-135M and random weights, explained at its last position. Each method and length has
a process of its own, one for time, in which short calls come first and the least of two counts, and one for memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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
SHORT, WARM = 16, 4
"""Tokens and number of the calls that capture the program and compare it with the model."""

Found = dict[str, Any]


def one(method: str, length: int, kind: str, tiny: bool, path: str) -> Found:
    """Seconds or MiB of one call, in this process; its relevance goes into a file."""
    case = (tiny_smollm2 if tiny else smollm2)(SHORT)("cpu")

    def same() -> Built:
        return case

    run = (METHODS | PEERS)[method].prepare(same)
    for _ in range(WARM):
        run()
    vocabulary = case.model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    case.x = token_ids(vocabulary, 1, length)
    if kind == "memory":
        return {"peak": peak_above(run).peak}
    times, relevance = [], None
    for _ in range(2):
        start = time.perf_counter()
        relevance = run().relevance
        times.append(time.perf_counter() - start)
    torch.save(relevance, path)
    return {"seconds": min(times)}


def apart(method: str, length: int, kind: str, path: str, arguments: argparse.Namespace) -> Found:
    """The same in a process of its own."""
    python = arguments.peers if method in PEERS else sys.executable
    command = [python, "-W", "ignore", __file__, "--one", method, str(length), kind, path]
    environment = os.environ | (EXACT_MEMORY if kind == "memory" else {})
    done = subprocess.run(
        [*command, *(["--tiny"] if arguments.tiny else [])], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:100]}
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def row(length: int, methods: tuple[str, ...], arguments: argparse.Namespace) -> Found:
    """What each method takes at one length, and how far it is from relprop's relevance."""
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        kept: dict[str, torch.Tensor] = {}
        for method in methods:
            path = str(Path(folder) / "relevance.pt")
            found[method] = apart(method, length, "time", path, arguments)
            if "error" not in found[method]:
                kept[method] = torch.load(path).double().flatten()
                kept[method] /= kept[method].norm()  # LXT starts with the logit, relprop with 1
                found[method] |= apart(method, length, "memory", path, arguments)
            if OURS in kept and method in kept:
                found[method]["difference"] = float((kept[method] - kept[OURS]).norm())
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
    return found.get("error") or f"{found['seconds']:.3g} s, {found['peak']:,.0f} MiB"


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
        print(json.dumps(one(method, int(length), kind, arguments.tiny, path)))
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
