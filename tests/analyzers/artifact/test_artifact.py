"""Artifacts: what a loaded program says is what the live analyzer says, and what does not fit is refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.archives import NOTES, PROGRAM, members
from support.networks import Attention, Residual, Tokens, cnn, ids, pictures, vectors
from torch import Tensor, nn

import relprop
from relprop import LRP
from relprop.analyzers.artifact import runner
from relprop.analyzers.artifact.metadata import FORMAT, METADATA
from relprop.composites import AttnLRP, EpsilonPlus, EpsilonPlusFlat
from relprop.engine.program.trace import Traced
from relprop.errors import ArtifactError, InputError, TargetError


class Case:
    """An analyzer, its artifact, and inputs for both."""

    def __init__(self, path: Path, lrp: LRP, inputs: Callable[..., dict[str, Tensor]], by_name: bool, **options: Any):
        self.lrp, self.inputs, self.by_name, self.options = lrp, inputs, by_name, options
        example = inputs(2)
        self.path = lrp.export(path, example if by_name else tuple(example.values()), **options)
        self.loaded = relprop.load(path)

    def call(self, function: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
        return function(**inputs, **options) if self.by_name else function(*inputs.values(), **options)


CASES: dict[str, Callable[[Path], Case]] = {
    "cnn": lambda p: Case(p, LRP(cnn().eval(), EpsilonPlusFlat()), pictures, False, layers=True),
    "residual": lambda p: Case(
        p, LRP(Residual().eval(), EpsilonPlus(), normalize_output=False), pictures, False, target="input"
    ),
    "attention": lambda p: Case(p, LRP(Attention().eval(), AttnLRP()), vectors, False, target=1),
    "tokens": lambda p: Case(p, LRP(Tokens().eval(), AttnLRP()), ids, True),
}


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CASES[request.param](tmp_path_factory.mktemp("artifact") / f"{request.param}.pt2")


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", names, indirect=True)


def close(found: Tensor, expected: Tensor) -> None:
    """To float32's rounding in a few sums: live, a class token's part may run for itself alone."""
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6 * max(float(expected.abs().max()), 1.0))


@only(*CASES)
@pytest.mark.parametrize("batch", [1, 2, 5, 17])
def test_loaded_equals_live_for_every_batch(case: Case, batch: int):
    x = case.inputs(batch)
    asked = dict(case.options)
    given = {"target": torch.arange(batch) % 3} if asked.get("target") == "input" else {}
    for _ in range(2):  # nothing that a call writes to may be there in the next one
        found = case.call(case.loaded, x, **given)
    expected = case.call(case.lrp, x, **(asked | given))
    close(found.relevance, expected.relevance)
    assert torch.equal(found.target, expected.target)
    assert list(found.inputs) == list(expected.inputs)
    assert found.layers.keys() == expected.layers.keys()
    for name, relevance in expected.layers.items():
        close(found.layers[name], relevance)
    torch.testing.assert_close(found.output, expected.output, rtol=1e-6, atol=1e-6)


@only("cnn", "tokens")
def test_torch_alone_runs_the_file(case: Case):
    x = case.inputs(3)
    found = case.call(torch.export.load(case.path).module(), x)
    expected = case.call(case.lrp, x)
    assert set(found) == {"output", "relevance", "target"} | ({"layers"} if case.options.get("layers") else set())
    close(found["relevance"], expected.relevance)


@only("tokens")
@pytest.mark.parametrize("length", [3, 16])
def test_sequences_of_other_lengths(case: Case, length: int):
    x = ids(3, length)
    close(case.loaded(**x).relevance, case.lrp(**x).relevance)


@only("residual")
def test_a_target_as_an_input(case: Case):
    x = pictures(3)["x"]
    for target in (1, -1, torch.tensor([0, 2, 1]), torch.tensor([-1, 0, 1])):
        close(case.loaded(x, target=target).relevance, case.lrp(x, target=target).relevance)
    program, target = torch.export.load(case.path).module(), torch.tensor([0, 2, -1])
    close(program(x, target=target)["relevance"], case.lrp(x, target=target).relevance)
    with pytest.raises(Exception, match="out of bounds"):
        program(x, target=torch.tensor([0, 3, 1]))
    with pytest.raises(TargetError, match="out of range"):
        case.loaded(x, target=3)
    with pytest.raises(TargetError, match="takes the target as an input"):
        case.loaded(x)


@only("cnn", "attention")
def test_a_target_that_is_fixed_cannot_be_changed(case: Case):
    with pytest.raises(TargetError, match="target='input'"):
        case.call(case.loaded, case.inputs(2), target=2)


@only("cnn")
def test_inputs_that_do_not_fit_are_refused(case: Case):
    x = pictures(2)["x"]
    for wrong, message in (
        (x[:, :, :5], r"shape \(2, 2, 5, 6\).* takes input: float32\(d0, 2, 6, 6\)"),
        (x[0], "shape"),
        (x[:0], "shape"),
        (x.double(), "dtype torch.float64"),
        (x.numpy(), "is to be a tensor"),
        (x.to("meta"), "was written for cpu"),
        (torch.full_like(x, torch.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            case.loaded(wrong)
    for args, kwargs in (((), {}), ((x, x), {}), ((x,), {"mask": x})):
        with pytest.raises(InputError, match=r"takes \(input\)"):
            case.loaded(*args, **kwargs)
    close(case.loaded(input=x).relevance, case.loaded(x).relevance)


@only("tokens")
def test_inputs_whose_sizes_disagree_are_refused(case: Case):
    x = ids(3)
    with pytest.raises(InputError, match=r"attention_mask has shape|does not serve inputs of these sizes"):
        case.loaded(input_ids=x["input_ids"], attention_mask=x["attention_mask"][:, :-1])


@only("cnn", "tokens")
def test_the_file_holds_each_tensor_once_and_no_traces(case: Case):
    with zipfile.ZipFile(case.path) as archive:
        text = "".join(archive.read(n).decode("utf-8", "replace") for n in archive.namelist() if n.endswith(".json"))
    notes = json.loads(members(case.path)[NOTES])
    assert notes["format"] == FORMAT
    assert notes["rules"] == str(case.lrp)
    assert notes["relprop"] == relprop.__version__
    assert "/src/relprop/" not in text
    state = torch.export.load(case.path).state_dict
    assert len({t.data_ptr() for t in state.values()}) == len(state)
    parameters = sum(p.numel() for p in case.lrp.model.parameters())
    assert sum(t.numel() for t in state.values()) <= 2 * parameters  # a modified weight at most for each


class Branches(nn.Module):
    """Whose code looks at the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * 2 if x.shape[0] > 3 else self.fc(x)


