"""The benchmark behind docs/benchmarks.md: time and memory of an explanation, next to a plain gradient.

All methods of a case are timed in turn, round by round, in one process; medians and ratios of medians are reported.
Memory is measured apart, each method in a process of its own: the peak above what model and input take.

    python benchmarks/bench.py                     # print the table
    python benchmarks/bench.py --write docs/benchmarks.md
    python benchmarks/bench.py --tiny              # seconds instead of minutes, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from memory import peak_above
from methods import METHODS, Case

FULL = (Case("vgg16", 1), Case("vgg16", 4), Case("resnet50", 8))
TINY = (Case("resnet18", 2, 32),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the page there")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each case")
    parser.add_argument("--tiny", action="store_true", help="small models and inputs, one round")
    parser.add_argument("--memory-of", nargs=4, metavar=("MODEL", "BATCH", "SIZE", "METHOD"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        model, batch, size, method = args.memory_of
        print(json.dumps(memory_of(Case(model, int(batch), int(size)), method)))
        return
    rows: list[dict[str, object]] = []
    for case in TINY if args.tiny else FULL:
        rows += measure(case, 1 if args.tiny else args.rounds)
        print(f"{case.name}: done", file=sys.stderr)
        if args.write:  # as far as it is measured
            args.write.write_text(render(rows, 1 if args.tiny else args.rounds))
    page = render(rows, 1 if args.tiny else args.rounds)
    print(page)
    if args.write:
        args.write.write_text(page)


def measure(case: Case, rounds: int) -> list[dict[str, object]]:
    """Medians of interleaved rounds, and each method's memory."""
    model, x = case.build()
    runs = {name: prepare(model, x) for name, prepare in METHODS.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(t) for name, t in times.items()}
    base = medians["plain gradient"]
    return [
        {
            "case": case.name,
            "method": name,
            "seconds": medians[name],
            "ratio": medians[name] / base,
            "zennit": medians[name.replace("relprop", "Zennit")] / medians[name]
            if name.startswith("relprop")
            else None,
            **in_own_process(case, name),
        }
        for name in runs
    ]


def in_own_process(case: Case, method: str) -> dict[str, float]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        "--memory-of",
        case.model,
        str(case.batch),
        str(case.size),
        method,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def memory_of(case: Case, method: str) -> dict[str, float]:
    """MiB: the peak of one call above what was there, and what the first call leaves behind (modified weights)."""
    model, x = case.build()
    run = METHODS[method](model, x)
    first = peak_above(lambda: run())
    again = peak_above(lambda: run())
    return {"peak": again.peak, "kept": max(first.kept, 0.0)}


def render(rows: list[dict[str, object]], rounds: int) -> str:
    """The page, in Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Time and memory of one explanation of the largest logits, next to one plain gradient of the model.",
        "Written by `make bench`: do not edit.",
        "",
        f"CPU, float32, {torch.get_num_threads()} threads ({platform.machine()}), {rounds} rounds in turn, medians; "
        f"torch {torch.__version__}, torchvision {version('torchvision')}, Zennit {version('zennit')}, "
        f"relprop {version('relprop')}. Random weights.",
        "*Ratio* is to the plain gradient. *Peak* is what a call takes above model, input, kept weights; "
        "*kept* is what stays after the first call: for relprop, the weights that rules have modified.",
        "",
        "| case | method | seconds | ratio | times as fast as Zennit | peak, MiB | kept, MiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        faster = f"{r['zennit']:.1f}" if r["zennit"] else ""
        lines.append(
            f"| {r['case']} | {r['method']} | {r['seconds']:.3f} | {r['ratio']:.2f} | {faster} "
            f"| {r['peak']:.0f} | {r['kept']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
