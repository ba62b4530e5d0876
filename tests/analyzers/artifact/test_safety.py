"""Artifacts from elsewhere: no file runs code, and what is damaged or strange is refused with a word for it."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from support.archives import (
    ATTACKS,
    FLAT,
    FOLDER,
    NOTES,
    PROGRAM,
    SAMPLES,
    WEIGHTS,
    WEIGHTS_IN_ONE,
    Members,
    edited,
    members,
    pickled,
    write,
)
from torch import nn

import relprop
from relprop import LRP
from relprop.analyzers.artifact.expressions import check_guard, check_size
from relprop.errors import ArtifactError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Members:
    path = tmp_path_factory.mktemp("good") / "model.pt2"
    LRP(nn.Linear(4, 3)).export(path, (torch.randn(2, 4),))
    return members(path)


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_file_is_run(attack: str, good: Members, tmp_path: Path):
    mark, x = tmp_path / "ran", torch.randn(2, 4)
    file = write(tmp_path / "bad.pt2", ATTACKS[attack](good, mark))
    with pytest.raises(ArtifactError, match="safe to read"):
        relprop.load(file)(x)
    assert not mark.exists()
    with suppress(Exception), warnings.catch_warnings():  # the attack is one: PyTorch alone runs it
        warnings.simplefilter("ignore")
        torch.export.load(file).module()(x)
    assert mark.exists()


def test_the_same_file_written_anew_loads(good: Members, tmp_path: Path):
    x = torch.randn(5, 4)
    found = relprop.load(write(tmp_path / "same.pt2", good))(x)
    torch.export.load(write(tmp_path / "model.pt2", good))
    if FLAT:
        stored = list(torch.load(io.BytesIO(good[WEIGHTS_IN_ONE]), weights_only=True).values())
    else:
        stored = [torch.frombuffer(bytearray(good[f"data/weights/weight_{i}"]), dtype=torch.float32) for i in (0, 1)]
    bias, weight = sorted(stored, key=torch.numel)  # PyTorch numbers them in no order of its own
    torch.testing.assert_close(found.output, x @ weight.view(3, 4).T + bias)


def test_the_first_format_loads(good: Members, tmp_path: Path):
    """Which had no names of classes, no composite and no options."""

    def first(notes: dict[str, Any]) -> None:
        for later in ("classes", "composite", "options"):
            del notes[later]
        notes["format"] = 1

    x = torch.randn(5, 4)
    old, new = (
        relprop.load(write(tmp_path / name, content))
        for name, content in (("old.pt2", edited(good, NOTES, first)), ("new.pt2", good))
    )
    assert old.metadata.classes == ()
    assert torch.equal(old(x).relevance, new(x).relevance)


def test_a_large_file_is_copied_to_the_disk(good: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from relprop.analyzers.artifact import archive

    made = []
    real = archive.tempfile.TemporaryFile
    monkeypatch.setattr(archive, "IN_MEMORY", 100)
    monkeypatch.setattr(archive.tempfile, "TemporaryFile", lambda: made.append(real()) or made[-1])
    loaded = relprop.load(write(tmp_path / "same.pt2", good))
    assert loaded(torch.randn(5, 4)).output.shape == (5, 3)
    assert len(made) == 1
    assert made[0].closed


@pytest.mark.skipif(FLAT, reason="all files have that form here")
def test_a_file_in_the_old_form_of_torch_2_6(good: Members, tmp_path: Path):
    """The same program, as torch 2.6 and 2.7 lay it out."""
    config = json.loads(good[WEIGHTS])["config"]
    state = {}
    for key, entry in config.items():
        sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
        data = bytearray(good[f"data/weights/{entry['path_name']}"])
        state[key] = torch.frombuffer(data, dtype=torch.float32).view(sizes)
    major, minor = (json.loads(good[PROGRAM])["schema_version"][part] for part in ("major", "minor"))
    old = {
        "serialized_exported_program.json": good[PROGRAM],
        "serialized_state_dict.pt": _saved(state),
        "serialized_constants.pt": _saved({}),
        "serialized_example_inputs.pt": good[SAMPLES],
        "version": f"{major}.{minor}".encode(),
        NOTES.replace("extra", "extra_files"): good[NOTES],
    }
    x = torch.randn(5, 4)
    loaded = relprop.load(_flat(tmp_path / "old.pt2", old))
    torch.testing.assert_close(loaded(x).output, x @ state["p_weight"].T + state["p_bias"])
    for name in ("serialized_state_dict.pt", "serialized_constants.pt", "serialized_example_inputs.pt"):
        with pytest.raises(ArtifactError, match="more than tensors"):
            relprop.load(_flat(tmp_path / "bad.pt2", old | {name: pickled(tmp_path / "ran")}))
    assert not (tmp_path / "ran").exists()


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _flat(path: Path, content: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, each in content.items():
            archive.writestr(name, each)
    return path


# What an archive may be.


def test_archives_that_grow_escape_or_hide_are_refused(good: Members, tmp_path: Path):
    bomb = good | {"data/weights/weight_0": bytes(10_000_000)}
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    cases = {
        "compressed": write(tmp_path / "bomb.pt2", bomb, zipfile.ZIP_DEFLATED),
        "'../../escaped'": write(tmp_path / "escape.pt2", good | {"../../escaped": b""}),
        "no part in an artifact": write(tmp_path / "library.pt2", good | {"data/aotinductor/model/a.so": b"ELF"}),
        r"'models/other.json'": write(tmp_path / "second.pt2", good | {"models/other.json": good[PROGRAM]}),
        "its members are compressed": write(tmp_path / "inside.pt2", good | {SAMPLES: inner.getvalue()}),
        "one name": _twice(tmp_path / "twice.pt2", good),
        "larger than the file": _overlapping(tmp_path / "overlap.pt2"),
    }
    for message, file in cases.items():
        assert file.stat().st_size < 20_000_000
        with pytest.raises(ArtifactError, match=message):
            relprop.load(file)
    assert {path.name for path in tmp_path.iterdir()} == {file.name for file in cases.values()}


def _twice(path: Path, content: Members) -> Path:
    write(path, content)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(f"{FOLDER}{PROGRAM}", b"{}")
    return path


def _overlapping(path: Path) -> Path:
    """Many names for the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{FOLDER}data/weights/weight_0", bytes(100_000))
        first = archive.filelist[0]
        for i in range(1, 100):
            copy = zipfile.ZipInfo(f"{FOLDER}data/weights/weight_{i}")
            for name in ("header_offset", "CRC", "file_size", "compress_size"):
                setattr(copy, name, getattr(first, name))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive._didModify = True  # type: ignore[attr-defined]
    return path


