"""Writing an analyzer to a file: a program that takes the model's inputs and returns output and relevance.

What is written is the flat graph of `relprop.engine.program.trace` with its tensors, as `torch.export` stores programs.
PyTorch alone runs it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from relprop.analyzers.artifact import onnx
from relprop.analyzers.artifact.metadata import FORMAT, METADATA, InputSpec, Metadata, showable
from relprop.analyzers.artifact.runner import TARGET, Runner, first_tensor, keyword_names, positional_names
from relprop.engine.graph.graph import Graph, Node, fake_value, is_floating, is_open, shape_of
from relprop.engine.ops.analysis import only_masks
from relprop.engine.program.answer import answer
from relprop.engine.program.program import Program
from relprop.engine.program.question import Question
from relprop.engine.program.trace import Names, Traced, trace
from relprop.errors import ArtifactError, RelpropError, TargetError, warn
from relprop.explanations.files import replacing
from relprop.targets import Largest, Normalize, Seed, Target, TargetLike, as_target
from relprop.targets.output import Given

FROM_INPUT: Literal["input"] = "input"
"""As a target: the artifact takes it as an input, a LongTensor (B,)."""

SUFFIXES = (".pt2", ".onnx")


@dataclass(frozen=True)
class Job:
    """What is to be written.

    Attributes:
        program: the program. wanted: name -> node whose relevance is part of the results.
        seed: where relevance starts, unless the program takes that as an input.
        takes_target: the target is an input of the program.
        checks: as the analyzer has it.
        table: the analyzer's printed table, for the reader of the file. described: the analyzer and its model in words.
        classes: names of the outputs.
    """

    program: Program
    wanted: Mapping[str, Node]
    seed: Seed
    takes_target: bool
    checks: bool
    table: str
    described: Mapping[str, str]
    classes: Sequence[str] | None = None


def write(job: Job, path: Path, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Write the artifact, or nothing.

    Args:
        args, kwargs: what the program is tried with.

    Raises:
        ArtifactError: the path cannot be written, or the program cannot be exported. TargetError: as `LRP` does.
    """
    to_onnx = path.suffix == ".onnx"
    if to_onnx:
        onnx.check_installed()
    exported, names = make(job, args, kwargs, spelled_out=to_onnx)
    notes = {METADATA: metadata_of(job, exported, names).to_json()}
    with replacing(path, ArtifactError) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if to_onnx:
            onnx.save(exported, temporary, _output_names(job, exported, names), notes)
        else:
            torch.export.save(exported, temporary, extra_files=notes)


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path, if a file can be written there.

    Raises:
        ArtifactError: another suffix, a folder that is missing or cannot be written to, or a folder of that name.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise ArtifactError(f"{file} should end in {' or '.join(SUFFIXES)}, which is what export writes.")
    if not file.parent.is_dir():
        raise ArtifactError(f"{file} cannot be written: there is no folder {file.parent}. Make it first.")
    if file.is_dir():
        raise ArtifactError(f"{file} cannot be written: it is a folder.")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise ArtifactError(f"{file} cannot be written: no permission in {file.parent}.")
    return file


def make(
    job: Job, args: tuple[Any, ...], kwargs: dict[str, Any], *, spelled_out: bool = False
) -> tuple[ExportedProgram, Names]:
    """The exported program, tried and found to agree with the live one, and what its results are.

    Args:
        spelled_out: without fused attention and other operators that only PyTorch has.
    """
    graph = job.program.graph
    _check_target(job)
    traced = _traced(job, spelled_out)
    state = traced.state(job.program.constants)
    assert state is not None, "tracing has made every weight"
    exported = _export(Runner(graph, traced, state, job.takes_target), job)
    if spelled_out:
        exported = onnx.spelled_out(exported)
    _check_open(graph, exported)
    _check_agreement(job, exported, args, kwargs)
    return exported, traced.names


def _traced(job: Job, spelled_out: bool) -> Traced:
    try:
        with sdpa_kernel(SDPBackend.MATH) if spelled_out else nullcontext():
            return trace(job.program, job.wanted, job.seed, takes_index=job.takes_target)
    except RelpropError:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise ArtifactError(
            f"The program could not be traced: {type(error).__name__}: {said} A target function or a rule of your own "
            "must not read values of tensors into Python, as `if`, float() and .item() do: use torch.where."
        ) from error


