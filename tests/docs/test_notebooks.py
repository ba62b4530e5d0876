"""The notebooks are the pages: the same code and text, executed, with figures, and without errors of their own."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_notebooks", ROOT / "scripts" / "docs_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_notebooks"] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def test_each_page_has_its_notebook_and_no_other_has() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SCRIPT.PAGES)


@pytest.mark.parametrize("name", SCRIPT.PAGES)
def test_a_notebook_has_the_cells_of_its_page(name: str) -> None:
    found = SCRIPT.sources(NOTEBOOKS / f"{name}.ipynb")
    wanted = SCRIPT._sources(SCRIPT.cells_of(ROOT / "docs" / f"{name}.md"))
    assert found == wanted, f"run python scripts/docs_notebooks.py {name}"


@pytest.mark.parametrize("name", SCRIPT.PAGES)
def test_a_notebook_is_one_and_was_executed(name: str) -> None:
    whole = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text("utf-8"))
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in whole["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[\w-]{1,64}", cell_id) for cell_id in ids)
    code = [cell for cell in whole["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        assert bool(errors) == ("raises-exception" in cell["metadata"].get("tags", []))
    for cell in whole["cells"]:
        for link in re.findall(r"\]\(([^)\s#]+)", cell["source"] if cell["cell_type"] == "markdown" else ""):
            assert re.match("https?:", link) or (NOTEBOOKS / link).exists(), link


def test_figures_stand_below_the_cells_that_make_them() -> None:
    from PIL import Image

    whole = json.loads((NOTEBOOKS / "signals.ipynb").read_text("utf-8"))
    (cell,) = (cell for cell in whole["cells"] if "figure = expl.plot(" in cell["source"])
    (data,) = (output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {}))
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.width > 500


def test_cells_run_and_show_what_they_end_with(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\nText with a [link](rules.md).\n\n```pycon\n>>> x = 2\n>>> x + 1\n3\n>>> print(x)\n2\n```\n\n"
        "```pycon\n>>> 1 / 0\nTraceback (most recent call last):\n...\nZeroDivisionError: division by zero\n```\n"
        "```pycon\n>>> import matplotlib.pyplot as plt\n>>> _ = plt.figure()\n```\n",
        "utf-8",
    )
    cells = SCRIPT.cells_of(page)
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "code", "code", "code"]
    assert "](../rules.md)" in cells[0]["source"]
    SCRIPT.execute(cells)
    shown = [cell["outputs"] for cell in cells[1:]]
    assert shown[0][0]["data"] == {"text/plain": "3"}
    assert shown[1][0] == {"output_type": "stream", "name": "stdout", "text": "2\n"}
    assert shown[2][0]["ename"] == "ZeroDivisionError"
    assert [list(output["data"]) for output in shown[3]] == [["image/png", "text/plain"]]
    page.write_text("```pycon\n>>> 1 / 0\n```\n", "utf-8")
    with pytest.raises(RuntimeError, match="the cell page-0 failed: 1 / 0"):
        SCRIPT.execute(SCRIPT.cells_of(page))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPT.PAGES)
def test_a_notebook_can_be_executed_again(name: str) -> None:
    cells = SCRIPT.cells_of(ROOT / "docs" / f"{name}.md")
    SCRIPT.execute(cells)
    assert any(cell.get("outputs") for cell in cells)
