"""Analyzers whose program can be written to a file, or compiled."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from relprop.analyzers import checks as _checks
from relprop.analyzers.analyzer import Analyzer
from relprop.analyzers.captured import Captured, Layers
from relprop.analyzers.captures import Shared
from relprop.engine.graph.signature import Inputs, inputs_of
from relprop.engine.program.answer import answer
from relprop.engine.program.compiled import Compiler
from relprop.engine.program.program import Program
from relprop.engine.program.question import Answer, Question
from relprop.errors import InputError, warn
from relprop.targets import TargetLike

if TYPE_CHECKING:
    from typing_extensions import Self


class Exporting(Analyzer):
    """An analyzer that explains by a program."""

    _shared: Shared | None
    _known: MutableMapping[Shared, dict[Any, Captured]]
    _compiler: Compiler | None

    @abstractmethod
    def _captured(self, shared: Shared, output: str | int | None = None) -> Captured:
        """A captured graph with this analyzer's rules, for the output that a target names or else the analyzer's."""

    def export(
        self,
        path: str | os.PathLike[str],
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        target: TargetLike | Literal["input"] = None,
        layers: Layers = None,
    ) -> Path:
        """Write a program that takes the model's inputs and returns output and relevance, and that needs only torch.

        `torch.export.load(path).module()(x)` returns a dict: `output`, `relevance` (a tuple for several inputs),
        `target`, and `layers` if they were asked for. Batches of any size fit if they do here. `relprop.load(path)`
        checks inputs and returns an `Explanation`.

        Args:
            path: a file that ends in `.pt2`, or in `.onnx` for what ONNX has operators for. One that exists is
                replaced, once the new one is complete.
            example_inputs: positional inputs as a tuple, or keyword inputs as a dict; the program is tried on them.
                None: zeros in the shapes of the last call.
            target: as in a call, fixed in the program; `"input"` makes it an input `target` of the program, a
                LongTensor (B,) of classes (for outputs of other shapes, of indices into a sample's flattened output).
            layers: as in a call.

        Raises:
            ArtifactError: the file cannot be written, or ONNX lacks an operator. MissingExtraError: onnx is not
                installed. InputError, TargetError: as the call does.
        """
        from relprop.analyzers.artifact import write

        file = write.check_path(path)
        seed, takes_target = write.seed_of(target, self._classes, self._normalize_output)
        args, kwargs = self._examples(example_inputs)
        known = self._captured(self._started(args, kwargs, explains=False), seed.target.output)
        wanted = known.wanted(layers)
        job = write.Job(
            program=known.with_outputs(wanted),
            wanted=wanted,
            seed=seed,
            takes_target=takes_target,
            checks=self._checks,
            table=repr(self),  # str() has colours in a terminal
            described=self.described(),
            classes=self._classes,
        )
        write.write(job, file, args, kwargs)
        return file

    def compile(self, **options: Any) -> Self:
        """Run forward and relevance as one graph that `torch.compile` made, from the next call on.

        Compiling takes time at the first call of each kind: of each target that is no class, set of layers and input
        signature. Batches may vary. Audited calls, functions, targets that hold tensors and models whose output has
        other rows than their input, such as a graph's, run as they are. Where `torch.compile` fails, one warning says
        so, and everything runs as it is.

        Args:
            options: for `torch.compile`, such as `backend` and `mode`.

        Returns:
            This analyzer, which has changed: `lrp = LRP(model, composite).compile()`.
        """
        self._compiler = Compiler(options)
        for each in (each for known in self._known.values() for each in known.values()):
            each.compiled.clear()
        return self

    def _run(
        self, known: Captured, program: Program, inputs: Sequence[Any], questions: Sequence[Question], **how: Any
    ) -> Iterable[Answer]:
        """Answers of a program, which one question may have compiled."""
        run = partial(answer, program, inputs, questions, **how)
        if self._compiler is None or len(questions) > 1:
            return run()
        found = self._compiler.answer(known.compiled, program, inputs, questions[0], lambda: next(run()))
        if self._compiler.news:
            warn(self._compiler.news)
            self._compiler.news = ""
        return [found]

    def _examples(self, given: Sequence[Any] | Mapping[str, Any] | None) -> Inputs:
        """Positional and keyword inputs; where none are given, zeros in the shapes of the latest call."""
        if given is None:
            if self._shared is None:
                raise InputError("Nothing was explained yet, so give example inputs: export(path, (x,)).")
            return self._shared.graph.examples()
        args, kwargs = inputs_of(given)
        _checks.check_inputs(self._source, args, kwargs, finite=self._checks)
        return args, kwargs
