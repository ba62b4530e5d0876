"""What a program from a file has answered, as an explanation that draws, reports and saves itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.analyzers.artifact.metadata import Metadata
from relprop.errors import InputError
from relprop.explanations.explanation import Explanation
from relprop.explanations.origin import Origin, sample_of
from relprop.targets import as_target


class Outputs(nn.Module):
    """The model in a program: called like it, it returns what is explained. The program works out relevance, too.

    Args:
        run: (args, kwargs, further keywords) -> what the program returns.
        known: what the file says of itself.
    """

    def __init__(self, run: Callable[[Any, Any, Any], Mapping[str, Any]], known: Metadata) -> None:
        super().__init__()
        self._run, self._known = run, known

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = {}
        if self._known.takes_target:
            first = _first(args, kwargs)
            given["target"] = torch.zeros(len(first), dtype=torch.long, device=first.device)
        output = self._run(args, kwargs, given)["output"]
        explained = _explained(output, self._known.explained)
        return output if explained is None else explained


def explanation_of(
    artifact: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, found: Mapping[str, Any]
) -> Explanation:
    """The explanation, with what was explained and where it came from.

    Args:
        artifact: the `Artifact` that was called.
        args: the positional inputs, as the program takes them.
        kwargs: those by name.
        target: as it was given; None where it is fixed.
        found: what the program returned.
    """
    known = artifact.metadata
    several = found["relevance"] if isinstance(found["relevance"], tuple) else (found["relevance"],)
    index, scores = found.get("target"), _explained(found["output"], known.explained)
    return Explanation(
        relevance=found["relevance"],
        target=index,
        by_input=dict(zip(known.relevance, several, strict=True)),
        layers=found.get("layers", {}),
        _outputs=lambda: found["output"],
        _amount=None if index is None or scores is None else partial(_entries, scores, index),
        _explains=lambda: str(as_target(target, known.classes or None)) if known.takes_target else known.target,
        origin=_origin(artifact, args, kwargs, target),
    )


def _explained(output: Any, shape: Sequence[int | None]) -> Tensor | None:
    """The output that was explained, where only one of them has its shape (B, *shape)."""
    fitting = [
        leaf
        for leaf in pytree.tree_leaves(output)
        if isinstance(leaf, Tensor)
        and leaf.dim() == 1 + len(shape)
        and all(wanted in (None, size) for size, wanted in zip(leaf.shape[1:], shape, strict=True))
    ]
    return fitting[0] if len(fitting) == 1 else None


def _entries(scores: Tensor, index: Tensor) -> Tensor:
    """(B,): `z_t`, which is what is explained wherever one entry is."""
    return scores.reshape(len(index), -1).gather(1, index[:, None])[:, 0]


def _first(args: Any, kwargs: Any) -> Tensor:
    """The first tensor with a batch dimension."""
    return next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim())


def _origin(artifact: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any) -> Origin:
    known = artifact.metadata

    def given() -> dict[str, Tensor]:
        leaves = pytree.tree_leaves((args, kwargs))
        named = zip((spec.name for spec in known.inputs), leaves, strict=True)
        return {name: leaf for name, leaf in named if isinstance(leaf, Tensor)}

    def ask(target: Any, sample: int | None = None, **options: Any) -> Explanation:
        if options:
            taken = ", ".join(f"{name}=" for name in options)
            raise InputError(f"{artifact.path.name} takes no {taken}: ask the analyzer that wrote it.")
        asked: Any = (args, kwargs)
        if sample is not None:
            count = len(_first(*asked))
            asked = pytree.tree_map(lambda leaf: sample_of(leaf, sample, count), asked)
        found: Explanation = artifact(*asked[0], target=target, **asked[1])
        return found

    settings = partial(_settings, artifact.path.name, known, target)
    return Origin(
        artifact,
        target,
        lambda: (args, kwargs),
        given,
        settings,
        ask,
        lambda: False,
        known.classes or None,
        others=known.takes_target,
    )


def _settings(name: str, known: Metadata, target: Any) -> dict[str, str]:
    """What to say to get the same again: the file, and what it says of where it comes from."""
    said = {"analyzer": "LRP", "composite": known.composite, "options": known.options, "model": known.model}
    said |= {"artifact": name, "relprop": known.relprop, "torch": known.torch}
    return said | ({"target": repr(target)} if known.takes_target else {"explains": known.target})
