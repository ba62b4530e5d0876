"""`relprop contest`: its table, its files, and what it refuses before there is work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from relprop.cli.app import app
from relprop.evaluation import Contest
from relprop.models import demo

DEMO = ["contest", "--model", "demo", "--count", "6", "--steps", "4"]


def invoke(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "1000", "NO_COLOR": "1"})
    assert done.exit_code == code, done.output
    return done.output


def test_the_demo_is_asked_about_pictures_of_its_own(tmp_path: Path):
    files = {"--json": tmp_path / "found.json", "--picture": tmp_path / "found.png"}
    command = [*DEMO, "--method", "epsilon-gamma-flat", "--method", "gradient", "--method", "captum:Nothing"]
    assert "nobody is named 'captum:Nothing'" in invoke(*command, code=2)
    command = [*command[:-2], *(str(part) for pair in files.items() for part in pair)]
    said = invoke(*command)
    found = Contest.from_json(files["--json"])
    assert set(found.ranking()) == {"epsilon-gamma-flat", "gradient", "random", "centre"}
    assert found.ranking()[0] == "epsilon-gamma-flat"
    assert found.evaluation.setting["samples"] == 6
    assert list(found.evaluation.better) == ["srg", "mass"]
    for line in str(found).splitlines():
        assert line in said
    assert Image.open(files["--picture"]).size[0] > 600
    assert "would be overwritten" in invoke(*command, code=2)
    invoke(*command, "--overwrite", "--quiet")
    seconds = json.loads(files["--json"].read_text()).pop("seconds")
    assert set(seconds) == {"epsilon-gamma-flat", "gradient"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three stars with their watermarks as masks, one of which is not there."""
    (tmp_path / "masks").mkdir()
    (tmp_path / "pictures").mkdir()
    for k, sample in enumerate(s for s in demo.load_samples() if s.artefact_mask.any()):
        Image.fromarray(sample.image).save(tmp_path / "pictures" / f"{sample.name}.png")
        if k:
            mask = np.where(sample.artefact_mask, 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(tmp_path / "masks" / f"{sample.name}.png")
    return tmp_path


def test_ones_own_pictures_and_masks(folder: Path):
    out = folder / "found.json"
    options = ["--data", str(folder / "pictures"), "--masks", str(folder / "masks"), "--json", str(out)]
    command = ["contest", "--model", "demo", *options, "--method", "zero", "--target", "star", "--score", "mass"]
    invoke(*command, "--steps", "2", "--patch", "16")
    found = Contest.from_json(out)
    assert found.evaluation.scores["random"]["mass"].isnan().sum() == 1, "one picture has no mask"
    assert found.evaluation.mean("random", "mass") == pytest.approx(0.03, abs=0.01)
    assert found.evaluation.mean("zero", "mass") > 0.15
    assert found.evaluation.setting["groups"] == "Patches(score='sum', size=16)"
    (folder / "empty").mkdir()
    options[3] = str(folder / "empty")
    assert "has no mask for any picture" in invoke("contest", "--model", "demo", *options, "--overwrite", code=2)


def test_what_is_wrong_is_said_before_there_is_work(tmp_path: Path):
    assert "unknown metrics ['srk']" in invoke(*DEMO, "--score", "srk", code=2)
    assert "only demo and demo-vit bring pictures" in invoke("contest", "--model", "torchvision:vgg16", code=2)
    Image.new("RGB", (70, 64)).save(tmp_path / "wide.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    model = ["contest", "--model", f"{tmp_path / 'net.py'}:make", "--method", "zero"]
    assert "give --size N" in invoke(*model, "--data", str(tmp_path), code=2)
    said = invoke(*model, "--data", str(tmp_path), "--size", "32", "--score", "gini", "--score", "srg", code=2)
    assert "'gini' tells no good from bad" in said


def test_a_search_says_what_it_gained_on_pictures_that_it_did_not_see(tmp_path: Path):
    pytest.importorskip("optuna")
    storage, out, drawn = tmp_path / "search.db", tmp_path / "tuned.json", tmp_path / "tuned.png"
    command = ["tune", *DEMO[1:], "--count", "8", "--trials", "3", "--storage", str(storage)]
    command = [part for k, part in enumerate(command) if k not in (3, 4)]  # the other --count
    said = invoke(*command, "--json", str(out), "--picture", str(drawn))
    assert said.startswith("EpsilonGammaFlat(")
    assert "held out, 4 samples" in said
    found = json.loads(out.read_text())
    assert found["code"] == said.splitlines()[0]
    assert len(found["tried"]) == 3
    assert drawn.stat().st_size > 5000
    assert "another samples" in invoke(*command, "--seed", "1", code=2).replace("setting and samples", "samples")
    assert "--held-out takes a share" in invoke(*command, "--held-out", "1.5", code=2)
