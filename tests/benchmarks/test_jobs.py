"""The script that measures jobs runs, tiny, and writes its part of a page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("pyarrow")


@pytest.mark.slow
def test_the_page_is_made(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made: throughput -->\nold\n<!-- end -->\nbehind\n")
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "jobs.py"), "--write", str(page)]
    done = subprocess.run([*command, "--samples", "32", "32", "--rounds", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n<!-- made: throughput -->\n`python benchmarks/jobs.py")
    assert text.endswith("<!-- end -->\nbehind\n")
    assert re.search(
        r"\| ResNet-50, 224 by 224 \| [\d.]+ ms \| [\d.]+ ms \| [\d.]+ ms \| \d\.\d\d \| \d\.\d\d \| \d+ kB \|", text
    )
