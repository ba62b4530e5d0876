"""Draw the rooms of relprop from its imports, and fill in the parts of docs/inside.md that follow from the code.

    python scripts/docs_rooms.py          # write docs/inside.md and docs/images/rooms.svg
    python scripts/docs_rooms.py --check  # fail if they are not up to date

In the page, what stands between `<!-- made: NAME -->` and `<!-- end -->` is made here: `rooms` and `engine` are tables,
`quote FILE FUNCTION` is the source of a function.
"""

from __future__ import annotations

import argparse
import ast
import html
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "relprop"
PAGE = ROOT / "docs" / "inside.md"
PICTURE = ROOT / "docs" / "images" / "rooms.svg"

Edges = dict[str, set[str]]
"""Room -> the rooms that it imports from."""


# ------------------------------------------------------------------------------------------------- what is there


@dataclass
class Room:
    """A folder or a module of `relprop`, or of a folder that is drawn with its inside.

    Attributes:
        name: dotted, without `relprop.`.
        about: the first sentence of its docstring.
        holds: what may live there.
        inside: the rooms in it, if they are drawn.
    """

    name: str
    about: str
    holds: str
    inside: list[Room] = field(default_factory=list)


def rooms_of(folder: Path, prefix: str = "", drawn: Sequence[str] = ("engine",)) -> list[Room]:
    """The rooms of a folder."""
    found = []
    for path in sorted(folder.iterdir()):
        module = path / "__init__.py" if path.is_dir() else path
        if module.suffix != ".py" or not module.exists() or path.name in {"__init__.py", "__pycache__"}:
            continue
        name = f"{prefix}{path.stem}"
        inside = rooms_of(path, f"{name}.", ()) if path.stem in drawn else []
        found.append(Room(name, *described(module), inside))
    return found


def described(module: Path) -> tuple[str, str]:
    """The first sentence of a module's docstring, without what repeats its name, and what may live there."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    first, *_ = re.split(r"\.\s", " ".join(text.split("\n\n")[0].split()))
    name = module.parent.name if module.stem == "__init__" else module.stem
    start, colon, rest = first.rstrip(".").partition(": ")
    about = rest if colon and start.rpartition(" ")[2].lower() == name else first.rstrip(".")
    holds = re.search(r"What may live here: ((?:.+\n?)+)", text)
    return about[:1].upper() + about[1:], " ".join(holds[1].split()) if holds else f"{about}."


def imports() -> Iterator[tuple[str, str]]:
    """(module, module that it imports), dotted, without `relprop.`."""
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "relprop":
                for alias in node.names:
                    yield module, f"{node.module}.{alias.name}".removeprefix("relprop").strip(".")


def arrows(rooms: Iterable[Room]) -> Edges:
    """Which of these rooms imports from which."""
    names = [room.name for room in rooms]

    def room_of(module: str) -> str | None:
        return next((name for name in names if module == name or module.startswith(name + ".")), None)

    edges: Edges = {name: set() for name in names}
    for importer, imported in imports():
        a, b = room_of(importer), room_of(imported)
        if a and b and a != b:
            edges[a].add(b)
    return edges


def floors(edges: Edges) -> dict[str, int]:
    """How many rooms stand below each: the longest way down. A circle has no floor."""
    known: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...] = ()) -> int:
        if name in above:
            raise SystemExit(f"the rooms import in a circle: {' -> '.join([*above, name])}")
        if name not in known:
            known[name] = 1 + max((floor(below, (*above, name)) for below in edges[name]), default=-1)
        return known[name]

    for name in edges:
        floor(name)
    return known


def drawn_arrows(edges: Edges) -> Edges:
    """Without those that follow from others: who may import from a room may import from what is below it."""

    def below(name: str) -> set[str]:
        return edges[name].union(*(below(other) for other in edges[name]))

    return {name: {b for b in down if not any(b in below(other) for other in down)} for name, down in edges.items()}


# ------------------------------------------------------------------------------------------------- the picture

WIDTH, PASSAGE, LINE, PAD, GAP, FLOOR = 190, 8, 15, 12, 26, 46

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 } .name { font-weight: 600; font-size: 14px; fill: #111 }
rect { fill: #fff; stroke: #8a94c8; rx: 6px } .frame { fill: #f3f4fb; stroke-dasharray: 4 3 }
path { fill: none; stroke: #8a94c8; stroke-width: 1.4 } marker path { fill: #8a94c8; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #bbb } .name { fill: #eee } rect { fill: #23252e } .frame { fill: #1b1c23 } }
"""


