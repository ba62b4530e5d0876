"""The documentation is executed.

Every ```pycon block of a page runs as a doctest, in order and in one namespace. Every ```console block runs its
`$ relprop ...` lines through the command line and compares what they print; where the page shows no output, the command
needs pictures or a download, and only its arguments are read. A ```python block is a file: its first line says which,
and the console blocks read it. Other code is not allowed: nobody would notice when it stops working.

`<!-- needs MODULE -->` in a page skips its code where that module is not installed.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from support import torchvision_shim
from support.pages import DOCS, ROOT, Checker, blocks_of, run_doctest, run_page
from torch import nn
from torch.nn import functional as F

import relprop
from relprop import LRP
from relprop.engine.ops import registry, units
from relprop.errors import RuleError

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MODULES = ["relprop", *(found.name for found in pkgutil.walk_packages(relprop.__path__, "relprop."))]
MODULES = [name for name in MODULES if not name.endswith("__main__")]  # importing it would run it
LANGUAGES = {"pycon", "console", "python", "text"}
WITH_CODE = {
    "README.md", "index.md", "tutorial.md", "rules.md", "composites.md", "extending.md", "accounting.md", "deploy.md",
    "other-analyzers.md", "coming-from-zennit.md", "coming-from-captum.md",
}  # fmt: skip

in_order = {"ids": lambda value: value.relative_to(ROOT).as_posix() if isinstance(value, Path) else None}


@pytest.fixture(autouse=True)
def clean_slate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to write to, fixed seeds, and registrations that are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    monkeypatch.setattr(units, "_REGISTERED", dict(units._REGISTERED))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# ------------------------------------------------------------------------------------------------ code that runs


@pytest.mark.parametrize("page", PAGES, **in_order)
def test_the_code_of_a_page_runs(page: Path):
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"<!-- needs (\w+) -->", text):
        if module in {"torchvision", "transformers", "zennit"}:  # they import torchvision
            torchvision_shim.install()
        pytest.importorskip(module)
    run_page(text, page.name)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_run(module: str):
    for test in doctest.DocTestFinder().find(importlib.import_module(module)):
        run_doctest(test)


def test_there_are_examples_in_the_docstrings():
    tests = [t for m in MODULES for t in doctest.DocTestFinder().find(importlib.import_module(m)) if t.examples]
    assert {"relprop.analyzers.lrp.LRP", "relprop.rules.base.AffineRule", "relprop.composites.composite.Composite"} <= {
        test.name for test in tests
    }


@pytest.mark.parametrize("page", PAGES, **in_order)
def test_a_page_has_no_code_that_does_not_run(page: Path):
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    assert {block.language for block in blocks} <= LANGUAGES, "use pycon, console, python (a file) or text"
    for block in blocks:
        if block.language == "pycon":
            assert block.lines[0].startswith(">>> ")
        if block.language == "console":
            assert block.lines[0].startswith("$ ")
        if block.language == "python":
            assert re.fullmatch(r"# file: \S+\.py", block.lines[0])
    if page.name in WITH_CODE and page.parent in {ROOT, DOCS}:
        assert "pycon" in {block.language for block in blocks}, "a page without any code?"


# --------------------------------------------------------------------------------------------- the command line


@dataclass(frozen=True)
class Command:
    """A line behind a `$`, and what the page says that it prints."""

    page: Path
    line: str
    output: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.line}"


def commands_of(page: Path) -> list[Command]:
    commands = []
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.language == "console":
            for part in "\n".join(block.lines).split("$ ")[1:]:
                line, _, output = part.partition("\n")
                commands.append(Command(page, line, output))
    return commands


COMMANDS = [command for page in PAGES for command in commands_of(page)]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.line.startswith("relprop ")], ids=str)
def test_a_relprop_command_does_what_the_page_says(command: Command, monkeypatch: pytest.MonkeyPatch):
    testing = pytest.importorskip("typer.testing")
    from relprop.cli.app import app

    monkeypatch.setenv("COLUMNS", "1000")  # nothing is wrapped
    monkeypatch.setenv("NO_COLOR", "1")
    for block in blocks_of(command.page.read_text(encoding="utf-8")):
        if block.language == "python":
            name = block.lines[0].removeprefix("# file: ")
            Path(name).write_text("\n".join(block.lines) + "\n", encoding="utf-8")
    arguments = shlex.split(command.line)[1:]
    if not command.output.strip():
        from typer.main import get_command

        get_command(app).commands[arguments[0]].make_context(arguments[0], arguments[1:])  # type: ignore[attr-defined]
        return
    result = testing.CliRunner().invoke(app, arguments)
    wanted, said = command.output.rstrip() + "\n", result.output.rstrip() + "\n"
    assert result.exit_code == (2 if wanted.startswith("error: ") else 0), said or result.exception
    if not Checker().check_output(wanted, said, doctest.ELLIPSIS):
        pytest.fail(f"the page says\n{wanted}\nthe command says\n{said}", pytrace=False)


def test_other_commands_exist():
    """`make` targets are in the Makefile, extras in pyproject.toml; nothing else is run."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for command in COMMANDS:
        words = shlex.split(command.line)
        assert words[0] in {"relprop", "make", "pip"}, command
        if words[0] == "make":
            assert words[1] in targets, command
    for page in PAGES:
        for extra in re.findall(r"(?:relprop|\.)\[(\w+)\]", page.read_text(encoding="utf-8")):
            assert f"\n{extra} = [" in project, f"{page.name} names the extra {extra}"


