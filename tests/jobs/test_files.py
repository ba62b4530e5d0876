"""Names of files and what is shown of them, whatever is in them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from relprop.explanations.shown import encodable, one_line, visible
from relprop.jobs.files import Outputs, unique_names

LETTERS = [*"aA0-. _/\n\t\r\0\x1b\x7f\x85\u2028\u202e\udc80\udcff\ud800é漢😀\u0301%$'\"<>&;|`\\:*?"]


def test_names_do_not_collide():
    paths = [Path(name) for name in ("x/a.png", "y/A.jpg", "a-2.png", "b.png", "a.gif")]
    assert unique_names(paths) == ["a", "A-2", "a-2-2", "b", "a-3"]


@pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_names_become_names_of_files(number: int, tmp_path: Path):
    rng = random.Random(number)
    for _ in range(number // 3):
        given = [Path("".join(rng.choices(LETTERS, k=rng.choice((1, 3, 10, 300))))) for _ in range(3)]
        names = unique_names(given)
        assert len({name.casefold() for name in names}) == len(given)
        for name in names:
            files = list(Outputs.of(tmp_path, name))
            assert all(file.parent == tmp_path and len(os.fsencode(file.name)) <= 255 for file in files)
            assert name.isprintable()
            assert name.encode("utf-8").decode() == name
    files[0].touch()
    assert files[0].is_file()


@pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_text_can_be_shown(number: int):
    rng = random.Random(number)
    for _ in range(number):
        text = "".join(rng.choices(LETTERS, k=20))
        for shown in (encodable(text), visible(text), one_line(text)):
            assert shown.encode("utf-8")
        assert not set(visible(text)) & set("\r\0\x1b\x7f\x85")
        assert len(one_line(text).splitlines()) == 1


def test_what_is_shown():
    assert encodable("plain é 漢") == "plain é 漢"
    assert encodable("odd\udcff.png") == "odd\\xff.png"
    assert encodable("half \ud800") == "half �"
    assert visible("a\x1b[31m\nb") == "a␛[31m\nb"
    assert one_line("a\n\tb\u2028c") == "a␊␉b␊c"
