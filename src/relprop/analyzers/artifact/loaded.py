"""Reading an artifact, and calling it like the analyzer that wrote it."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.analyzers.artifact.answered import Outputs, explanation_of
from relprop.analyzers.artifact.archive import HINT, Archive, opened
from relprop.analyzers.artifact.metadata import FORMAT, METADATA, Metadata
from relprop.analyzers.checks import check_finite
from relprop.engine.graph.signature import usable
from relprop.errors import ArtifactError, InputError, ModelError, TargetError
from relprop.explanations.explanation import Explanation
from relprop.targets import as_target

OF_SIZES = ("Guard failed", "Expected input at", "must match")
"""What errors of sizes say: a program's guards, those of torch 2.6, and operators where a program has none."""


class Artifact:
    """A program that was read from a file, called like the analyzer that wrote it.

    Attributes:
        path: the file.
        metadata: what it says about itself.
        program: the module as PyTorch loads it; it returns a dict with `output`, `relevance`, and what else there is.
    """

    OPTIONS: Collection[str] = ()
    """Of those of an analyzer's call: it keeps no books, and its layers are fixed."""

    def __init__(self, path: Path, program: Any, metadata: Metadata) -> None:
        self.path, self.program, self.metadata = path, program, metadata

    def __call__(self, *args: Any, target: Any = None, **kwargs: Any) -> Explanation:
        """Explain a batch.

        Args:
            *args: the model's inputs.
            **kwargs: those that have names.
            target: for an artifact with `target="input"` an int, integers of shape (B,), a tuple, or a class's name,
                as in `LRP`.

        Raises:
            InputError: the inputs do not fit the program.
            TargetError: the target does not, or is already fixed.
        """
        known = self.metadata
        args, kwargs = self._bound(args, kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        self._check(leaves)
        given = {"target": self._index(target, leaves)} if known.takes_target else {}
        if target is not None and not known.takes_target:
            raise TargetError(
                f"{self.path.name} explains {known.target}, which cannot be changed. "
                "Export it again with target='input' to choose at each call."
            )
        return explanation_of(self, args, kwargs, target, self._run(args, kwargs, given))

    def _run(self, args: Sequence[Any], kwargs: Mapping[str, Any], given: Mapping[str, Tensor]) -> Mapping[str, Any]:
        with torch.inference_mode(False), torch.no_grad():
            try:
                found: Mapping[str, Any] = self.program(
                    *map(usable, args), **{k: usable(v) for k, v in kwargs.items()}, **given
                )
            except (AssertionError, RuntimeError) as error:
                if not any(sign in str(error) for sign in OF_SIZES):
                    raise
                raise InputError(f"{self.path.name} does not serve inputs of these sizes: {error}") from error
        return found

    @property
    def explained(self) -> nn.Module:
        """The model in the program, for those who ask it again; each call works out relevance, too."""
        return Outputs(self._run, self.metadata).eval()

    def __repr__(self) -> str:
        known = self.metadata
        lines = [f"model   {known.model}", f"inputs  {', '.join(map(str, known.inputs))}", f"target  {known.target}"]
        lines += [f"layers  {', '.join(known.layers)}"] if known.layers else []
        lines += [f"from    relprop {known.relprop}, torch {known.torch}, for {known.device}"]
        return "\n".join([f"Artifact({self.path.name})", *(f"  {line}" for line in lines)])

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs, by position and by name as the program takes them."""
        known = self.metadata
        names = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in known.positional]
        names += [Parameter(name, Parameter.KEYWORD_ONLY) for name in known.keywords]
        try:
            bound = Signature(names).bind(*args, **kwargs)
        except TypeError as error:
            taken = ", ".join([*known.positional, *(f"{name}=" for name in known.keywords)])
            raise InputError(f"{self.path.name} takes ({taken}): {error}.") from error
        return bound.args, {name: bound.arguments[name] for name in known.keywords}

    def _check(self, leaves: Sequence[Any]) -> None:
        specs, sizes = self.metadata.inputs, dict[str, int]()
        if len(leaves) != len(specs):
            raise InputError(f"{self.path.name} takes {len(specs)} inputs, got {len(leaves)}: {self.metadata.inputs}")
        for spec, leaf in zip(specs, leaves, strict=True):
            if spec.dtype is None:
                continue
            if not isinstance(leaf, Tensor):
                raise InputError(f"{spec.name} is to be a tensor, {spec}, got {type(leaf).__name__}.")
            if str(leaf.dtype) != f"torch.{spec.dtype}":
                raise InputError(
                    f"{spec.name} has dtype {leaf.dtype}, but {self.path.name} takes {spec}: x.to(torch.{spec.dtype})."
                )
            if str(leaf.device) != self.metadata.device:
                raise InputError(
                    f"{spec.name} is on {leaf.device}, but {self.path.name} was written for {self.metadata.device}."
                )
            fits = len(leaf.shape) == len(spec.shape) and all(
                size == (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size))
                for size, wanted in zip(leaf.shape, spec.shape, strict=True)
            )
            if not fits or leaf.numel() == 0:
                raise InputError(f"{spec.name} has shape {tuple(leaf.shape)}, but {self.path.name} takes {spec}.")
            if self.metadata.checks_finite and leaf.is_floating_point():
                check_finite(leaf)

    def _index(self, target: Any, leaves: Sequence[Any]) -> Tensor:
        first = next(t for t in leaves if isinstance(t, Tensor) and t.dim())
        shape = [size for size in self.metadata.explained if size is not None]
        if target is None or callable(target):
            raise TargetError(
                f"{self.path.name} takes the target as an input: give an int, or integers of shape ({len(first)},)."
            )
        if len(shape) == len(self.metadata.explained):
            chosen = as_target(target, self.metadata.classes or None)
            chosen.check(len(first), shape)
            blank = first.new_zeros((), dtype=torch.float32).expand(len(first), *shape)
            index = chosen.index(blank) if chosen.knows_index else None
            if index is None:
                raise TargetError(
                    f"{self.path.name} takes one output for each sample, and not {chosen}: export it with that target."
                )
            return index
        if isinstance(target, Tensor) and target.dtype == torch.long and target.shape == (len(first),):
            return target
        raise TargetError(
            f"{self.path.name} takes the target as an index into each sample's flattened output: "
            f"a LongTensor ({len(first)},)."
        )


def load_artifact(path: str | os.PathLike[str], *, operators: Collection[str] = ()) -> Artifact:
    """Read an artifact that `LRP.export` wrote. The model that it came from is not needed.

    `relprop.load` is the same function under a shorter name; models are read by `relprop.models.load_model`.

    Nothing in the file is run: it may hold tensors, sizes, and calls of PyTorch's own operators on tensors.

    Args:
        path: of the file.
        operators: further namespaces of operators to trust, such as `("mylib",)` for `torch.ops.mylib`; import what
            registers them first.

    Raises:
        ArtifactError: there is no such file, it is something else, or a newer relprop wrote it.
    """
    file = Path(path)
    if file.suffix != ".pt2" and _is_spec(str(path)):
        raise ArtifactError(f"{path} names a model, and not an artifact: relprop.models.load_model reads it.")
    with opened(file) as archive:
        metadata = _metadata(archive)
        with archive.checked(operators) as checked:
            program = _program(checked, file, metadata)
    return Artifact(file, program, metadata)


load = load_artifact


def _is_spec(text: str) -> bool:
    from relprop.models.sources import parse

    try:
        return bool(parse(text))
    except ModelError:
        return False


def _program(checked: IO[bytes], file: Path, metadata: Metadata) -> Any:
    try:
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(checked).module()
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise ArtifactError(
            f"{file} cannot be read by torch {torch.__version__}: {type(error).__name__}: {said}. "
            f"It was written by torch {metadata.torch}; if that is newer, update torch, else export it again."
        ) from error


def read_metadata(file: Path) -> Metadata:
    """What an artifact says about itself, read without loading the program.

    Raises:
        ArtifactError: as `load_artifact` does.
    """
    with opened(file) as archive:
        return _metadata(archive)


def _metadata(archive: Archive) -> Metadata:
    try:
        text = archive.metadata()
        version = json.loads(text)["format"]
        if isinstance(version, int) and version > FORMAT:
            raise ArtifactError(
                f"{archive.file} has format {version}, and this relprop reads up to {FORMAT}: update relprop. "
                "(torch.export.load still runs it.)"
            )
        return Metadata.from_json(text)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{archive.file} is damaged: its {METADATA} cannot be read: {error!r}. {HINT}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export prints a traceback of its own before it raises."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.export.pt2_archive._package")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
