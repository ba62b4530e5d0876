"""The demo in the README, made anew: docs/images/demo.png, and the paragraph of numbers between the markers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from relprop.models.demo import measured

ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"<!-- demo numbers -->.*?<!-- end -->", re.DOTALL)


def explain(out: Path) -> dict[str, object]:
    """Run the demo's command and read its summary."""
    command = [sys.executable, "-m", "relprop.cli", "explain", "--model", "demo", "--out", str(out), "--quiet"]
    subprocess.run(command, check=True)
    summary: dict[str, object] = json.loads((out / "summary.json").read_text())
    return summary


def paragraph(summary: dict[str, object], stated: dict[str, float]) -> str:
    """What the README says, from measured numbers alone."""
    marks = [p["artefact"] for p in summary["pictures"] if "artefact" in p]  # type: ignore[attr-defined]
    shares = [mark["positive_relevance"] for mark in marks]
    area = sum(mark["area"] for mark in marks) / len(marks)
    return (
        f"On {stated['test_pictures']} new pictures it is right {stated['test_accuracy']:.2%} of the time. Of stars it "
        f"recognises {stated['clever_hans_accuracy_with_watermark']:.0%} with their watermark and "
        f"{stated['clever_hans_accuracy_without_watermark']:.0%} without; pasted into pictures of other classes, the "
        f"watermark turns {stated['flipped_by_watermark']:.0%} of them into stars. In the {len(marks)} samples that "
        f"carry it, the watermark covers {area:.1%} of the picture and holds {min(shares):.0%} to {max(shares):.0%} of "
        f"the positive relevance (EpsilonGammaFlat)."
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        summary = explain(Path(folder))
        picture = Image.open(Path(folder) / "overview.png").convert("RGB")
        picture.quantize(128).save(ROOT / "docs" / "images" / "demo.png", optimize=True)
    readme = ROOT / "README.md"
    text = f"<!-- demo numbers -->\n{paragraph(summary, measured())}\n<!-- end -->"
    readme.write_text(MARKED.sub(lambda _: text, readme.read_text()))


if __name__ == "__main__":
    main()
