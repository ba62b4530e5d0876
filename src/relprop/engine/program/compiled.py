"""Programs through `torch.compile`: forward and relevance as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import fake_value, is_open
from relprop.engine.program.loops import forward, mode
from relprop.engine.program.outputs import Outputs
from relprop.engine.program.program import Program
from relprop.engine.program.question import Answer, Question

if TYPE_CHECKING:
    from relprop.engine.program.trace import Traced


@dataclass
class Compiler:
    """How an analyzer compiles its programs.

    Attributes:
        options: for `torch.compile`.
        failed: it could not, so that everything runs as it is.
        news: what of that the user has not yet been told.
    """

    options: Mapping[str, Any]
    failed: bool = False
    news: str = ""

    def answer(
        self,
        known: dict[Any, Any],
        program: Program,
        inputs: Sequence[Any],
        question: Question,
        as_it_is: Callable[[], Answer],
    ) -> Answer:
        """What `as_it_is` returns, by a compiled graph.

        It runs as it is for questions about more than relevance of inputs and nodes, for a target that reads values,
        for a model whose output has other rows than its input, for the call after parameters have changed (that makes
        the modified weights anew), and after `torch.compile` has failed once.

        Args:
            known: a model's compiled graphs, by their program, what they return, and their target.
        """
        if self.failed or not _compiles(program, question):
            return as_it_is()
        target = question.seed.target
        index = _index(program, inputs, question) if target.knows_index else None
        key = (id(program), None if target.knows_index else target, tuple(question.relevance), question.seed.normalize)
        with torch.inference_mode(False), torch.no_grad():
            if key not in known:
                from relprop.engine.program.trace import trace  # PyTorch's tracer takes a second to import

                known[key] = (
                    trace(
                        program,
                        question.relevance,
                        question.seed,
                        takes_index=target.knows_index,
                        with_outputs=not program.later,
                    ),
                    None,
                )
            traced, compiled = known[key]
            tensors = _arguments(traced, program, inputs, index)
            if tensors is None:
                return as_it_is()
            try:  # around PyTorch's compiler alone: what fails elsewhere is no missing compiler
                if compiled is None:
                    compiled = torch.compile(traced.module, **self.options)
                    known[key] = traced, compiled
                results = compiled(*tensors)
            except Exception as error:
                self._give_up(error)
                return as_it_is()
        outputs, by_input, layers, found = traced.unpack(results)
        return Answer(
            outputs=Outputs.of_inputs(program, inputs) if program.later else lambda: outputs,
            index=found if question.reported is None else question.reported,
            inputs=by_input,
            relevance=layers,
            amount=lambda: question.seed.amount(_explained(program, inputs, outputs)),
        )

    def _give_up(self, error: Exception) -> None:
        self.failed = True
        self.news = (
            "torch.compile failed, so this analyzer goes on without it. On a CPU it needs a C++ compiler such as "
            "g++; lrp.compile(backend='aot_eager') does not. "
            f"{type(error).__name__}: {' '.join(str(error).split()[:40])}"
        )


def _explained(program: Program, inputs: Sequence[Any], outputs: Sequence[Any]) -> Tensor:
    """The explained output's value: among the outputs, or by a forward pass of its own."""
    if program.later:
        with mode(False):
            kept = frozenset({program.explained})
            return forward(program, inputs, kept, record=False).values[program.explained]  # type: ignore[no-any-return]
    found: Tensor = outputs[program.graph.outputs.index(program.explained)]
    return found


def _compiles(program: Program, question: Question) -> bool:
    plain = replace(question, relevance={}).is_plain
    return plain and question.seed.target.traceable and question.start is program.explained and _is_row_for_row(program)


def _is_row_for_row(program: Program) -> bool:
    """Whether the output has as many rows as the first input, which says for how many a target is made.

    A graph's or a bag's output has one row, however many the input has.
    """
    values = [fake_value(node) for node in (*program.graph.inputs, program.explained)]
    rows = [str(value.shape[0]) for value in values if isinstance(value, Tensor) and value.dim()]
    return bool(rows) and rows[0] == rows[-1]


def _index(program: Program, inputs: Sequence[Any], question: Question) -> Tensor:
    """The target's index, before there is an output."""
    first = next(leaf for leaf in inputs if isinstance(leaf, Tensor) and leaf.dim())
    blank = torch.zeros((), device=first.device).expand(first.shape[0], *program.explained_shape(inputs)[1:])
    index = question.seed.target.index(blank)
    assert index is not None
    return index


def _arguments(traced: Traced, program: Program, inputs: Sequence[Any], index: Tensor | None) -> list[Tensor] | None:
    """What the flat graph takes; None where a modified weight has not been made yet."""
    state = traced.state(program.constants)
    if state is None:
        return None
    device = next(leaf.device for leaf in inputs if isinstance(leaf, Tensor))
    tensors = list(state)
    for node, leaf in zip(program.graph.inputs, inputs, strict=True):
        if isinstance(fake_value(node), Tensor):
            tensor = leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, device=device)
            for i, size in enumerate(fake_value(node).shape):
                if is_open(size):
                    torch._dynamo.maybe_mark_dynamic(tensor, i)
            tensors.append(tensor)
    if index is not None:
        torch._dynamo.maybe_mark_dynamic(index, 0)
        tensors.append(index)
    return tensors
