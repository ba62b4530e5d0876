"""Tables as text: aligned `layer => rule` rows, coloured in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from relprop.engine.layers.layers import Layer
from relprop.explanations.pages import rendered
from relprop.rules import Rule

Line = tuple[str, str]
"""(text, kind): kind is `"plain"`, `"rule"`, or `"dim"`."""


def entries(rows: Sequence[tuple[str, Rule | str]], indent: int) -> list[Line]:
    """`left => right,` with aligned arrows; a row without a left side is its right side alone."""
    width = max((len(left) for left, _ in rows), default=0)
    lines: list[Line] = []
    for left, right in rows:
        shown = right if isinstance(right, str) else repr(right)
        lead = f"{left:<{width}} => " if left else ""
        kind = "dim" if isinstance(right, str) else "rule"
        lines.append((f"{' ' * indent}{lead}{shown},", kind))
    return lines


def table_of_layers(name: str, comment: str, layers: Sequence[Layer], rules: Sequence[Rule | str]) -> list[Line]:
    """`layer => rule` for each row of a model, in brackets with a name and a comment in front."""
    rows = [
        (layer.row, f"fused into {layer.fused_into}" if layer.fused_into is not None else rule)
        for layer, rule in zip(layers, rules, strict=True)
    ]
    head = f"{name}(  # {comment}" if comment else f"{name}("
    return [(head, "plain"), *entries(rows, indent=2), (")", "plain")]


def printed(lines: Sequence[Line]) -> str:
    """The lines as one text, with colour codes where standard output is a terminal that wants them."""
    plain = "\n".join(text for text, _ in lines)
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return plain
    return coloured(lines)


def table_html(lines: Sequence[Line]) -> str:
    """The lines as a table for notebooks: what gets a rule on the left, the rule on the right."""
    rows = []
    for text, kind in lines:
        depth = len(text) - len(text.lstrip())
        left, arrow, right = text.strip().rstrip(",").partition(" => ")
        if left != ")":
            body, _, comment = left.partition("  # ")
            rows.append(((body.strip() or comment, depth), (right, comment if body.strip() else ""), kind, bool(arrow)))
    return rendered("rules.html", rows=rows)


class Printed:
    """What prints as lines, with colours in a terminal, and is a table in a notebook."""

    def _lines(self) -> Sequence[Line]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n".join(line for line, _ in self._lines())

    def __str__(self) -> str:
        return printed(self._lines())

    def _repr_html_(self) -> str:
        return table_html(self._lines())


def coloured(lines: Sequence[Line]) -> str:
    """The lines with the escape codes of a terminal's colours."""
    console = Console(force_terminal=True, color_system="standard", width=10_000, legacy_windows=False)
    with console.capture() as capture:
        for i, (text, kind) in enumerate(lines):
            console.print(_styled(text, kind), end="" if i == len(lines) - 1 else "\n", soft_wrap=True)
    return capture.get()


def _styled(text: str, kind: str) -> Text:
    if kind == "dim":
        return Text(text, style="dim")
    body, mark, comment = text.partition("  # ")
    styled = Text(body)
    if kind == "rule":
        arrow = body.rfind("=> ")
        start = arrow + 3 if arrow >= 0 else len(body) - len(body.lstrip())
        styled.stylize("cyan", start, len(body.rstrip(",")))
        if arrow >= 0:
            styled.stylize("dim", arrow, arrow + 2)
    else:
        styled.stylize("bold", 0, len(body.rstrip("( ,")))
    return styled.append(mark + comment, style="dim")