def test_sizes_for_which_the_model_takes_another_branch_are_refused(tmp_path: Path):
    lrp = LRP(Branches())
    lrp.export(tmp_path / "small.pt2", (torch.rand(2, 4),))
    loaded = relprop.load(tmp_path / "small.pt2")
    x = torch.rand(3, 4)
    assert torch.equal(loaded(x).output, lrp(x).output)
    with pytest.raises(InputError, match="does not serve inputs of these sizes"):
        loaded(torch.rand(4, 4))
    with pytest.raises(Exception, match=r"Guard failed|Expected input at"):
        torch.export.load(tmp_path / "small.pt2").module()(torch.rand(4, 4))


def test_outputs_of_the_models_own_classes_become_plain():
    from dataclasses import dataclass

    @dataclass
    class Output:
        logits: Tensor
        loss: Tensor | None = None

    x = torch.rand(2)
    assert runner.plain({"a": (Output(x), [x])}) == {"a": ({"logits": x}, [x])}


def test_exporting_again_replaces_and_follows_the_parameters(tmp_path: Path):
    model, path = nn.Sequential(nn.Linear(3, 2)), tmp_path / "x.pt2"
    lrp = LRP(model)
    with pytest.raises(InputError, match="give example inputs"):
        lrp.export(path)
    x = torch.rand(2, 3)
    lrp(x)
    lrp.export(path)
    with torch.no_grad():
        model[0].weight.mul_(2)
    model[0].bias = nn.Parameter(torch.ones(2))
    lrp.export(path)
    assert torch.equal(relprop.load(path)(x).output, model(x))
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------ what goes wrong