def test_the_page_on_the_command_line_has_every_option_and_composite():
    pytest.importorskip("typer")
    from typer.main import get_command

    from relprop.cli.app import app
    from relprop.composites.names import composite_names

    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"relprop {name}" in page
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert f"`{option}" in page, f"{name} has the option {option}"
    for composite in composite_names("pictures") + composite_names("text"):
        assert f"`{composite}`" in page


# --------------------------------------------------------------------------------------------- links and names


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links_of(page: Path) -> list[str]:
    text = without_code(page.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@cache
def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, **in_order)
def test_links_and_images_lead_somewhere(page: Path):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} points to {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name} points to {link}"


def test_the_site_has_every_page():
    """mkdocs' navigation names each page once."""
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES if DOCS in page.parents)


def test_every_public_name_is_documented():
    def named(names: Sequence[str], *pages: str) -> None:
        text = "".join((DOCS / page).read_text(encoding="utf-8") for page in pages)
        missing = [name for name in names if not re.search(rf"\b{name}\b", text)]
        assert not missing, f"{', '.join(pages)} do not name {missing}"

    named(relprop.rules.__all__, "rules.md", "extending.md")
    named(relprop.composites.__all__, "composites.md")
    named(relprop.__all__, *(page.name for page in PAGES if page.parent == DOCS))


def test_every_paper_that_is_cited_is_in_the_bibliography():
    bibliography = (DOCS / "bibliography.md").read_text(encoding="utf-8")
    cited: set[tuple[str, str]] = set()
    for file in [*PAGES, *(ROOT / "src").rglob("*.py")]:
        text = re.sub(r"\s+", " ", file.read_text(encoding="utf-8"))
        for author, years in re.findall(r"([A-ZÀ-Ý][\w-]+) et al\.,? \(?((?:\d{4}(?:, )?)+)", text):
            cited |= {(author, year) for year in re.findall(r"\d{4}", years)}
    assert ("Bach", "2015") in cited
    entries = [" ".join(entry.split()) for entry in bibliography.split("\n- ")[1:]]
    for author, year in sorted(cited):
        found = [entry for entry in entries if entry.startswith(f"{author}, ") and f"({year})" in entry]
        assert found, f"{author} et al. {year} is not in docs/bibliography.md"


