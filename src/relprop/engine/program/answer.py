"""One explanation of one program: seed, forward, back, and names for what comes out.

Nothing here looks at the values of a tensor, so that `relprop.engine.program.trace` can follow it from end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, info
from relprop.engine.program.loops import Result, run, run_checkpointed, run_each
from relprop.engine.program.program import Program

Seed = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Explained output (B, ...) -> the relevance that it starts with, and the target's flat index per sample."""


@dataclass(frozen=True)
class Explained:
    """What an `Explanation` is made of.

    Attributes:
        outputs: computes the model's flat outputs.
        target: index of the explained output per sample, (B,), flat over one sample's output; None for a function.
        inputs: relevance by name of the input.
        layers: relevance by name of the module.
        result: the run itself, with the books if it was audited.
    """

    outputs: Callable[[], list[Any]]
    target: Tensor | None
    inputs: dict[str, Tensor]
    layers: dict[str, Tensor]
    result: Result


def explain(
    program: Program,
    leaves: Sequence[Any],
    seed: Seed,
    wanted: Mapping[str, Node],
    audit: bool = False,
    segments: int = 1,
) -> Explained:
    """Run a program on flat inputs.

    Args:
        leaves: one for each of `program.graph.inputs`.
        wanted: name -> node whose relevance is asked for.
        audit: keep the books of every node, which wants all values at once.
        segments: run the forward pass in so many parts, each again when relevance comes by.
    """
    start, chosen = _watched(seed)
    if segments > 1 and not audit:
        result = run_checkpointed(program, leaves, start, wanted.values(), segments)
    else:
        result = run(program, leaves, start, wanted.values(), audit)
    return _explained(program, leaves, result, wanted, chosen[0])


def explain_each(
    program: Program, leaves: Sequence[Any], seeds: Sequence[Seed], wanted: Mapping[str, Node], chunk: int | None
) -> Iterator[Explained]:
    """`explain` for several seeds, with one forward pass.

    Args:
        chunk: seeds whose relevance travels at the same time; None: all.
    """
    watched = [_watched(seed) for seed in seeds]
    results = run_each(program, leaves, [start for start, _ in watched], wanted.values(), chunk)
    for result, (_, chosen) in zip(results, watched, strict=True):
        yield _explained(program, leaves, result, wanted, chosen[0])


def _watched(seed: Seed) -> tuple[Callable[[Tensor], Tensor], list[Tensor | None]]:
    """The seed's relevance alone, and a list that holds its index once it was called."""
    chosen: list[Tensor | None] = []

    def start(output: Tensor) -> Tensor:
        relevance, index = seed(output)
        chosen.append(index)
        return relevance

    return start, chosen


def _explained(
    program: Program, leaves: Sequence[Any], result: Result, wanted: Mapping[str, Node], target: Tensor | None
) -> Explained:
    layers = {name: result.recorded[n].contiguous() for name, n in wanted.items() if n in result.recorded}
    return Explained(result.outputs, target, _by_input(program, leaves, result.relevance), layers, result)


def _by_input(program: Program, leaves: Sequence[Any], found: Mapping[Node, Tensor]) -> dict[str, Tensor]:
    """Relevance by input: of every floating point input, and of the embeddings of every input of token ids."""
    results: dict[str, Tensor] = {}
    for node, leaf in zip(program.graph.inputs, leaves, strict=True):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            relevance = found.get(node)
            results[node.name] = (
                torch.zeros_like(leaf) if relevance is None else relevance.to(leaf.dtype)
            ).contiguous()
        embedded = [found[n] for n in program.arrivals if info(n).entry == node.name and n in found]
        for i, relevance in enumerate(embedded):
            results[f"{node.name}@{i}" if i else node.name] = relevance
    return results
