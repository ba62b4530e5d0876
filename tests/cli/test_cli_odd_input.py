"""`relprop explain` with names, shapes, numbers and repeated options as nobody plans them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from relprop.cli.app import app

NET = """
from torch import nn

CLASSES = ["two\\nlines", "<b>bold</b>", "\\x1b[31mred", "half \\ud800"]

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))

def softmax():
    return nn.Sequential(make(), nn.Softmax(1))
"""


def relprop(*arguments: object, code: int = 0) -> tuple[str, str]:
    """What `relprop` prints: its output, and its errors."""
    env = {"COLUMNS": "250", "FORCE_COLOR": None}
    result = CliRunner().invoke(app, [str(each) for each in arguments], env=env)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def picture(folder: Path, name: str, size: tuple[int, int] = (8, 8)) -> Path:
    Image.new("RGB", size, "red").save(folder / "plain.png")
    (folder / "plain.png").rename(folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["odd\udcff.png", "two\nlines.png", "\x1b[2J.png", "x" * 251 + ".png", "<b>&.png"])
def test_names(name: str, net: Path, tmp_path: Path):
    out, _ = relprop("explain", picture(tmp_path, name), "--model", f"{net}:make", "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["pictures"][0]
    assert all((tmp_path / "out" / file).is_file() for file in record["files"])
    assert all(file.isprintable() for file in record["files"])
    assert "\x1b" not in out
    with safe_open(tmp_path / "out" / record["files"][2], "pt") as file:
        assert file.metadata()["picture"] == name.replace("\udcff", "\\xff")


def test_names_of_classes(net: Path, tmp_path: Path):
    for target in range(4):
        out, _ = relprop(
            "explain", picture(tmp_path, "a.png"), "--model", f"{net}:make", "--out", tmp_path / f"{target}",
            "--target", target,
        )  # fmt: skip
        shown = ("two␊lines", "<b>bold</b>", "␛[31mred", "half �")[target]
        assert shown in out


def test_links_in_a_circle_and_other_names_that_lead_nowhere(net: Path, tmp_path: Path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pictures" / "pipe.png")
    (tmp_path / "pictures" / "a.pdf").write_text("no picture, and not looked at")
    for given, message in (("loop.png", "no such file"), ("pictures", "has no pictures in it")):
        _, error = relprop("explain", tmp_path / given, "--model", f"{net}:make", "--out", tmp_path / "out", code=2)
        assert message in error
    assert not (tmp_path / "out").exists()
    picture(tmp_path / "pictures", "good.png")
    relprop("explain", tmp_path / "pictures", "--model", f"{net}:make", "--out", tmp_path / "out")


def test_long_and_thin_pictures_are_not_enlarged_beyond_reason(net: Path, tmp_path: Path):
    for name, size in (("tall.png", (3, 1500)), ("wide.png", (3000, 2))):
        relprop(
            "explain", picture(tmp_path, name, size), "--model", f"{net}:make", "--out", tmp_path / "out", "--overwrite"
        )
        with Image.open(tmp_path / "out" / f"{name[:4]}.heatmap.png") as image:
            assert max(image.size) <= 4096
            assert image.width * size[1] == image.height * size[0]


@pytest.mark.parametrize(
    "options",
    [("--against", "1", "--against", "2"), ("--composite", "zero", "--composite", "gamma"), ("--size=8", "--size=9")],
)
def test_an_option_given_twice_is_refused(options: tuple[str, ...], tmp_path: Path):
    name = options[0].partition("=")[0]
    _, error = relprop("explain", "--model", "demo", *options, "--out", tmp_path / "out", code=2)
    assert f"error: {name} is given 2 times, but takes one value" in error
    assert not (tmp_path / "out").exists()
    if name != "--against":
        assert "is given 2 times" in relprop("layers", "--model", "demo", *options, code=2)[1]
    relprop(
        "explain", "--model", "demo", "--out", tmp_path, "-q", "--quiet", "--overwrite", "--overwrite"
    )  # flags may be


def test_a_softmax_that_is_left_out_is_said_wherever_results_are(net: Path, tmp_path: Path):
    said = "what comes before the softmax"
    given = picture(tmp_path, "a.png")
    out, error = relprop("explain", given, "--model", f"{net}:softmax", "--out", tmp_path / "out")
    assert "ends in a softmax" in error
    assert f"are those of {said}" in out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["explains"] == said
    with safe_open(tmp_path / "out" / "a.relevance.safetensors", "pt") as file:
        assert file.metadata()["explains"] == said
    out, error = relprop("export", "--model", f"{net}:softmax", "--out", tmp_path / "a.pt2")
    assert f"Its output is {said}." in out
    assert "ends in a softmax" in error
    out, _ = relprop("explain", given, "--model", f"{net}:make", "--out", tmp_path / "out", "--overwrite")
    assert said not in out


def test_every_picture_is_on_a_sheet_with_its_name(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from relprop.jobs import picture_plan
    from relprop.jobs import pictures as job

    drawn: list[tuple[str, list[tuple[str, str]]]] = []
    monkeypatch.setattr(picture_plan, "KEPT", 3)
    sheet = job.contact_sheet
    monkeypatch.setattr(
        job,
        "contact_sheet",
        lambda panels, title, *rest, **named: (
            drawn.append((title, [(panel.title, panel.subtitle) for panel in panels])) or sheet(panels, title, *rest)
        ),
    )
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        picture(folder, f"{i}.png")
    out, _ = relprop("explain", folder, "--model", f"{net}:make", "--out", tmp_path / "out", "--batch-size", 2)
    assert "overview.png to overview-2.png" in out
    assert [title for title, _ in drawn] == [
        f"Pictures {some} of 5: {net}:make, epsilon-gamma-flat" for some in ("1 to 3", "4 to 5")
    ]
    assert [name for _, panels in drawn for name, _ in panels] == ["0", "1", "2", "3", "4"]
    assert (tmp_path / "out" / "overview-2.png").exists()
    drawn.clear()
    out, _ = relprop("explain", folder / "0.png", "--model", f"{net}:make", "--out", tmp_path / "one")
    assert "overview.png and summary.json" in out
    assert drawn[0][0] == f"{net}:make, epsilon-gamma-flat"
    asked = ("--target", 0, "--target", 1)
    drawn.clear()
    relprop(
        "explain", folder, "--model", f"{net}:make", *asked, "--out", tmp_path / "two"
    )  # both targets stay together
    assert [len(panels) for _, panels in drawn] == [2, 2, 2, 2, 2]
    (tmp_path / "two" / "overview.png").unlink()
    _, error = relprop("explain", folder, "--model", f"{net}:make", *asked, "--out", tmp_path / "two", code=2)
    assert "would be overwritten" in error


def test_pictures_of_floats_are_seen(net: Path, tmp_path: Path):
    """The output on a float TIFF is that on the same picture of bytes."""
    ramp = np.linspace(0, 1, 64)[None].repeat(64, 0)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray((255 * ramp).round().astype(np.uint8)).save(tmp_path / "bytes.png")
    outputs = []
    for name in ("float.tif", "bytes.png"):
        relprop("explain", tmp_path / name, "--model", f"{net}:make", "--out", tmp_path / name[:4])
        outputs.append(json.loads((tmp_path / name[:4] / "summary.json").read_text("utf-8"))["pictures"][0]["output"])
    assert outputs[0] == outputs[1]


SLIPS = """
import torch
from torch import nn

def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)
    def forward(self, x, age):
        return self.head(x.mean((2, 3))) + age

def two():
    return Two()

def ids():
    return nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
"""


def test_models_that_take_something_else_than_colours(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SLIPS)
    seen = picture(tmp_path, "a.png")
    relprop("explain", seen, "--model", f"{tmp_path / 'net.py'}:grey", "--out", tmp_path / "grey")
    assert (tmp_path / "grey" / "overview.png").exists()
    for name, said in (("two", "it takes x, age, and the command line has one picture"), ("ids", "give token ids")):
        _, error = relprop("explain", seen, "--model", f"{tmp_path / 'net.py'}:{name}", "--out", tmp_path / "o", code=2)
        assert said in " ".join(error.split())
        assert not (tmp_path / "o").exists()
