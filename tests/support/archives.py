"""Artifacts changed by an attacker's hand: what stands in them, and files written anew with something else."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support.versions import BEFORE_2_13

from relprop.analyzers.artifact.metadata import METADATA

Members = dict[str, bytes]
FLAT = torch.__version__.startswith(("2.6.", "2.7."))
"""These lay artifacts out in another way: no folder, and all weights in one pickle."""
FOLDER = "" if FLAT else "model/"


def members(path: Path) -> Members:
    """What an artifact holds, by the names inside its folder."""
    with zipfile.ZipFile(path) as archive:
        return {name if FLAT else name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, each in content.items():
            archive.writestr(f"{FOLDER}{name}", each)
    return path


def edited(content: Members, name: str, change: Callable[[Any], None]) -> Members:
    """The same with one JSON changed in place."""
    value = json.loads(content[name])
    change(value)
    return content | {name: json.dumps(value).encode()}


class MakesFolder:
    """Pickled, a call of `os.mkdir`: a mark that code ran."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def pickled(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(MakesFolder(mark), buffer)
    return buffer.getvalue()


WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
PROGRAM = "serialized_exported_program.json" if FLAT else "models/model.json"
SAMPLES = "serialized_example_inputs.pt" if FLAT else "data/sample_inputs/model.pt"
WEIGHTS_IN_ONE = "serialized_state_dict.pt" if FLAT else "data/weights/model.pt"
NOTES = f"extra_files/{METADATA}" if FLAT else f"extra/{METADATA}"


def _code(mark: Path) -> str:
    return f"__import__('os').mkdir('{mark}')"


def _rename(program: dict[str, Any], new: str) -> dict[str, Any]:
    """Call the input by another name wherever it stands."""
    return json.loads(json.dumps(program).replace('"input"', json.dumps(new)))


def _pickled_weight(content: Members, mark: Path) -> Members:
    def change(config: Any) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    return edited(content, WEIGHTS, change) | {"data/weights/weight_0": pickled(mark)}


def _opaque_constant(content: Members, mark: Path) -> Members:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    extra = {"data/constants/opaque_obj_0": pickle.dumps(MakesFolder(mark))}
    return edited(content, CONSTANTS, lambda config: config["config"].update(o=entry)) | extra


def _size(content: Members, mark: Path) -> Members:
    def change(program: Any) -> None:
        graph = program["graph_module"]["graph"]
        next(iter(graph["sym_int_values"].values()))["as_expr"]["expr_str"] = _code(mark)

    return edited(content, PROGRAM, change)


def _new_program(content: Members, make: Callable[[Any], Any]) -> Members:
    return content | {PROGRAM: json.dumps(make(json.loads(content[PROGRAM]))).encode()}


def _guard(content: Members, mark: Path) -> Members:
    return edited(content, PROGRAM, lambda program: program.update(guards_code=[_code(mark)]))


ATTACKS: dict[str, Callable[[Members, Path], Members]] = {
    "a pickle among the sample inputs": lambda content, mark: content | {SAMPLES: pickled(mark)},
    **({} if FLAT else {"a pickled weight": _pickled_weight}),
    **({} if BEFORE_2_13 else {"a pickled constant": _opaque_constant}),
    "weights in the old form": lambda content, mark: content | {WEIGHTS_IN_ONE: pickled(mark)},
    **({} if FLAT else {"a guard that is code": _guard}),
    "a size that is code": _size,
    "a name that is code": lambda content, mark: _new_program(
        content, lambda program: _rename(program, f"x, y={_code(mark)}")
    ),
}
"""What runs code where `torch.export.load` alone reads and calls the program, each as a change of an artifact."""