@dataclass
class Box:
    """A room's place in the picture: its left upper corner and its size, inside the box that holds it.

    Without a room it is where an arrow passes a floor between others.
    """

    room: Room | None
    lines: list[str]
    width: float
    height: float
    inside: Floors | None = None
    x: float = 0.0
    y: float = 0.0

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass
class Floors:
    """Rooms in rows, with the boxes that each arrow goes through, from the room that imports to the imported one."""

    boxes: list[Box]
    ways: list[list[Box]]
    width: float
    height: float


def layout(rooms: Sequence[Room]) -> Floors:
    """Give each room its place: right below who imports from it, and as near to its neighbours as may be."""
    edges = arrows(rooms)
    floors(edges)  # a circle has no picture
    shown = drawn_arrows(edges)
    level = floors({name: {a for a, down in shown.items() if name in down} for name in shown})
    boxes = {room.name: box_of(room) for room in rooms}
    rows = [[boxes[n] for n in sorted(level) if level[n] == k] for k in range(max(level.values()) + 1)]
    ways = []
    for name, below in sorted(shown.items()):
        for other in sorted(below):
            between = [Box(None, [], PASSAGE, 0.0) for _ in rows[level[name] + 1 : level[other]]]
            for row, box in zip(rows[level[name] + 1 :], between, strict=False):
                row.append(box)
            ways.append([boxes[name], *between, boxes[other]])
    width = max(sum(box.width + GAP for box in row) - GAP for row in rows)
    for order in (1, -1, 1, -1, 1):
        for row in rows[::order]:
            _arrange(row, [way[::order] for way in ways], width)
    y = 0.0
    for row in rows:
        height = max(box.height for box in row)
        for box in row:
            box.y, box.height = y, box.height if box.room else height
        y += height + FLOOR
    return Floors([box for row in rows for box in row], ways, width, y - FLOOR)


def _arrange(row: list[Box], ways: Sequence[Sequence[Box]], width: float) -> None:
    """Order a row by the middle of the boxes that lead to its own, and centre it."""

    def wanted(box: Box) -> float:
        before = [way[k - 1].middle for way in ways for k, b in enumerate(way) if b is box and k > 0]
        return sum(before) / len(before) if before else width / 2

    row.sort(key=wanted)
    x = (width - sum(box.width + GAP for box in row) + GAP) / 2
    for box in row:
        box.x = x
        x += box.width + GAP


def box_of(room: Room) -> Box:
    text = room.about.replace("`", "")
    if not room.inside:
        lines = textwrap.wrap(text, 27)
        return Box(room, lines, WIDTH, PAD + 14 + LINE * len(lines) + PAD)
    inside, lines = layout(room.inside), textwrap.wrap(text, 62)
    return Box(room, lines, inside.width + 2 * GAP, 14 + LINE * len(lines) + inside.height + 3 * PAD + GAP, inside)


def picture(rooms: Sequence[Room]) -> str:
    """The SVG."""
    plan = layout(rooms)
    width, height = plan.width + 2 * PAD, plan.height + 2 * PAD
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">',
            "<title>The rooms of relprop; an arrow leads to the room that is imported from</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z"/></marker></defs>',
            *draw(plan, PAD, PAD),
            "</svg>\n",
        ]
    )