@pytest.fixture(scope="module")
def tiny() -> LRP:
    lrp = LRP(nn.Sequential(nn.Linear(3, 2)))
    lrp(torch.rand(2, 3))
    return lrp


def test_paths_that_cannot_be_written(tiny: LRP, tmp_path: Path):
    (tmp_path / "folder.pt2").mkdir()
    for name, message in (("x.pth", r"\.pt2"), ("no/x.pt2", "no folder"), ("folder.pt2", "is a folder")):
        with pytest.raises(ArtifactError, match=message):
            tiny.export(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pt2"]


def test_targets_that_cannot_be_exported(tiny: LRP, tmp_path: Path):
    for target, message in (
        (torch.tensor([0, 1]), "target='input'"),
        ("largest", "'input'"),
        (5, "out of range"),
    ):
        with pytest.raises(TargetError, match=message):
            tiny.export(tmp_path / "x.pt2", target=target)
    assert not list(tmp_path.iterdir())


def test_a_target_function_becomes_part_of_the_program(tiny: LRP, tmp_path: Path):
    def difference(output: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(output[:, 0]), -torch.ones_like(output[:, 0])], 1)

    tiny.export(tmp_path / "x.pt2", target=difference)
    x = torch.rand(5, 3)
    found = relprop.load(tmp_path / "x.pt2")(x)
    close(found.relevance, tiny(x, target=difference).relevance)
    assert found.target is None

    def fixed(output: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    def reads(output: Tensor) -> Tensor:
        return output * 2 if output.sum() > 0 else output

    with pytest.raises(ArtifactError, match=r"could not be traced.*torch\.where"):
        tiny.export(tmp_path / "none.pt2", target=reads)
    assert not (tmp_path / "none.pt2").exists()
    with pytest.warns(UserWarning, match="only with size 2 in dimension 0"):
        tiny.export(tmp_path / "x.pt2", target=fixed)
    with pytest.raises(InputError, match=r"float32\(2, 3\)"):
        relprop.load(tmp_path / "x.pt2")(x)


def test_nothing_is_left_of_an_export_that_fails(tiny: LRP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.pt2"
    tiny.export(path)
    before = path.read_bytes()

    def full(program: Any, file: Path, **options: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(ArtifactError, match="no space left"):
        tiny.export(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_program_that_disagrees_is_not_written(tiny: LRP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = Traced.state
    monkeypatch.setattr(Traced, "state", lambda self, constants: [t * 1.5 + 1 for t in state(self, constants)])
    with pytest.raises(ArtifactError, match="other relevance"):
        tiny.export(tmp_path / "x.pt2", (torch.rand(2, 3),))
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_artifacts(tiny: LRP, tmp_path: Path):
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    (tmp_path / "random.pt2").write_bytes(b"not a zip file")
    (tmp_path / "model.pth").write_bytes(b"")
    torch.export.save(torch.export.export(Plain(), (torch.rand(2),)), tmp_path / "plain.pt2")
    for name, message in (
        ("random.pt2", "no artifact, or a damaged one"),
        ("model.pth", "does not end in .pt2"),
        ("plain.pt2", "no artifact of relprop"),
        ("none.pt2", "no file"),
    ):
        with pytest.raises(ArtifactError, match=message):
            relprop.load(tmp_path / name)


def rewritten(path: Path, new: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            archive.writestr(name, change(name, old.read(name)))
    return new


def test_newer_and_damaged_artifacts(tiny: LRP, tmp_path: Path):
    path = tiny.export(tmp_path / "x.pt2")

    def newer(name: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | {"format": FORMAT + 1}).encode() if name.endswith(METADATA) else content

    def without_notes(name: str, content: bytes) -> bytes:
        return b"{}" if name.endswith(METADATA) else content

    def without_program(name: str, content: bytes) -> bytes:
        return b"{}" if name.endswith(PROGRAM) else content

    for change, message in (
        (newer, f"format {FORMAT + 1}.*update relprop"),
        (without_notes, "damaged"),
        (without_program, "cannot be read by torch"),
    ):
        with pytest.raises(ArtifactError, match=message):
            relprop.load(rewritten(path, tmp_path / "y.pt2", change))
