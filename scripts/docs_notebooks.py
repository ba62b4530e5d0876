"""Notebooks of docs/notebooks, made from the pages of the same name and executed: one source, two forms.

Text becomes text, each `>>>` block code, with a cell for each output that the page shows. Figures stand below the cell
that makes them, as in a notebook that somebody runs. `--check` says whether the cells are those of the pages.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import doctest
import io
import json
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.torchvision_shim import install

install()
DOCS = Path(__file__).parent.parent / "docs"
NOTEBOOKS = DOCS / "notebooks"
PAGES = ("tutorial", "figures", "signals", "targets", "concepts", "composites")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
Cell = dict[str, Any]


def cells_of(page: Path) -> list[Cell]:
    """The cells of a page, without outputs."""
    text, cells, start = re.sub(r"<!--.*?-->\n?", "", page.read_text("utf-8"), flags=re.DOTALL), list[Cell](), 0
    for block in FENCE.finditer(text):
        if block[1] == "pycon":
            cells += _text(text[start : block.start()])
            cells += [_code(source, raises) for source, raises in _examples(block[2])]
            start = block.end()
    cells += _text(text[start:])
    for number, cell in enumerate(cells):
        cell["id"] = f"{page.stem}-{number}"
    return cells


def _text(text: str) -> list[Cell]:
    """Links lead out of the folder of notebooks."""
    moved = re.sub(r"\]\((?!https?:|#|\.\./)([^)\s]+)", r"](../\1", text.strip())
    return [{"cell_type": "markdown", "metadata": {}, "source": moved}] if moved else []


def _code(source: str, raises: bool) -> Cell:
    tags = {"tags": ["raises-exception"]} if raises else {}
    return {"cell_type": "code", "metadata": tags, "source": source, "outputs": [], "execution_count": None}


def _examples(block: str) -> Iterator[tuple[str, bool]]:
    """Source up to each output, and whether that is an error."""
    lines: list[str] = []
    for example in doctest.DocTestParser().get_examples(textwrap.dedent(block)):
        source = example.source.rstrip("\n")
        lines.append(source.removeprefix("_ = ") if source.startswith("_ = ") else source)
        if example.want:
            yield "\n".join(lines), example.exc_msg is not None
            lines = []
    if lines:
        yield "\n".join(lines), False


def execute(cells: list[Cell]) -> None:
    """Run the code cells in order, in a folder of their own, and put into each what it shows.

    Raises:
        Exception: what a cell raises that the page does not announce.
    """
    import matplotlib as mpl

    mpl.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            count = 0
            for cell in cells:
                if cell["cell_type"] == "code":
                    count += 1
                    cell["execution_count"], cell["outputs"] = count, _outputs(cell, names, count)
        finally:
            os.chdir(before)


def _outputs(cell: Cell, names: dict[str, Any], count: int) -> list[Cell]:
    import matplotlib.pyplot as plt

    printed, outputs = io.StringIO(), list[Cell]()
    try:
        with contextlib.redirect_stdout(printed):
            value = _run(cell["source"], names)
    except Exception as error:
        if "raises-exception" not in cell["metadata"].get("tags", ()):
            raise RuntimeError(f"the cell {cell['id']} failed: {cell['source']}") from error
        said = f"{type(error).__name__}: {error}"
        return [{"output_type": "error", "ename": type(error).__name__, "evalue": str(error), "traceback": [said]}]
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
    figures = [plt.figure(number) for number in plt.get_fignums()]
    if value is not None and not any(value is figure for figure in figures):
        outputs.append(
            {"output_type": "execute_result", "metadata": {}, "data": _bundle(value), "execution_count": count}
        )
    outputs += [{"output_type": "display_data", "metadata": {}, "data": _figure(figure)} for figure in figures]
    plt.close("all")
    return outputs


def _run(source: str, names: dict[str, Any]) -> Any:
    """Run the source; the value of its last line where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def _bundle(value: Any) -> dict[str, str]:
    """A value as a notebook keeps it."""
    found = {"text/plain": repr(value)}
    for kind, name in (("text/html", "_repr_html_"), ("image/png", "_repr_png_")):
        method = getattr(value, name, None)
        shown = method() if callable(method) and not isinstance(value, type) else None
        if shown is not None:
            found[kind] = base64.b64encode(shown).decode() if isinstance(shown, bytes) else shown
    if "text/html" in found:
        found.pop("image/png", None)  # the page of an explanation has it inside
    return found


def _figure(figure: Any) -> dict[str, str]:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=80)
    width, height = figure.get_size_inches()
    shown = f"<Figure size {80 * width:.0f}x{80 * height:.0f}>"
    return {"image/png": base64.b64encode(data.getvalue()).decode(), "text/plain": shown}


def notebook(cells: list[Cell]) -> str:
    """The file."""
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write or check all of them."""
    if "--check" in sys.argv:
        stale = [
            name for name in PAGES if sources(NOTEBOOKS / f"{name}.ipynb") != _sources(cells_of(DOCS / f"{name}.md"))
        ]
        print(
            f"docs/notebooks: {', '.join(stale)} are not those of the pages"
            if stale
            else "docs/notebooks is up to date"
        )
        return bool(stale)
    NOTEBOOKS.mkdir(exist_ok=True)
    for name in [a for a in sys.argv[1:] if a in PAGES] or PAGES:
        cells = cells_of(DOCS / f"{name}.md")
        execute(cells)
        (NOTEBOOKS / f"{name}.ipynb").write_text(notebook(cells), "utf-8")
        print(name, flush=True)
    return 0


def sources(path: Path) -> list[tuple[str, str]] | None:
    """Kinds and sources of a notebook's cells; None where there is no such file."""
    return _sources(json.loads(path.read_text("utf-8"))["cells"]) if path.exists() else None


def _sources(cells: list[Cell]) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]  # a string, or lines of one


if __name__ == "__main__":
    sys.exit(main())
