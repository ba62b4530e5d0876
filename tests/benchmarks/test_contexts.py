"""What is measured and computed of long contexts goes into its page."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = "Before.\n\n<!-- made: contexts -->\n\nold\n\n<!-- end -->\n\n<!-- made: needs -->\n<!-- end -->\n\nAfter.\n"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("made")


def test_a_part_of_a_page_is_written_and_nothing_else(made: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    made.put(page, "contexts", "new \\1")
    made.put(page, "needs", "more\n")
    expected = PAGE.replace("old", "new \\1").replace("needs -->\n", "needs -->\n\nmore\n\n")
    assert page.read_text() == expected
    with pytest.raises(SystemExit, match="0 parts 'other'"):
        made.put(page, "other", "text")


def test_the_table_has_a_row_for_each_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    contexts = importlib.import_module("contexts")
    known = {"seconds": 1.234, "peak": 2345.6}
    rows = {
        "1024": {
            contexts.OURS: known,
            contexts.LAST: known | {"difference": 3e-6, "ratio": 0.984},
            "machine": "M, 1 threads",
        },
        "128": {contexts.OURS: {"error": "MemoryError"}, "machine": "M, 1 threads"},
    }
    lines = contexts.render(rows).splitlines()
    assert lines[2] == "| 128 | MemoryError |  |  |  |"
    assert lines[3] == "| 1,024 | 1.23 s, 2,346 MiB |  | 1.23 s (0.98), 2,346 MiB |  |"
    assert lines[-1] == "M, 1 threads. LXT's relevance is relprop's, to 3e-06 of its norm."


@pytest.mark.slow
@pytest.mark.parametrize("script", ["contexts", "needs"])
def test_the_commands_write_their_tables(script: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / f"{script}.py"), "--tiny", "--write", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert len(rows) == {"contexts": 4, "needs": 10}[script]
    if script == "needs":
        cells = [[cell.strip() for cell in row.split("|")] for row in rows[2:6]]
        assert all(float(cell[5]) >= 0 and float(cell[6]) >= 0 for cell in cells)
    else:
        assert all(row.count(" MiB") == 2 for row in rows[2:])