def test_names_that_are_no_files(tmp_path: Path):
    loop = tmp_path / "loop.pt2"
    loop.symlink_to("loop.pt2")
    pipe = tmp_path / "pipe.pt2"
    os.mkfifo(pipe)  # opening it would wait for a writer for ever
    for name in (loop, pipe, tmp_path, "a\0b.pt2", "\udcff.pt2", tmp_path / ("x" * 5000 + ".pt2")):
        with pytest.raises(ArtifactError, match="no file"):
            relprop.load(name)


# What a program and its notes may say.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "\x1b[2Jgone"),
        ("rules", "\ud800"),
        ("model", 5),
        ("positional", ["x", "x"]),
        ("positional", ["not a name"]),
        ("positional", "x"),
        ("takes_target", "yes"),
        ("inputs", [{"name": 1, "dtype": "float32", "shape": [2]}]),
        ("inputs", [{"name": "x", "dtype": "float32", "shape": [[2]]}]),
        ("inputs", 7),
        ("explained", ["3"]),
        ("layers", [["a"]]),
        ("classes", "star"),
        ("classes", ["\x1b[2Jgone"]),
        ("composite", "\x07"),
        ("options", 1),
        ("unknown", 1),
    ],
)
def test_notes_of_another_form_are_refused(field: str, value: Any, good: Members, tmp_path: Path):
    changed = edited(good, NOTES, lambda notes: notes.update({field: value}))
    with pytest.raises(ArtifactError, match="is damaged"):
        relprop.load(write(tmp_path / "x.pt2", changed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: _first_node(p).update(target="torch.ops.aten.from_file.default"),
            "no operator of PyTorch on tensors",
        ),
        (lambda p: _first_node(p).update(target="torch.os.mkdir"), "no operator of PyTorch on tensors"),
        (lambda p: _first_node(p).update(target="torch.ops.load_library"), "no operator of PyTorch on tensors"),
        (lambda p: _first_node(p).update(target="torch.ops.aten.nothing.default"), "does not have"),
        (lambda p: _first_node(p).update(target="torch.ops.mylib.f.default"), r"operators=\('mylib',\)"),
        (lambda p: _call(p).update(in_spec=_packed("collections.namedtuple")), "not in plain containers"),
        (lambda p: _call(p).update(in_spec=_packed("builtins.tuple", '["a=print()"]')), "the name 'a=print"),
        (lambda p: _call(p).update(forward_arg_names=["x=print()"]), "the name 'x=print"),
        (lambda p: p.update(range_constraints={"s0": {"min_val": "print()", "max_val": None}}), "bounds a size"),
        (lambda p: p.update(range_constraints={"s0 + print()": {"min_val": 2, "max_val": None}}), "the name"),
        (lambda p: p.update(more="print()"), "the text 'print"),
        (lambda p: p.update(more=json.loads("[" * 200 + "]" * 200)), "too deeply"),
        (lambda p: p["graph_module"]["graph"].update(custom_obj_values={"a": {}}), "objects of other classes"),
    ],
)
def test_programs_of_another_form_are_refused(change: Any, message: str, good: Members, tmp_path: Path):
    with pytest.raises(ArtifactError, match=message):
        relprop.load(write(tmp_path / "x.pt2", edited(good, PROGRAM, change)))


