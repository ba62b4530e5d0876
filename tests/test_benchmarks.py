"""The benchmark runs, tiny, and writes the page that it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "benchmarks" / "bench.py"


def test_benchmark_runs_once(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    subprocess.run(
        [sys.executable, "-W", "ignore", str(BENCH), "--tiny", "--write", str(page)], check=True, capture_output=True
    )
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ") and "plain gradient" in line]
    assert len(rows) == 1
    assert rows[0].split("|")[4].strip() == "1.00"  # the plain gradient's ratio to itself
    methods = {line.split("|")[2].strip() for line in page.read_text().splitlines() if line.startswith("| resnet18")}
    assert methods == {"plain gradient"} | {
        f"{who} {composite}"
        for who in ("relprop", "Zennit")
        for composite in ("EpsilonPlusFlat", "EpsilonGammaBox", "EpsilonAlpha2Beta1Flat")
    }