def _export(runner: Runner, job: Job) -> ExportedProgram:
    graph = job.program.graph
    args, kwargs = graph.examples()
    sizes = [
        {i: Dim.AUTO for i, size in enumerate(fake_value(node).shape) if is_open(size)}
        if isinstance(fake_value(node), Tensor)
        else None
        for node in graph.inputs
    ]
    shapes, named = pytree.tree_unflatten(sizes, graph.in_spec)
    if job.takes_target:
        kwargs = kwargs | {TARGET: _zero_targets(args, kwargs)}
        named = named | {TARGET: {0: Dim.AUTO}}
    dynamic = dict(zip(positional_names(graph), shapes, strict=True)) | named
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(runner, tuple(args), kwargs, dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise ArtifactError(f"torch.export could not write the program: {type(error).__name__}: {said}") from error
    for node in exported.graph.nodes:  # where relprop's own lines are is nobody's business, and takes room
        node.meta.pop("stack_trace", None)
    return exported


def _zero_targets(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    first = first_tensor(pytree.tree_leaves((args, kwargs)))
    return torch.zeros(first.shape[0], dtype=torch.long, device=first.device)


def _output_names(job: Job, exported: ExportedProgram, names: Names) -> list[str]:
    args, kwargs = job.program.graph.examples()
    given = kwargs | ({TARGET: _zero_targets(args, kwargs)} if job.takes_target else {})
    return onnx.output_names(exported.module()(*args, **given), names.inputs)


def metadata_of(job: Job, exported: ExportedProgram, names: Names) -> Metadata:
    """What the file says about itself: how to call it, what it returns, and by which rules."""
    graph = job.program.graph
    symbols: dict[str, str] = {}
    return Metadata(
        format=FORMAT,
        relprop=version("relprop"),
        torch=torch.__version__,
        model=showable(job.described["model"]),
        rules=showable(job.table),
        target="an input of the artifact" if job.takes_target else showable(str(job.seed.target)),
        takes_target=job.takes_target,
        checks_finite=job.checks and not any(is_floating(n) and only_masks(n) for n in graph.inputs),
        device=str(first_tensor(map(fake_value, graph.inputs)).device),
        positional=tuple(positional_names(graph)),
        keywords=tuple(keyword_names(graph)),
        inputs=tuple(
            _input_spec(node.name, value, symbols)
            for node, value in zip(graph.inputs, _input_values(exported), strict=False)
        ),
        explained=tuple((shape_of(job.program.explained) or ())[1:]),
        relevance=names.inputs,
        layers=names.layers,
        classes=tuple(showable(str(name)) for name in job.classes or ()),
        composite=showable(job.described["composite"]),
        options=showable(job.described["options"]),
    )


def _input_values(exported: ExportedProgram) -> list[Any]:
    """What the export recorded of each flat input."""
    names = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    return [node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]


def _input_spec(name: str, value: Any, symbols: dict[str, str]) -> InputSpec:
    if not isinstance(value, Tensor):
        return InputSpec(name, None, ())
    shape = [symbols.setdefault(str(size), f"d{len(symbols)}") if is_open(size) else int(size) for size in value.shape]
    return InputSpec(name, str(value.dtype).removeprefix("torch."), tuple(shape))


def seed_of(given: TargetLike, classes: Sequence[str] | None, normalize_output: Normalize) -> tuple[Seed, bool]:
    """Where relevance starts, and whether the program is to take its target as an input.

    Raises:
        TargetError: the target belongs to one batch.
    """
    takes_target = isinstance(given, str) and given == FROM_INPUT
    if isinstance(given, str) and not takes_target and classes is None:
        raise TargetError(
            f"target={given!r}: the classes have no names, and the only other name is {FROM_INPUT!r}, which makes the "
            "target an input."
        )
    target: Target = Largest() if takes_target else as_target(given, classes)
    if target.for_one_batch:
        raise TargetError(
            "A tensor of targets belongs to one batch. target='input' makes it an input of the artifact; an int or a "
            "tuple selects one output for every sample."
        )
    return Seed(target, normalize_output), takes_target


def _check_target(job: Job) -> None:
    if job.takes_target:
        if TARGET in (*positional_names(job.program.graph), *keyword_names(job.program.graph)):
            raise TargetError("target='input': the model has an input of its own that is called target.")
        return
    shape = shape_of(job.program.explained)
    job.seed.target.check(2, shape[1:] if shape else ())


def _check_open(graph: Graph, exported: ExportedProgram) -> None:
    """Say which sizes the program has fixed beyond what the capture did."""
    for node, value in zip(graph.inputs, _input_values(exported), strict=False):
        captured = fake_value(node)
        for i, size in enumerate(captured.shape if isinstance(captured, Tensor) else ()):
            if is_open(size) and not is_open(value.shape[i]):
                warn(
                    f"The artifact takes {node.name} only with size {value.shape[i]} in dimension {i}. A target "
                    "function or a rule of your own that reads sizes as numbers fixes them."
                )


def _check_agreement(job: Job, exported: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run the program and the analyzer on one input."""
    leaves = pytree.tree_leaves((args, kwargs))
    index = _zero_targets(args, kwargs) if job.takes_target else None
    seed = job.seed if index is None else replace(job.seed, target=Given(index))
    live = next(answer(job.program, leaves, [Question(job.program.explained, seed, job.wanted)]))
    with torch.no_grad():
        found = exported.module()(*args, **kwargs, **({} if index is None else {TARGET: index}))
    relevance = found["relevance"] if isinstance(found["relevance"], tuple) else (found["relevance"],)
    for name, mine, its in zip(live.inputs, live.inputs.values(), relevance, strict=True):
        scale = float(mine.abs().max()) or 1.0
        # Rounding differs where operators were spelled out, and LRP divides by small numbers; a bug is no rounding.
        if not torch.allclose(mine / scale, its / scale, atol=1e-2, equal_nan=True):
            raise ArtifactError(
                f"The exported program gives other relevance for {name} than the analyzer, so nothing was written. "
                "This is a bug in relprop: please report it, with the model."
            )
