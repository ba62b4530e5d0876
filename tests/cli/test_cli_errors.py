"""Errors of `relprop explain`: one paragraph in red, exit code 2, nothing written."""

from __future__ import annotations

import sys

import pytest
import torch
from PIL import Image
from support.command_line import SAMPLES, USERS_FILE, relprop

from relprop import cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png", "--model", "demo"], "none.png: no such file"),
        (["SAMPLE", "text.png", "--model", "demo", "--batch-size", "1"], "text.png is not a readable picture"),
        (["empty", "--model", "demo"], "has no pictures in it"),
        (["--model", "net.py:small"], "give at least one picture or folder"),
        (["SAMPLE", "--model", "resnet18"], "'resnet18' is no model specification; it is one of: demo,"),
        (["SAMPLE", "--model", "net.py:nothing"], "no function 'nothing'; it has softmax, small, map"),
        (["SAMPLE", "--model", "net.py:small@w.pt"], "1 unexpected: wrong"),
        (["SAMPLE", "--model", "net.py:map"], "is no classifier: its output must have shape (1, classes), not"),
        (["SAMPLE", "--model", "demo", "--mean", "0,1"], "2 means but 3 standard deviations"),
        (["SAMPLE", "--model", "demo", "--std", "a"], "--std takes numbers"),
        (["--model", "demo", "--composite", "plus"], "unknown composite 'plus'; choose one of epsilon-gamma-flat"),
        (["--model", "demo", "--target", "8"], "target 8 is out of range: the model has 8 outputs, 0 to 7"),
        (["--model", "demo", "--target", "-1"], "target -1 is out of range"),
        (["--model", "demo", "--target", "rings"], "no class is named 'rings'; did you mean ring"),
        (["--model", "demo", "--target", "ring", "--against", "1"], "output 1 is to be compared with itself"),
        (["--model", "demo", "--target", "ring", "--target", "1"], "--target names one class twice"),
        (["--model", "demo", "--against", "ring"], "--against CLASS needs --target"),
        (["--model", "demo", "--target", "ring", "--against", "stars"], "no class is named 'stars'; did you mean star"),
        (["SAMPLE", "--model", "net.py:small", "--target", "ring"], "classes have no names: give an index"),
        (["--model", "demo", "--cmap", "sesmic"], "unknown colormap 'sesmic'; did you mean seismic"),
        (["--model", "demo", "--clip", "0"], "clip is a percentile"),
        (["--model", "demo", "--device", "gpu"], "the device 'gpu' cannot be used"),
    ],
)  # fmt: skip
def test_errors(arguments, message, users_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    torch.save({"wrong": torch.zeros(1)}, tmp_path / "w.pt")
    given = [str(SAMPLES[0].path) if argument == "SAMPLE" else argument for argument in arguments]
    result = relprop("explain", *given, "--out", tmp_path / "out", code=2)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    error = relprop("explain", "--model", "demo", "--out", tmp_path / "file" / "out", code=2).stderr
    assert "cannot be made" in error


def test_a_failing_disk_leaves_no_half_files(tmp_path, monkeypatch):
    def full(self, path, *_, **__):
        path.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    error = relprop("explain", "--model", "demo", "--out", tmp_path / "out", code=2).stderr
    assert "cannot be written" in error
    assert "No space left on device" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_without_the_cli_extra_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "relprop.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "relprop: the command line needs typer: pip install 'relprop[cli]'\n"


def test_a_wrong_number_of_class_names_is_refused(tmp_path):
    (tmp_path / "net.py").write_text("CLASSES = ['a']\n" + USERS_FILE)
    error = relprop(
        "explain", SAMPLES[0].path, "--model", f"{tmp_path / 'net.py'}:small", "--out", tmp_path / "o", code=2
    ).stderr
    assert "has 3 outputs but 1 class names" in error
