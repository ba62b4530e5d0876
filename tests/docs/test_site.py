"""The site builds: every page is in it, every link leads somewhere, every docstring of the API reference is read."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import relprop

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "api"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning of mkdocs, of mkdocstrings or of a docstring's parser is an error."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def entries(page: Path) -> set[str]:
    """What a built page of the reference has a heading for."""
    return {
        html.unescape(name) for name in re.findall(r'<h\d id="(relprop\.[\w.]+)"', page.read_text(encoding="utf-8"))
    }


def test_every_public_name_has_an_entry(site: Path):
    found = {name.rpartition(".")[2] for page in (site / "api").glob("*.html") for name in entries(page)}
    modules = {"composites", "errors", "figures", "heatmaps", "rewrites", "rules", "targets", "text"}
    for names in (relprop.__all__, relprop.rules.__all__, relprop.composites.__all__, relprop.targets.__all__):
        assert set(names) - modules <= found, set(names) - modules - found
    assert modules <= found


def test_the_reference_names_pages_that_are_there():
    index = (API / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+)\.md\)", index)) == {page.stem for page in API.glob("*.md")} - {"index"}
