"""A program as one flat graph of ATen operators, forward and back: what artifacts and compiled analyzers are made of.

The two loops are pure functions of tensors, so `make_fx` follows them, and the derivatives that some steps take by
autograd, down to plain operators. What the program keeps (parameters, weights that rules have modified) enters the
graph as inputs and not as constants, so that each tensor is there once and can be exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from relprop.engine.graph.graph import Node, fake_value, is_open
from relprop.engine.graph.run import made
from relprop.engine.program.answer import answer
from relprop.engine.program.constants import Constants, GivenConstants
from relprop.engine.program.program import Program
from relprop.engine.program.question import Question
from relprop.targets import Seed
from relprop.targets.output import Given

Key = tuple[str, Any]
"""`("value", node)` of a constant, or `("modified", key)` of a modified weight."""


@dataclass(frozen=True)
class Names:
    """Which of a flat graph's results is what, in order: outputs, relevance, layers, and the target if there is one."""

    outputs: int
    inputs: tuple[str, ...]
    layers: tuple[str, ...]
    has_target: bool


@dataclass(frozen=True)
class Traced:
    """A program's flat graph.

    Attributes:
        module: takes the tensors of `keys`, then the tensors among the inputs, then the target's flat index (B,) if it
            `takes_index`; returns a flat list, in the order of `names`.
        keys: what the program keeps.
        names: what the results are.
    """

    module: GraphModule
    keys: tuple[Key, ...]
    names: Names

    def state(self, constants: Constants) -> list[Tensor] | None:
        """The tensors of `keys`; None where a modified weight has not been made yet."""
        values = constants.values()  # first: it forgets modified weights whose parameters have changed
        found = {("value", n): made(v) for n, v in values.items()} | {
            ("modified", k): v for k, v in constants.modified.items()
        }
        return [found[key] for key in self.keys] if all(key in found for key in self.keys) else None

    def unpack(self, results: Sequence[Any]) -> tuple[list[Any], dict[str, Tensor], dict[str, Tensor], Any]:
        """Flat results as (outputs, relevance by input, relevance by layer, target)."""
        rest = iter(results)
        outputs = [next(rest) for _ in range(self.names.outputs)]
        inputs = {name: next(rest) for name in self.names.inputs}
        layers = {name: next(rest) for name in self.names.layers}
        return outputs, inputs, layers, next(rest) if self.names.has_target else None


def trace(
    program: Program,
    wanted: Mapping[str, Node],
    seed: Seed,
    *,
    takes_index: bool = False,
    with_outputs: bool = True,
) -> Traced:
    """Flatten a program into one graph. Dimensions that the capture left open stay open.

    Args:
        wanted: name -> node whose relevance is asked for.
        seed: where relevance starts; it becomes part of the graph.
        takes_index: the target's flat index per sample, (B,), is an input of the graph instead of the seed's target.
        with_outputs: the graph returns the model's outputs too.
    """
    leaves = program.graph.example_leaves()
    next(answer(program, leaves, [Question(program.explained, seed, wanted)]))  # makes all modified weights
    values = {node: made(value) for node, value in program.constants.values().items()}
    modified = dict(program.constants.modified)
    kept = {("value", n): v for n, v in values.items() if isinstance(v, Tensor)}
    kept |= {("modified", k): v for k, v in modified.items()}
    names: list[Names] = []

    def flat(*tensors: Tensor) -> list[Any]:
        state = dict(zip(kept, tensors, strict=False))
        own = {node: state.get(("value", node), value) for node, value in values.items()}
        constants: Constants = GivenConstants(own, {key: state["modified", key] for key in modified})
        inputs = iter(tensors[len(kept) :])
        given = [next(inputs) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        start = replace(seed, target=Given(next(inputs))) if takes_index else seed
        question = Question(program.explained, start, wanted)
        found = next(answer(replace(program, constants=constants), given, [question], with_outputs=with_outputs))
        outputs = found.outputs()
        names.append(Names(len(outputs), tuple(found.inputs), tuple(found.relevance), found.index is not None))
        ends = [] if found.index is None else [found.index]
        return [*outputs, *found.inputs.values(), *found.relevance.values(), *ends]

    # Tensors that rules hold, such as the bounds of a ZBoxRule, become constants of the graph.
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    arguments: list[Tensor] = [mode.from_tensor(t, static_shapes=True) for t in kept.values()]
    pairs = zip(program.graph.inputs, leaves, strict=True)
    arguments += [_open(node, leaf, mode) for node, leaf in pairs if isinstance(leaf, Tensor)]
    with mode:
        if takes_index:
            batch = next(t for t in arguments[len(kept) :] if t.dim())
            arguments.append(batch.new_zeros(batch.shape[0], dtype=torch.long))
        module = make_fx(flat)(*arguments)
    module.graph.eliminate_dead_code()
    module.recompile()
    return Traced(module, tuple(kept), names[-1])


def _open(node: Node, leaf: Tensor, mode: FakeTensorMode) -> Tensor:
    """A symbolic stand-in for an input."""
    dynamic = [DimDynamic.DYNAMIC if is_open(s) else DimDynamic.STATIC for s in fake_value(node).shape]
    return mode.from_tensor(leaf, symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic))