def _first_node(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"][0]


def _call(program: Any) -> Any:
    return program["graph_module"]["module_call_graph"][0]["signature"]


def _packed(kind: str, keywords: str = "[]") -> str:
    leaf = {"type": None, "context": None, "children_spec": []}
    args = {"type": kind, "context": "null", "children_spec": [leaf]}
    kwargs = {"type": "builtins.dict", "context": keywords, "children_spec": []}
    return json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [args, kwargs]}])


def test_quotes_in_texts_do_not_reach_code(good: Members, tmp_path: Path):
    """A constant input's text becomes part of a guard, between quotes."""
    mark = tmp_path / "ran"

    def change(program: Any) -> None:
        graph = program["graph_module"]
        text = {"as_string": f"' or __import__('os').mkdir('{mark}') or '"}
        graph["graph"]["inputs"].append(text)
        graph["signature"]["input_specs"].append({"constant_input": {"name": "mode", "value": text}})

    with suppress(ArtifactError):
        relprop.load(write(tmp_path / "x.pt2", edited(good, PROGRAM, change)))
    assert not mark.exists()


SIZES = (
    "Symbol('s31', positive=True, integer=True)",
    "Mul(Integer(5), Symbol('s77', positive=True, integer=True))",
    "Add(Pow(FloorDiv(Symbol('s0'), Integer(2)), Integer(2)), Integer(-1))",
    "5*s0",
    "(s0//2)**2 + 1",
    "Eq(Mod(s27, 2), 0)",
    "Float('0.5', precision=53)",
)
GUARDS = (
    "L['target'].size()[0] == L['x'].size()[0]",
    "L['args'][0].size()[1] <= 16 and not (L['kwargs']['x'].size()[-1] % 2 != 0)",
    "math.floor(L['x'].size()[0] / 2) >= 1",
)
NEITHER = (
    "__import__('os')",
    "().__class__",
    "s0.__class__",
    "(lambda: 1)()",
    "[x for x in (1,)]",
    "print(s0)",
    "eval('1')",
    "Symbol('print()')",
    "Symbol('s0', **{})",
    "f'{s0}'",
    "s0 := 3",
    "2**1000000",
    "2**2**2**2**2**2",
    "Pow(Integer(10), Integer(100000))",
    "L['x'].size.__globals__",
    "L['x'].size()[0] if True else 2",
    'L["x"]',
    "1\n2",
    "(" * 1000,
    "s" * 5000,
    "1" * 400,
    5,
    None,
)


def test_expressions_over_sizes():
    for text in SIZES:
        check_size(text)
    for text in GUARDS:
        check_guard(text)
    for check in (check_size, check_guard):
        for text in NEITHER:
            with pytest.raises(ArtifactError, match="expression"):
                check(text)


def test_operators_of_ones_own_are_trusted_by_name(tmp_path: Path):
    lib = torch.library.Library("relprop_safety_test", "DEF")
    lib.define("same(Tensor x) -> Tensor")
    lib.impl("same", lambda x: x.clone(), "CompositeExplicitAutograd")

    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.relprop_safety_test.same(x)

    path = tmp_path / "model.pt2"
    notes = json.dumps(_notes("Same"))
    torch.export.save(torch.export.export(Same(), (torch.rand(2),)), path, extra_files={"relprop.json": notes})
    with pytest.raises(ArtifactError, match=r"operators=\('relprop_safety_test',\)"):
        relprop.load(path)
    loaded = relprop.load(path, operators=("relprop_safety_test",))
    assert torch.equal(loaded.program(torch.ones(2)), torch.ones(2))


def _notes(model: str) -> dict[str, Any]:
    lists: dict[str, Any] = {
        key: [] for key in ("positional", "keywords", "inputs", "explained", "relevance", "layers")
    }
    texts = dict.fromkeys(("relprop", "torch", "rules", "target", "device"), "")
    return {"format": 1, "model": model, "takes_target": False, "checks_finite": True, **texts, **lists}