def test_the_page_of_operators_is_up_to_date():
    """In a process of its own, so that nobody's registrations are in the table."""
    script = [sys.executable, str(ROOT / "scripts" / "docs_operators.py"), "--check"]
    checked = subprocess.run(script, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# ------------------------------------------------------------------------------ the table in rules.md, cell by cell


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# For each column of the table: layers with the shape of one sample. "same shape" means: the first, and not the second.
COLUMNS: dict[str, list[tuple[nn.Module, tuple[int, ...]]]] = {
    "linear, conv, scale": [
        (nn.Linear(4, 4), (4,)),
        (nn.Linear(4, 3), (4,)),
        (nn.Conv2d(2, 2, 3, padding=1), (2, 4, 4)),
        (nn.BatchNorm2d(2), (2, 4, 4)),
    ],
    "average, sum over entries": [(nn.AvgPool2d(3, 1, 1), (2, 4, 4)), (nn.AvgPool2d(2), (2, 4, 4))],
    "bilinear": [(nn.Upsample((4, 4), mode="bilinear"), (2, 4, 4)), (nn.Upsample((8, 8), mode="bilinear"), (2, 4, 4))],
    "bicubic": [(nn.Upsample((4, 4), mode="bicubic"), (2, 4, 4)), (nn.Upsample((8, 8), mode="bicubic"), (2, 4, 4))],
    "sum of operands": [(Calls(lambda x: x + x.flip(1)), (4,))],
    "product": [(Calls(lambda x: x * x.flip(1)), (4,))],
    "softmax": [(Calls(lambda x: x.softmax(1).flip(1)), (4,))],
    "attention": [(Calls(lambda x: F.scaled_dot_product_attention(x, x.flip(1), x.roll(1, 1))), (3, 4))],
    "max pool": [(nn.MaxPool2d(2), (2, 4, 4)), (nn.AdaptiveMaxPool2d(1), (2, 4, 4))],
    "normalization": [(nn.LayerNorm(4), (4,)), (nn.GroupNorm(1, 4), (4, 2))],
    "activation": [(nn.ReLU(), (4,)), (nn.GELU(), (4,)), (nn.Dropout(), (4,))],
    "movement": [(nn.Flatten(), (2, 2)), (Calls(lambda x: F.pad(x, (1, 1))), (4,))],
}


def table_of(page: Path, corner: str) -> dict[tuple[str, str], str]:
    """The Markdown table with that upper left cell: (row, column) -> cell."""
    rows = [line for line in page.read_text(encoding="utf-8").split("\n") if line.startswith("|")]
    start = next(i for i, line in enumerate(rows) if line.startswith(f"| {corner} |"))
    cells = [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[start:]]
    end = next((i for i, row in enumerate(cells) if len(row) != len(cells[0])), len(cells))
    return {(row[0], column): row[i + 1] for row in cells[2:end] for i, column in enumerate(cells[0][1:])}


def serves(rule: relprop.rules.Rule, module: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        LRP(nn.Sequential(module).eval(), rule, example_inputs=(torch.rand(2, *shape),), canonize=False)
    except RuleError as error:
        if type(rule).__name__ not in str(error):
            raise
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_which_rule_serves_which_layer_is_as_the_page_says(column: str):
    table = table_of(DOCS / "rules.md", "rule")
    assert {name for _, name in table} == set(COLUMNS)
    rules = {type(r).__name__: r for r in (getattr(relprop.rules, name)() for name, _ in table)}
    expected_rules = {n for n in relprop.rules.__all__ if n.endswith("Rule")} - {"Rule", "AffineRule", "FunctionRule"}
    assert set(rules) == expected_rules
    for name, rule in rules.items():
        cell = table[name, column]
        for i, (module, shape) in enumerate(COLUMNS[column]):
            expected = cell != "-" and (
                cell != "same shape" or tuple(module.eval()(torch.rand(2, *shape))[0].shape) == shape
            )
            assert serves(rule, module, shape) == expected, f"{name} on {module}: the page says {cell!r} ({i})"
