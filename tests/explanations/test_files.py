"""Files that are written whole or not at all, with the rights that the user's umask gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relprop.errors import ArtifactError, RelpropError
from relprop.explanations.files import replacing

WRITES_ALL_KINDS = """
import os, sys, torch
from pathlib import Path
from relprop import LRP
from relprop.cli.app import app
from typer.testing import CliRunner
os.umask(int(sys.argv[1], 8))
LRP(torch.nn.Linear(4, 3)).export("a.pt2", (torch.randn(2, 4),))
from relprop.models.demo import sample_paths
result = CliRunner().invoke(app, ["explain", str(sample_paths()[0]), "--model", "demo", "--out", "out"])
assert result.exit_code == 0, result.output
for path in [Path("a.pt2"), *Path("out").iterdir()]:
    print(path.name, oct(path.stat().st_mode & 0o777))
"""


@pytest.mark.parametrize(("umask", "rights"), [pytest.param("022", "0o644", marks=pytest.mark.slow), ("007", "0o660")])
def test_every_kind_of_file_has_the_rights_of_the_umask(umask: str, rights: str, tmp_path: Path):
    command = [sys.executable, "-c", WRITES_ALL_KINDS, umask]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    found = dict(line.rsplit(" ", 1) for line in said)
    assert {name.partition(".")[2] for name in found} == {
        "pt2", "png", "json", "heatmap.png", "overlay.png", "relevance.safetensors",
    }  # fmt: skip
    assert set(found.values()) == {rights}


def test_what_fails_leaves_nothing_and_keeps_what_was_there(tmp_path: Path):
    path = tmp_path / "folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert temporary.name == "a.txt"
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half, and then \udcff", "utf-8")
    with pytest.raises(ArtifactError, match=r"a\.txt cannot be written: .*disk"), replacing(path, ArtifactError):
        raise OSError("the disk is full")
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["a.txt"]


def test_names_as_long_as_a_file_system_takes(tmp_path: Path):
    path = tmp_path / ("x" * 255)
    with replacing(path) as temporary:
        temporary.write_text("long")
    assert path.read_text() == "long"
    with pytest.raises(RelpropError, match="cannot be written"), replacing(tmp_path / ("x" * 256)):
        pass
