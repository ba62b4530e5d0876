"""The figures of docs/training.md, measured anew by examples/ignore_watermark.py."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"<!-- training numbers -->.*?<!-- end -->", re.DOTALL)


def table(found: dict[str, dict[str, float]]) -> str:
    """What the page shows."""
    rows = [f"| {name} | {value:.1%} | {found['after'][name]:.1%} |" for name, value in found["before"].items()]
    return "\n".join(["| accuracy, and share of relevance | before | after |", "|---|---:|---:|", *rows])


def main() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "ignore_watermark.py")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed[printed.index("{") :])
    page = ROOT / "docs" / "training.md"
    text = f"<!-- training numbers -->\n{table(found)}\n<!-- end -->"
    page.write_text(MARKED.sub(lambda _: text, page.read_text()))


if __name__ == "__main__":
    main()
