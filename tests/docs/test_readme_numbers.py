"""The numbers that the README states about the demo are those that its command gives."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from docs_demo import explain, paragraph  # noqa: E402

from relprop.models.demo import measured  # noqa: E402


def test_readme_says_what_the_demo_gives(tmp_path: Path) -> None:
    said = paragraph(explain(tmp_path), measured())
    assert said in (ROOT / "README.md").read_text(), "run scripts/docs_demo.py"


def test_the_paragraph_follows_the_numbers(tmp_path: Path) -> None:
    summary = {"pictures": [{"artefact": {"positive_relevance": 0.5, "area": 0.04}}, {}]}
    stated = dict(measured(), test_accuracy=0.5)
    said = paragraph(summary, stated)
    assert "right 50.00% of the time" in said
    assert "In the 1 samples" in said
    assert "covers 4.0% of the picture and holds 50% to 50%" in said
