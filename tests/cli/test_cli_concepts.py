"""`relprop concepts`, and what `relprop explain` says of relevance that is of no use."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from relprop import LRP
from relprop.cli.app import app
from relprop.composites import EpsilonGammaFlat
from relprop.models.demo import load_model, load_samples, to_input

SAMPLES = load_samples()


def test_concepts_of_the_demo(tmp_path):
    """The watermark's channel comes first where a star has one, and the files say what was found."""
    out = tmp_path / "out"
    command = ["concepts", "--model", "demo", "--layer", "features.block2.relu", "--top", "2", "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "concepts.json").read_text())
    first = {p["picture"]: p["channels"][0]["channel"] for p in found["pictures"]}
    assert first["star-filled"] == first["star-hollow"] == first["ring-tagged"] != first["ring"]
    lrp = LRP(load_model(), EpsilonGammaFlat())
    star = to_input(SAMPLES[0].image[None])
    scores = lrp(star, layers="features.block2.relu").layers["features.block2.relu"].sum((2, 3))[0]
    shares = (scores / scores.sum()).sort(descending=True)
    channels = found["pictures"][0]["channels"]
    assert [c["channel"] for c in channels] == shares.indices[:2].tolist()
    assert [c["share"] for c in channels] == pytest.approx(shares.values[:2].tolist(), rel=1e-4)
    with safe_open(out / "concepts.safetensors", "pt") as file:
        assert file.get_tensor("star-filled").shape == (2, 3, 64, 64)
    assert Image.open(out / "concepts.png").size[0] > 900
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    printed = CliRunner().invoke(app, [*command, "--overwrite", "--json"])
    assert json.loads(printed.stdout) == found
    wrong = CliRunner().invoke(
        app, ["concepts", "--model", "demo", "--layer", "nothing", "--out", str(tmp_path / "no")]
    )
    assert wrong.exit_code == 2
    assert not (tmp_path / "no" / "concepts.json").exists()


def test_relevance_that_is_kept_nearly_whole_is_said(tmp_path):
    """The number can be read, and the layer is named."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n"
        "    m = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.Flatten(), nn.LazyLinear(2)).eval()\n"
        "    m(torch.zeros(1, 3, 8, 8))\n    torch.nn.init.constant_(m[2].bias, 1e6)\n    return m\n"
    )
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(tmp_path / "a.png")
    command = ["explain", str(tmp_path / "a.png"), "--model", f"{tmp_path / 'net.py'}:make", "--size", "8"]
    done = CliRunner().invoke(app, [*command, "--composite", "epsilon", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "warning: a: Of relevance only" in said
    assert "most of it bias at 2 (linear)" in said
    assert " 0.000" not in done.output