def draw(plan: Floors, x: float, y: float) -> Iterator[str]:
    """Boxes with their text, and the arrows between them."""
    for box in plan.boxes:
        if box.room is None:
            continue
        kind = ' class="frame"' if box.inside else ""
        place = f'x="{x + box.x:.0f}" y="{y + box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}"'
        yield f"<rect{kind} {place}/>"
        left, top = x + box.x + PAD, y + box.y + PAD
        yield f'<text class="name" x="{left:.0f}" y="{top + 10:.0f}">{box.room.name.rpartition(".")[2]}</text>'
        for k, line in enumerate(box.lines, 1):
            yield f'<text x="{left:.0f}" y="{top + 12 + LINE * k:.0f}">{html.escape(line)}</text>'
        if box.inside:
            yield from draw(box.inside, x + box.x + GAP, top + 14 + LINE * len(box.lines) + PAD * 1.5)
    yield from (arrow(way, x, y) for way in plan.ways)


def arrow(way: Sequence[Box], x: float, y: float) -> str:
    """Down from one box to another: bent between the floors, upright through those that it passes."""
    first, *_, last = way
    left, right = max(first.x, last.x) + GAP, min(first.x + first.width, last.x + last.width) - GAP
    ends = {id(box): box.middle for box in way}
    if len(way) == 2 and left < right:
        ends = {id(first): (left + right) / 2, id(last): (left + right) / 2}
    drawn = f"M{x + ends[id(first)]:.0f} {y + first.y + first.height:.0f}"
    for upper, lower in pairwise(way):
        x0, x1, y0, y1 = x + ends[id(upper)], x + ends[id(lower)], y + upper.y + upper.height, y + lower.y
        bend = (y1 - y0) / 2
        drawn += f"C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"
        drawn += f"V{y1 + lower.height:.0f}" if lower.room is None else ""
    return f'<path d="{drawn}" marker-end="url(#tip)"/>'


# ------------------------------------------------------------------------------------------------- the page


def table(rooms: Sequence[Room]) -> str:
    """A row for each room, from the top floor down."""
    edges = arrows(rooms)
    level = floors(edges)
    rows = ["| room | what may live there | imports from |", "|---|---|---|"]
    for room in sorted(rooms, key=lambda room: (-level[room.name], room.name)):
        below = ", ".join(f"`{name}`" for name in sorted(edges[room.name], key=lambda n: (-level[n], n)))
        rows.append(f"| `{room.name}` | {room.holds[:1].upper()}{room.holds[1:]} | {below} |")
    return "\n".join(rows)


def counted(rooms: Sequence[Room]) -> str:
    edges = arrows(rooms)
    return f"{len(rooms)} rooms on {max(floors(edges).values()) + 1} floors, {sum(map(len, edges.values()))} arrows"


def quoted(file: str, function: str) -> str:
    """The source of a function, as a block of Python."""
    text = (SOURCE / file).read_text(encoding="utf-8")
    found = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == function]
    if len(found) != 1:
        raise SystemExit(f"docs/{PAGE.name} quotes {function} of {file}, which has {len(found)} of that name")
    source = textwrap.dedent("\n".join(text.split("\n")[found[0].lineno - 1 : found[0].end_lineno]))
    return f"```python\n# file: src/relprop/{file}\n{source}\n```"


def made(what: str, rooms: Sequence[Room]) -> str:
    kind, *names = what.split()
    if kind == "quote":
        return quoted(*names)
    if kind == "engine":
        (engine,) = (room for room in rooms if room.name == "engine")
        return f"{counted(engine.inside)}:\n\n{table(engine.inside)}"
    if kind == "rooms":
        return f"{counted(rooms)}, no circle:\n\n{table(rooms)}"
    raise SystemExit(f"docs/{PAGE.name}: {what!r} is none of rooms, engine, quote FILE FUNCTION")


def page(text: str, rooms: Sequence[Room]) -> str:
    """The page with its made parts made anew."""
    part = re.compile(r"(<!-- made: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
    return part.sub(lambda found: f"{found[1]}\n{made(found[2], rooms)}\n\n{found[3]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    check = parser.parse_args().check
    rooms = rooms_of(SOURCE)
    for file, wanted in {PAGE: page(PAGE.read_text(encoding="utf-8"), rooms), PICTURE: picture(rooms)}.items():
        if not check:
            file.write_text(wanted, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != wanted:
            sys.exit(f"{file.relative_to(ROOT).as_posix()} is not up to date: run python scripts/docs_rooms.py")


if __name__ == "__main__":
    main()
