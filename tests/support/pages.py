"""The pages of the documentation: their blocks of code, and how these run as doctests."""

from __future__ import annotations

import doctest
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, the number of its first line (from 0), and its lines."""

    language: str
    start: int
    lines: tuple[str, ...]


def blocks_of(text: str) -> list[Block]:
    """All fenced blocks, in order."""
    blocks, language, start = [], None, 0
    lines = text.split("\n")
    for number, line in enumerate(lines):
        fence = re.match(r"```(\S*)", line.strip())
        if fence and language is None:
            language, start = fence[1], number + 1
        elif fence:
            blocks.append(Block(str(language), start, tuple(lines[start:number])))
            language = None
    assert language is None, f"the block that starts in line {start} has no end"
    return blocks


def only(blocks: Sequence[Block], language: str) -> str:
    """The blocks of one language, each line where it is in the page, and nothing else."""
    lines: list[str] = []
    for block in blocks:
        if block.language == language:
            lines += [""] * (block.start - len(lines))
            lines += textwrap.dedent("\n".join(block.lines)).split("\n")
    return "\n".join(lines) + "\n"


class Checker(doctest.OutputChecker):
    """Spaces at the end of a line do not count: tables have them, pages do not."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(_trimmed(want), _trimmed(got), optionflags)

    def output_difference(self, example: doctest.Example, got: str, optionflags: int) -> str:
        return super().output_difference(example, _trimmed(got), optionflags)


def _trimmed(text: str) -> str:
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def run_doctest(test: doctest.DocTest, flags: int = 0) -> doctest.TestResults:
    """Run one doctest and fail with doctest's own report."""
    report: list[str] = []
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=flags | doctest.REPORT_NDIFF)
    results = runner.run(test, out=report.append, clear_globs=False)
    if results.failed:
        pytest.fail("".join(report), pytrace=False)
    return results


def run_page(text: str, name: str) -> dict[str, object]:
    """Run the pycon blocks of a page; what they defined."""
    globs: dict[str, object] = {"__name__": "page"}
    source = only(blocks_of(text), "pycon")
    test = doctest.DocTestParser().get_doctest(source, globs, name, name, 0)
    run_doctest(test, doctest.ELLIPSIS)
    return test.globs
