"""The benchmark behind docs/benchmarks.md: what explanations cost, and whether libraries agree.

Every method of a case runs in a process of its own. They take turns, round by round: medians, and their ratios to the
plain gradient's, are reported. What was measured is kept, so that a case can be measured anew and the page written
again.

    python benchmarks/bench.py --write docs/benchmarks.md                # everything, then the page
    python benchmarks/bench.py --only "VGG*" --write docs/benchmarks.md  # those cases anew, the rest as it was
    python benchmarks/bench.py --only --write docs/benchmarks.md         # the page alone, from what is kept
    python benchmarks/bench.py --tiny                                    # seconds instead of minutes
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from pathlib import Path
from typing import Any

import page
from cases import CASES
from curves import GROWTH, measure_growth
from floors import floors
from machine import machine
from measure import Settings, measure

CACHE = Path(__file__).parent.parent / "build" / "bench.json"

Results = dict[str, Any]

GPU = ", GPU"
"""What the title of a result has behind its name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the page there, and its picture beside it into images/")
    parser.add_argument("--only", nargs="*", default=["*"], metavar="GLOB", help="of cases and growth curves")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; slow methods get fewer")
    parser.add_argument("--budget", type=float, default=40, help="seconds for the rounds of one case")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="of the other libraries' environment")
    parser.add_argument("--cache", type=Path, help="JSON; build/bench.json, or none for --tiny")
    parser.add_argument("--tiny", action="store_true", help="small networks, one round, as few processes as possible")
    args = parser.parse_args()
    peers = str(
        Path(args.peers).absolute()
    )  # not resolved: what a virtual environment's python links to is another one
    settings = Settings(args.device, args.tiny, 1 if args.tiny else args.rounds, args.budget, peers=peers)
    cache = args.cache or (None if args.tiny else CACHE)
    results = read(cache)
    wanted = {n: job for n, job in jobs(settings).items() if any(fnmatch.fnmatchcase(n, g) for g in args.only)}
    circumstances = machine(settings) if wanted else {}
    for name, job in wanted.items():
        start = time.perf_counter()
        kind, found = job()
        title = name + GPU * settings.on_gpu
        results.setdefault(kind, {})[title] = found | {"machine": circumstances}
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if cache is not None:  # as far as it is measured
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(results, indent=1))
    text = page.render(results, order())
    if args.write is None:
        print(text)
        return
    args.write.parent.mkdir(parents=True, exist_ok=True)
    args.write.write_text(text)
    page.draw_growth(results.get("growth", {}), args.write.parent / "images" / "benchmark_growth.png")


def jobs(settings: Settings) -> dict[str, Any]:
    """Name -> what measures it, and says under which heading the result goes."""

    def case_job(case: Any) -> Any:
        def job() -> tuple[str, Any]:
            rows = measure(case, settings)
            return "cases", {"rows": rows, "floors": floors(case, settings.tiny) if case.has_floor else {}}

        return job

    def growth_job(growth: Any) -> Any:
        return lambda: ("growth", measure_growth(growth, settings))

    return {**{c.name: case_job(c) for c in CASES}, **{g.name: growth_job(g) for g in GROWTH}}


def order() -> list[str]:
    """Of the page, however the results came."""
    return [part.name + suffix for part in (*CASES, *GROWTH) for suffix in ("", GPU)]


def read(cache: Path | None) -> Results:
    """What was measured before."""
    if cache is None or not cache.exists():
        return {}
    found: Results = json.loads(cache.read_text())
    return found


if __name__ == "__main__":
    main()
