"""What an artifact answers draws, reports and saves itself as the analyzer's own explanation does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.networks import Tokens, ids
from torch import Tensor, nn
from typer.testing import CliRunner

import relprop
from relprop import LRP, Explanation
from relprop.analyzers.artifact.loaded import Artifact
from relprop.cli.app import app
from relprop.composites import AttnLRP, EpsilonPlus
from relprop.errors import InputError, TargetError
from relprop.evaluation import trust
from relprop.explanations.figures.view import caption
from relprop.explanations.report.page import code

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

CLASSES = ["ring", "a\x1b[2J star", "burst"]
SHOWN = ["ring", "a�[2J star", "burst"]


@pytest.fixture(scope="module")
def lrp() -> LRP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    return LRP(net, EpsilonPlus(), classes=CLASSES)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def chosen(lrp: LRP, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Takes the target as an input."""
    return relprop.load(lrp.export(tmp_path_factory.mktemp("any") / "any.pt2", (x,), target="input", layers=["0"]))


@pytest.fixture(scope="module")
def fixed(lrp: LRP, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Explains what is predicted."""
    return relprop.load(lrp.export(tmp_path_factory.mktemp("one") / "one.pt2", (x,)))


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _loaded(lrp: LRP, inputs: Any, name: str, **options: Any) -> Artifact:
    return relprop.load(lrp.export(name, inputs, **options))


def test_it_knows_what_it_explains_and_of_what(lrp: LRP, chosen: Artifact, fixed: Artifact, x: Tensor) -> None:
    for found, live in ((chosen(x, target=2), lrp(x, target=2)), (fixed(x), lrp(x))):
        assert found.classes == tuple(SHOWN)
        assert torch.allclose(found.amount, live.amount)
        assert torch.equal(found.given["input"], x)
        assert found.by_input.keys() == live.by_input.keys() == found.given.keys()
        for name in ("analyzer", "composite", "options", "model", "torch", "relprop"):
            assert found.settings[name] == live.settings[name]
    assert chosen(x, target=2).explains == "output 2"
    assert fixed(x).explains == "the largest output of each sample"
    assert caption(chosen(x, target=0), 1) == caption(lrp(x, target=0), 1)
    assert caption(chosen(x, target=0), 1).startswith("ring = ")
    by_name = chosen(x, target="burst")
    assert torch.equal(by_name.relevance, chosen(x, target=2).relevance)


def test_an_amount_is_the_explained_output_among_several(lrp: LRP, x: Tensor) -> None:
    """Of `logits` and `features` it is the logits' entry; of a function nobody knows."""
    own = _loaded(lrp, (x,), "own.pt2", target=lambda y: y * torch.tensor([1.0, 0.0, -1.0]))(x)
    assert (own.amount, own.target) == (None, None)
    assert own.explains.startswith("the function")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokens, inputs = LRP(Tokens().eval(), AttnLRP()), ids(2)
    found = _loaded(tokens, inputs, "tokens.pt2")(**inputs)
    assert torch.allclose(found.amount, found.output["logits"].max(1).values)
    assert found.given.keys() == {"input_ids", "attention_mask"}
    assert len(found.plot(figure=Figure).axes[0].texts) == 6  # tokens, and no bars of a row
    assert trust(found).findings[0].said.startswith("Not measured: a program in a file says that of one input")


def test_the_picture_lies_under_its_heatmap(lrp: LRP, chosen: Artifact, x: Tensor) -> None:
    found, live = (each(x, target=1).plot(figure=Figure) for each in (chosen, lrp))
    assert len(found.axes) == len(live.axes) == 3 * 3 + 3  # input, relevance, both; a colour bar for each sample
    assert found.axes[0].get_title() == "input"
    assert len(chosen(x, target=1).plot(layer="0", figure=Figure).axes) == 2 * 3


def test_it_is_saved_with_its_input_and_its_file(chosen: Artifact, x: Tensor, tmp_path: Path) -> None:
    found = chosen(x, target=1)
    found.save(tmp_path / "found.safetensors")
    again = Explanation.load(tmp_path / "found.safetensors")
    assert torch.equal(again.relevance, found.relevance)
    assert torch.equal(again.given["input"], x)
    assert again.settings == found.settings
    assert (again.settings["artifact"], again.settings["target"]) == ("any.pt2", "1")
    assert torch.equal(again.layers["0"], found.layers["0"])


def test_its_page_switches_classes_and_tests_what_can_be_tested(
    lrp: LRP, chosen: Artifact, x: Tensor, tmp_path: Path
) -> None:
    found = chosen(x, target=1)
    found.report(tmp_path / "page.html", [2])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("data-panel=") == 3  # the other two classes; contrasts were not exported
    assert re.findall(r'<div data-layer="(\d)" data-name="(\d)">', page) == [("0", "0")]
    assert "The gain over hiding the least important first (SRG) is" in page
    assert "cannot be shuffled" in page
    assert "keeps no books" in page
    own, live = trust(found, 2).curves[0], trust(lrp(x, target=1), 2).curves[0]
    assert own.y == pytest.approx(live.y, rel=1e-4, abs=1e-5)


def test_a_fixed_target_has_one_panel_and_says_so(fixed: Artifact, x: Tensor, tmp_path: Path) -> None:
    fixed(x).report(tmp_path / "page.html", 0)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("data-panel=") == 1
    assert "SRG" in page
    with pytest.raises(TargetError, match="Export it again with target='input'"):
        fixed(x).report(tmp_path / "other.html", targets=[1])
    with pytest.raises(InputError, match=r"one\.pt2 takes no audit=: ask the analyzer"):
        fixed(x).origin.ask(None, 0, audit=True)
    assert not (tmp_path / "other.html").exists()


def test_the_lines_on_the_page_give_the_same_again(chosen: Artifact, x: Tensor, monkeypatch: Any) -> None:
    found = chosen(x, target=1)
    monkeypatch.chdir(chosen.path.parent)
    names: dict[str, Any] = {"x": x}
    exec(code(found.settings), names)
    assert torch.equal(names["explained"].relevance, found.relevance)


def test_what_a_terminal_shows_in_colours_is_written_without(monkeypatch: pytest.MonkeyPatch, lrp: LRP) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in str(lrp)
    assert relprop.load(lrp.export("tty.pt2", (torch.rand(1, 1, 6, 6),))).metadata.rules == repr(lrp)


@pytest.mark.slow
def test_the_command_knows_the_classes(tmp_path: Path) -> None:
    said = CliRunner().invoke(
        app, ["export", "--model", "demo", "--out", str(tmp_path / "demo.pt2"), "--target", "star"]
    )
    assert said.exit_code == 0, said.output
    found = relprop.load(tmp_path / "demo.pt2")(torch.rand(1, 3, 64, 64))
    assert caption(found, 0).startswith("star = ")
