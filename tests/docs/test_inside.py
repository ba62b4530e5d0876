"""docs/inside.md: the picture, the tables and the quoted loops are those of the code, and so is what the text names."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "relprop"
PAGE = ROOT / "docs" / "inside.md"
SCRIPT = ROOT / "scripts" / "docs_rooms.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_rooms", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "docs_rooms", module)
    spec.loader.exec_module(module)
    return module


def test_page_and_picture_are_up_to_date():
    checked = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_the_page_names_is_there():
    page = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", page):
        assert (SOURCE / path).exists() or (ROOT / path).exists(), path


def test_every_room_says_what_may_live_in_it(script: ModuleType):
    rooms = script.rooms_of(SOURCE)
    for room in [*rooms, *(inner for outer in rooms for inner in outer.inside)]:
        folder = SOURCE / room.name.replace(".", "/")
        if folder.is_dir():
            assert "What may live here: " in (folder / "__init__.py").read_text(encoding="utf-8"), room.name


def test_there_are_twelve_rooms_at_most(script: ModuleType):
    assert len(script.rooms_of(SOURCE)) <= 12


def test_the_picture_has_every_room_and_leaves_out_arrows_that_follow(script: ModuleType):
    picture = ElementTree.parse(ROOT / "docs/images/rooms.svg").getroot()
    names = {e.text for e in picture.iterfind(".//{*}text") if e.get("class") == "name"}
    rooms = script.rooms_of(SOURCE)
    assert names == {r.name for r in rooms} | {i.name.partition(".")[2] for r in rooms for i in r.inside}
    assert script.drawn_arrows({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_no_box_lies_on_another_and_arrows_go_down(script: ModuleType):
    for plan in (outer := script.layout(script.rooms_of(SOURCE)), *(b.inside for b in outer.boxes if b.inside)):
        for way in plan.ways:
            assert all(upper.y + upper.height < lower.y for upper, lower in pairwise(way))
        for k, a in enumerate(plan.boxes):
            for b in plan.boxes[k + 1 :]:
                apart = a.x + a.width <= b.x or b.x + b.width <= a.x
                assert apart or a.y + a.height <= b.y or b.y + b.height <= a.y


def test_a_circle_is_said(script: ModuleType):
    with pytest.raises(SystemExit, match="circle: a -> b -> a"):
        script.floors({"a": {"b"}, "b": {"a"}})


def test_only_one_function_can_be_quoted(script: ModuleType):
    assert script.quoted("rules/modifiers.py", "keep").splitlines()[2] == "def keep(t: Tensor) -> Tensor:"
    with pytest.raises(SystemExit, match="has 0 of that name"):
        script.quoted("rules/modifiers.py", "nothing")
