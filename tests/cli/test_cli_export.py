"""`relprop export`, as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import relprop as rp
from relprop import LRP
from relprop.composites import EpsilonGammaBox, EpsilonGammaFlat
from relprop.models import load
from relprop.models.demo import load_model

pytest.importorskip("typer")
from typer.testing import CliRunner

from relprop.cli.app import app


def relprop(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["export", *map(str, args)], env={"COLUMNS": "250", "FORCE_COLOR": None})
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.slow
def test_the_demo(tmp_path: Path):
    out = tmp_path / "demo.pt2"
    layers = ["features.*", "classifier"]
    said = relprop("--model", "demo", "--out", out, "--target", "star", "--layers", layers[0], "--layers", layers[1])
    assert f"{out}: " in said
    assert "inputs  x: float32(d0, 3, 64, 64)" in said
    assert "target  output 4" in said
    x = torch.rand(3, 3, 64, 64)
    found = rp.load(out)(x)
    expected = LRP(load_model(), EpsilonGammaFlat())(x, target=4, layers=layers)
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-6, atol=1e-6)
    assert found.layers.keys() == expected.layers.keys()
    before = out.read_bytes()
    assert "use --overwrite" in relprop("--model", "demo", "--out", out, code=2)
    assert out.read_bytes() == before
    relprop("--model", "demo", "--out", out, "--overwrite", "--composite", "epsilon-gamma-box", "--target", "input")
    assert "an input of the artifact" in repr(rp.load(out))
    box = rp.load(out)
    assert "ZBoxRule" in box.metadata.rules
    preprocess = load("demo").preprocess
    lrp = LRP(load_model(), EpsilonGammaBox(preprocess.low, preprocess.high))
    torch.testing.assert_close(box(x, target=1).relevance, lrp(x, target=1).relevance, rtol=1e-6, atol=1e-6)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "x.pth"], "should end in .pt2"),
        (["--out", "none/x.pt2"], "no folder"),
        (["--out", "x.pt2", "--composite", "best"], "unknown composite"),
        (["--out", "x.pt2", "--target", "elephant"], "no class is named"),
        (["--out", "x.pt2", "--target", "99"], "out of range"),
        (["--out", "x.pt2", "--layers", "nothing.*"], "matches no module"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(options, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert message in relprop("--model", "demo", *options, code=2)
    assert not list(tmp_path.iterdir())
