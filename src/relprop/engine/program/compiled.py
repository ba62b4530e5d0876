"""Programs through `torch.compile`: forward and relevance as one compiled graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import fake_value, is_open
from relprop.engine.program.answer import Explained
from relprop.engine.program.loops import Result, run_forward

if TYPE_CHECKING:
    from relprop.analyzers.captured import Call
    from relprop.engine.program.trace import Traced


@dataclass
class Compiler:
    """How an analyzer compiles its programs.

    Attributes:
        options: for `torch.compile`.
        failed: it could not, so that everything runs as it is.
    """

    options: Mapping[str, Any]
    failed: bool = False

    def explain(
        self, known: dict[Any, Any], call: Call, normalize_output: bool, as_it_is: Callable[[], Explained]
    ) -> Explained:
        """What `as_it_is` returns (less its run), by a compiled graph.

        It runs as it is for a target function, for the call after parameters have changed (that makes the modified
        weights anew), and after `torch.compile` has failed once, of which one warning tells.

        Args:
            known: a model's compiled graphs, by their program, what they return, and whether they take a target.
        """
        if callable(call.target) or self.failed:
            return as_it_is()
        from relprop.engine.program.trace import trace  # PyTorch's tracer takes a second to import

        index = call.index
        if index is None and call.target is not None:
            index = call.program.index_of(call.target, call.leaves)
        key = (id(call.program), index is not None, tuple(call.wanted), normalize_output)
        try:
            with torch.inference_mode(False), torch.no_grad():
                if key not in known:
                    traced = trace(
                        call.program,
                        call.wanted,
                        normalize_output=normalize_output,
                        takes_index=index is not None,
                        with_outputs=not call.program.later,
                    )
                    known[key] = traced, torch.compile(traced.module, **self.options)
                traced, compiled = known[key]
                found = _run(traced, compiled, call, index)
        except Exception as error:
            explained = as_it_is()  # which says it, where something is wrong with the inputs
            self.failed = True
            warnings.warn(
                "torch.compile failed, so this analyzer goes on without it. On a CPU it needs a C++ compiler such as "
                "g++; lrp.compile(backend='aot_eager') does not. "
                f"{type(error).__name__}: {' '.join(str(error).split()[:40])}",
                UserWarning,
                stacklevel=3,
            )
            return explained
        return as_it_is() if found is None else found


def _run(traced: Traced, compiled: Callable[..., Any], call: Call, index: Tensor | None) -> Explained | None:
    program = call.program
    state = traced.state(program.constants)
    if state is None:
        return None
    device = next(leaf.device for leaf in call.leaves if isinstance(leaf, Tensor))
    tensors = []
    for node, leaf in zip(program.graph.inputs, call.leaves, strict=True):
        if isinstance(fake_value(node), Tensor):
            tensor = leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, device=device)
            for i, size in enumerate(fake_value(node).shape):
                if is_open(size):
                    torch._dynamo.maybe_mark_dynamic(tensor, i)
            tensors.append(tensor)
    if index is not None:
        torch._dynamo.maybe_mark_dynamic(index, 0)
        tensors.append(index)
    outputs, inputs, layers, found = traced.explained(compiled(*state, *tensors))

    def all_outputs() -> list[Any]:
        return run_forward(program, call.leaves) if program.later else outputs

    target = found if call.reported is None else call.reported
    return Explained(all_outputs, target, inputs, layers, Result(all_outputs, {}, {}))
