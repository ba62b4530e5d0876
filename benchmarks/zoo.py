"""The zoo behind docs/zoo.md: does relprop capture, explain and balance the books of every architecture?

Each model runs in a process that is ended when its time is up, so that one bad model does not stop the page. Results
are appended to a file of JSON lines as they come; the next run goes on from there.

    python benchmarks/zoo.py --write docs/zoo.md           # all that is not in the cache yet, then the page
    python benchmarks/zoo.py --only "timm/*vit*" --fresh   # some of them, anew
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CACHE = Path(__file__).parent.parent / "build" / "zoo.jsonl"

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the page there")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="of LIBRARY/NAME")
    parser.add_argument("--fresh", action="store_true", help="measure anew what is in the cache")
    parser.add_argument("--limit", type=float, default=180, help="seconds for one model")
    parser.add_argument("--workers", type=int, default=1, help="models measured at the same time")
    parser.add_argument("--cache", type=Path, default=CACHE, help="JSON lines")
    args = parser.parse_args()
    from zoo_models import zoo

    names = [f"{e.library}/{e.name}" for e in zoo()]
    done = read_cache(args.cache)
    wanted = [
        n for n in names if any(fnmatch.fnmatchcase(n, glob) for glob in args.only) and (args.fresh or n not in done)
    ]
    args.cache.parent.mkdir(parents=True, exist_ok=True)
    with args.cache.open("a") as cache:
        for row in measured(wanted, args.limit, args.workers):
            cache.write(json.dumps(row) + "\n")
            cache.flush()
            print(summary(row), flush=True)
    if args.write:
        from zoo_page import render

        done = read_cache(args.cache)
        missing = [n for n in names if n not in done]
        args.write.write_text(render([done[n] for n in names if n in done], missing))


def read_cache(path: Path) -> dict[str, Row]:
    """Name -> its latest row."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {f"{r['library']}/{r['name']}": r for r in rows}


def measured(names: list[str], limit: float, workers: int) -> Iterator[Row]:
    """Rows as they come."""
    with ThreadPoolExecutor(workers) as pool:
        shares = [names[i::workers] for i in range(workers)]
        queue: multiprocessing.queues.Queue[Row | None] = multiprocessing.Queue()
        for share in shares:
            pool.submit(_measure_all, share, limit, queue)
        running = len(shares)
        while running:
            row = queue.get()
            if row is None:
                running -= 1
            else:
                yield row


def _measure_all(names: list[str], limit: float, queue: Any) -> None:
    worker: Worker | None = None
    for name in names:
        worker = worker or Worker()
        row = worker.measure(name, limit)
        if row is None:
            worker.end()
            library, _, model = name.partition("/")
            row = {"library": library, "name": model, "captured": False, "error": f"ended after {limit:.0f} s"}
            worker = None
        queue.put(row)
    if worker is not None:
        worker.end()
    queue.put(None)


class Worker:
    """A process that measures models on demand."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()

    def measure(self, name: str, limit: float) -> Row | None:
        """The model's row, None if it took too long or the process ended."""
        try:
            self._ours.send(name)
            return self._ours.recv() if self._ours.poll(limit) else None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return None

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def serve(pipe: Connection) -> None:
    import torch
    from zoo_measure import measure
    from zoo_models import zoo

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries print what nobody asked for
    torch.set_num_threads(1)
    entries = {f"{e.library}/{e.name}": e for e in zoo()}
    while True:
        pipe.send(measure(entries[pipe.recv()]))


def summary(row: Row) -> str:
    said = {k: v for k, v in row.items() if k not in {"library", "name"}}
    return f"{row['library']}/{row['name']}: {json.dumps(said)[:400]}"


if __name__ == "__main__":
    main()
