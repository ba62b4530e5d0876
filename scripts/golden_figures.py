"""Draw the golden pictures of the tests anew: tests/explanations/golden/*.png. Look at them before they are committed.

python scripts/golden_figures.py           those that differ
python scripts/golden_figures.py --all     all of them

Parts of the report are seen by Chromium, through playwright; without it, they stay as they are.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import golden, golden_report


def main(everything: bool) -> None:
    """Write them, and say of each how much of it has changed."""
    drawn = {name: golden.pixels(make) for name, make in golden.FIGURES.items()}
    with tempfile.TemporaryDirectory() as folder:
        try:
            drawn |= golden_report.shots(Path(folder))
        except pytest.skip.Exception as reason:
            print(f"the report stays as it is: {reason}")
    for name, pixels in drawn.items():
        kept = golden.FOLDER / f"{name}.png"
        share = golden.unlike(pixels, golden.golden(name)) if kept.exists() else 1.0
        if everything or share > golden.LIMIT:
            golden.keep(name, pixels)
        print(f"{name}: {share:.2%} of its pixels differ")


if __name__ == "__main__":
    main("--all" in sys.argv[1:])
