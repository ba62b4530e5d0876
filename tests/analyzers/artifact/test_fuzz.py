"""Thousands of damaged artifacts: each is read as it was or refused as an artifact, at once, and runs nothing.

What runs before PyTorch sees a file is tried, all of it: the archive, the notes, and the program's JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.archives import NOTES, PROGRAM, WEIGHTS, members, write
from torch import nn

from relprop import LRP
from relprop.analyzers.artifact.archive import opened
from relprop.analyzers.artifact.loaded import _metadata
from relprop.errors import ArtifactError

SLOWEST = 20.0  # seconds for one file, on a busy machine
PARTS = [300, pytest.param(10_000, marks=pytest.mark.slow)]
ODD = (
    None, True, -1, 0, 2**70, 1e308, "", "x" * 300, "\0", "\ud800", "\x1b[31m", "__import__('os').getcwd()", "../x",
    "'", [], {}, [[]], {"": None}, [{"as_string": "x"}], {"as_expr": {"expr_str": "print()"}},
)  # fmt: skip
FORBIDDEN = ("os.mkdir", "os.system", "subprocess.Popen", "os.remove", "socket.connect", "os.exec", "os.rename")
_watched: list[list[str]] = []


def _watch(event: str, arguments: Any) -> None:
    """An audit hook cannot be removed: it writes to the list that is on top, if there is one."""
    if _watched and event in FORBIDDEN:
        _watched[-1].append(f"{event} {arguments}")


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "model.pt2"
    LRP(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))).export(path, (torch.randn(2, 4),))
    return path


def test_the_watch_sees_what_it_is_to_see(tmp_path: Path):
    _watched.append([])
    (tmp_path / "made").mkdir()
    assert [each.split()[0] for each in _watched.pop()] == ["os.mkdir"]


@pytest.mark.parametrize("number", PARTS)
def test_bytes_flipped_cut_and_repeated(number: int, good: Path, tmp_path: Path):
    content, rng, outcomes = good.read_bytes(), random.Random(number), {"read": 0, "refused": 0}
    for _ in range(number):
        (tmp_path / "x.pt2").write_bytes(damaged(content, rng))
        outcomes[_read(tmp_path / "x.pt2")] += 1
    assert outcomes["refused"] > number / 2
    assert outcomes["read"] > 0  # where a flipped bit hits what nobody reads: dates, rights, the gaps between members


@pytest.mark.parametrize("number", PARTS)
def test_values_changed_in_the_notes_and_the_program(number: int, good: Path, tmp_path: Path):
    content, rng, outcomes = members(good), random.Random(number), {"read": 0, "refused": 0}
    trees = {name: json.loads(content[name]) for name in (NOTES, PROGRAM, WEIGHTS) if name in content}
    texts = {name: json.dumps(tree) for name, tree in trees.items()}
    for _ in range(number):
        name = rng.choice(list(trees))
        tree = json.loads(texts[name])
        for _ in range(rng.choice((1, 1, 1, 5))):
            change(tree, rng)
        write(tmp_path / "x.pt2", content | {name: json.dumps(tree).encode("utf-8", "surrogatepass")})
        outcomes[_read(tmp_path / "x.pt2")] += 1
    assert outcomes["refused"] > number / 10
    assert outcomes["read"] > 0  # another number of the same kind, where any will do


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The file with a few bytes changed, a part cut out, doubled, or moved."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: _flipped(content, rng, 1),
        lambda: _flipped(content, rng, rng.randint(2, 200)),
        lambda: content[: rng.randrange(len(content))],
        lambda: content[rng.randrange(len(content)) :],
        lambda: _spliced(content, rng),
        lambda: content + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 100))),
        lambda: content + content,
    )
    return rng.choice(kinds)()


def _flipped(content: bytes, rng: random.Random, number: int) -> bytes:
    changed = bytearray(content)
    for _ in range(number):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _spliced(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    place = rng.randrange(len(content))
    return content[:place] + content[start:end] + content[place + rng.choice((0, end - start)) :]


def change(tree: Any, rng: random.Random) -> None:
    """Put something odd in the place of one value, drop it, or give it another name."""
    node = tree
    while True:
        places = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not places:
            return
        place = rng.choice(places)
        inner = node[place]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.1:
            break
        node = inner
    kind = rng.randrange(4)
    if kind == 0:
        del node[place]
    elif kind == 1 and isinstance(node, dict):
        node[str(rng.choice(ODD))] = node.pop(place)
    elif kind == 2 and isinstance(inner, str):
        node[place] = _scrambled(inner, rng)
    else:
        node[place] = rng.choice(ODD)


def _scrambled(text: str, rng: random.Random) -> str:
    letters = list(text) or [""]
    letters[rng.randrange(len(letters))] = rng.choice(
        ("(", ")", "'", '"', "\\", "\n", "__", ".", "é", "\0", "9" * 50, "")
    )
    return "".join(letters)


def _read(file: Path) -> str:
    """Go through all that is done before PyTorch loads the copy."""
    _watched.append([])
    started = time.monotonic()
    try:
        with opened(file) as archive:
            _metadata(archive)
            with archive.checked(()) as copy:
                assert copy.read(2) == b"PK"
        outcome = "read"
    except ArtifactError as error:
        outcome = "refused" if str(file) in str(error) else f"an error that does not name the file: {error}"
    finally:
        ran = _watched.pop()
    assert not ran
    assert time.monotonic() - started < SLOWEST
    return outcome


@pytest.mark.slow
def test_what_passes_and_is_loaded_runs_nothing(good: Path, tmp_path: Path):
    """Programs with changed values that the checks let through, in PyTorch's hands."""
    import relprop

    content, rng = members(good), random.Random(0)
    for _ in range(300):
        tree = json.loads(content[PROGRAM])
        change(tree, rng)
        file = write(tmp_path / "x.pt2", content | {PROGRAM: json.dumps(tree).encode()})
        _watched.append([])
        try:
            relprop.load(file)
        except ArtifactError:
            pass
        finally:
            ran = _watched.pop()
        assert not [each for each in ran if "torchinductor" not in each]
