"""Commands that ask and write nothing, JSON of all of them, help, exit codes, and what a shell completes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import torchvision_shim
from typer.main import get_command
from typer.testing import CliRunner

import relprop.rules
from relprop.cli.app import app
from relprop.cli.completion import composite_completion, model_completion
from relprop.composites.names import composite_names
from relprop.models.demo import load_samples

NETS = """
import torch
from torch import nn

def refused():
    class Sorting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        def forward(self, x):
            return self.head(torch.linalg.qr(self.conv(x).mean((2, 3))[:, None]).R[:, 0])
    return Sorting()

def explodes():
    conv, head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3, bias=False)
    head.weight.data = torch.tensor([[50.0, -50.0, 0.02, 0.0]]).repeat(3, 1)
    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = conv, head
        def forward(self, x):
            y = self.conv(x).relu().mean((2, 3))[:, :1]
            return self.head(torch.cat([y, y, y, y], 1))[:, :1]
    return Same()
"""


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "FORCE_COLOR": None})
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


# --- check ---


def test_a_model_that_is_fine() -> None:
    said = run("check", "--model", "demo", "--image", load_samples()[0].path)
    assert "demo with epsilon-gamma-flat: fine" in said
    found = json.loads(run("check", "--model", "demo", "--json"))
    assert found["verdict"] == "fine"
    lines = {(line["operator"], line["rule"]): line for line in found["lines"]}
    assert lines["conv2d", "GeneralizedGammaRule(gamma=0.5)"]["count"] == 5
    assert lines["conv2d", "FlatRule()"]["count"] == 1
    assert all(line["imbalance"] < 1e-5 for line in found["lines"])
    assert found["arrived"] + dict(found["sinks"])["bias"] == pytest.approx(1.0, abs=2e-3)


def test_what_is_recommended_is_the_default_and_is_named() -> None:
    assert "demo-vit with reslrp-gamma: fine" in run("check", "--model", "demo-vit")
    assert "demo-vit with epsilon-gamma-flat: " in run(
        "check", "--model", "demo-vit", "--composite", "epsilon-gamma-flat"
    )


def test_a_model_that_is_refused_says_the_operator_and_exits_with_3(nets: Path) -> None:
    said = run("check", "--model", f"{nets}:refused", code=3)
    assert "refused" in said
    assert "qr" in said
    assert json.loads(run("check", "--model", f"{nets}:refused", "--json", code=3))["verdict"] == "refused"


def test_relevance_that_explodes_exits_with_1_and_says_what_helps(nets: Path) -> None:
    found = json.loads(run("check", "--model", f"{nets}:explodes", "--composite", "zero", "--json", code=1))
    assert found["verdict"] == "doubtful"
    assert "grew by a factor of" in found["trouble"]
    assert found["advice"].startswith("Nothing is wrong with --composite ")
    better = found["advice"].removeprefix("Nothing is wrong with --composite ").split(", ")[0]
    assert "fine" in run("check", "--model", f"{nets}:explodes", "--composite", better)


def test_what_cannot_be_asked_exits_with_2(nets: Path) -> None:
    for arguments, said in (
        (("--model", "resnet"), "is no model specification"),
        (("--model", "demo", "--composite", "plus"), "unknown composite 'plus'"),
        (("--model", "demo", "--text", "a film"), "text is for language models"),
        (("--model", f"{nets}:nothing"), "has no function 'nothing'"),
        (("--model", "demo", "--image", "missing.png"), "no such file"),
    ):
        assert said in run("check", *arguments, code=2)


# --- lists ---


def test_rules_are_all_there_with_their_parameters() -> None:
    found = {rule["name"]: rule for rule in json.loads(run("rules", "--json"))}
    base = {"Rule", "AffineRule", "FunctionRule"}
    assert set(found) == {name for name in relprop.rules.__all__ if name.endswith("Rule")} - base
    assert found["AlphaBetaRule"]["parameters"] == "alpha=2.0, beta=1.0"
    assert "Bach et al. 2015" in found["EpsilonRule"]["about"]
    said = run("rules", "gamma")
    assert "GeneralizedGammaRule" in said
    assert "EpsilonRule" not in said


def test_composites_are_those_that_explain_takes() -> None:
    found = json.loads(run("composites", "--json"))
    assert {each["name"] for each in found} == {*composite_names("pictures"), *composite_names("text")}
    assert all(each["about"] for each in found)
    assert "epsilon-plus-flat" in run("composites", "plus")


def test_models_by_a_part_of_their_name() -> None:
    torchvision_shim.install()
    assert {"demo", "hf:ID_OR_FOLDER"} <= {each["name"] for each in json.loads(run("models", "--json"))}
    found = {each["name"] for each in json.loads(run("models", "resnet18", "--json"))}
    assert "torchvision:resnet18" in found
    assert "timm:resnet18" in found
    assert all("resnet18" in name for name in found)
    assert run("models", "nosuchmodel", code=1).endswith("nothing has 'nosuchmodel' in its name\n")
    assert json.loads(CliRunner().invoke(app, ["rules", "nosuchrule", "--json"]).stdout) == []


# --- JSON of what writes files ---


def test_explain_prints_its_summary_as_json(tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = json.loads(run("explain", load_samples()[0].path, "--model", "demo", "--json", "--out", out))
    assert printed == json.loads((out / "summary.json").read_text("utf-8"))
    said = run("explain", "--model", "timm:x", "--json", code=2)
    assert "give at least one picture or folder, or --text SENTENCE, or --prompt TEXT" in said.replace("\n", " ")


def test_layers_and_export_as_json(tmp_path: Path) -> None:
    layers = {each["layer"]: each for each in json.loads(run("layers", "--model", "demo", "--json"))}
    assert layers["features.block1.conv"]["rule"] == "FlatRule()"
    assert layers["features.block1.norm"] == {
        "layer": "features.block1.norm",
        "is": layers["features.block1.norm"]["is"],
        "rule": None,
        "fused_into": "features.block1.conv",
    }
    file = tmp_path / "demo.pt2"
    found = json.loads(run("export", "--model", "demo", "--out", file, "--target", "star", "--json"))
    assert found == {
        "file": str(file),
        "bytes": file.stat().st_size,
        "explains": "output",
        "target": "star",
        "layers": [],
    }


# --- help and completion ---


def test_every_command_has_examples_that_it_would_take() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert {"check", "rules", "composites", "models", "explain", "layers", "export", "concepts"} <= set(commands)
    for name in ("check", "rules", "composites", "models", "explain", "layers", "export", "concepts"):
        lines = [line.strip() for line in commands[name].epilog.splitlines() if line.strip().startswith("relprop ")]
        assert lines, name
        for line in lines:
            words = shlex.split(line)
            assert words[1] == name
            commands[name].make_context(name, words[2:])
            assert line.split("'")[0].strip() in " ".join(run(name, "--help").split()), line
    assert "Exit codes" in run("--help")
    assert "Exit codes: 0 fine, 1 explained but not to be trusted" in " ".join(run("check", "--help").split())


def test_composites_and_models_are_completed() -> None:
    torchvision_shim.install()
    assert composite_completion("epsilon-p") == ["epsilon-plus-flat", "epsilon-plus"]
    assert {"demo", "timm:", "hf:", "torchvision:"} <= set(model_completion(""))
    assert model_completion("ti") == ["timm:"]
    assert "torchvision:resnet18" in model_completion("torchvision:resnet1")
    assert model_completion("hf:x") == []


def test_a_real_shell_asks_and_is_answered() -> None:
    script = "import sys; sys.argv = ['relprop']; from relprop.cli import main; main()"
    asked = {
        "_RELPROP_COMPLETE": "complete_bash",
        "COMP_WORDS": "relprop layers --composite epsilon-g",
        "COMP_CWORD": "3",
    }
    ran = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert ran.stdout.split() == ["epsilon-gamma-flat", "epsilon-gamma", "epsilon-gamma-box"]
