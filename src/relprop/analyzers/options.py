"""What a call of `LRP` asks beside its target, as users say it, and as a question to a program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from relprop.analyzers.captured import Captured, Layers
from relprop.engine.graph.graph import Node, ancestors, shape_of, where_is
from relprop.engine.program.condition import Condition, Entrywise, Mask, Stop
from relprop.engine.program.question import Question
from relprop.errors import InputError, warn
from relprop.targets import Normalize, Seed, Target, TargetLike

STOP = "stop"


@runtime_checkable
class Concept(Protocol):
    """What says by itself what of a layer's relevance goes on, such as `relprop.concepts.Channels(3)`."""

    def check(self, shape: Sequence[int]) -> None:
        """Raise `InputError` where a layer of shape (B, ...) does not have it."""

    def condition(self) -> Condition:
        """What goes on."""


Conditions = Mapping[str | int, Tensor | Concept | Condition | Callable[[Tensor], Tensor] | str] | None
"""Module, by name or by its number in the table -> a mask, a concept, a linear function of each entry, or `"stop"`."""

Paths = Literal["all", "through"]
Edges = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Options:
    """The keywords of a call, see `LRP.__call__`."""

    layers: Layers = None
    audit: bool = False
    start: str | None = None
    conditions: Conditions = None
    activations: Layers = None
    parameters: bool = False
    differentiable: bool = False
    paths: Paths = "all"
    coefficients: Layers = None
    edges: Edges = ()
    positions: bool = False

    def __post_init__(self) -> None:
        if self.paths not in ("all", "through"):
            raise InputError(f"paths={self.paths!r} is neither 'all' nor 'through'.")

    @classmethod
    def names(cls) -> frozenset[str]:
        """How the options are called, which a model's own inputs cannot be."""
        return frozenset(f.name for f in fields(cls))

    def given(self) -> tuple[str, ...]:
        """Those that are not what they are by default."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not f.default)

    @property
    def asks_the_whole(self) -> bool:
        """All relevance of the output goes to the inputs, and nothing else is to be done with it."""
        return self.start is None and not self.differentiable

    def warn_of_memory(self, checkpoint: bool | int) -> None:
        """Say where a forward pass in parts saves nothing."""
        asked = [name for name in ("differentiable", "positions") if getattr(self, name)]
        if checkpoint and asked:
            warn(f"{asked[0]}=True needs all activations, so checkpoint={checkpoint!r} saves no memory in this call.")

    def start_of(self, known: Captured) -> Node:
        """The node that relevance starts from."""
        return known.program.explained if self.start is None else known.node(self.start, "start")

    def question(self, known: Captured, target: Target, normalize: Normalize, conditions: Conditions) -> Question:
        """What the engine is asked.

        Raises:
            InputError: a module that relevance does not pass, or a condition that is none.
        """
        start = self.start_of(known)
        through = {known.node(n, "conditions"): _condition(n, c, known, start) for n, c in (conditions or {}).items()}
        if self.paths == "through":
            check_one_way(through)
        return Question(
            start=start,
            seed=Seed(target, normalize),
            relevance=known.wanted(self.layers),
            activations=known.wanted(self.activations, "activations"),
            coefficients=known.wanted(self.coefficients, "coefficients"),
            edges={f"{a} -> {b}": known.edge(a, b) for a, b in self.edges},
            conditions=through,
            through=self.paths == "through",
            audit=self.audit,
            parameters=self.parameters,
            positions=self.positions,
            differentiable=self.differentiable,
        )


def by_output(targets: Sequence[Target]) -> dict[str | int | None, list[int]]:
    """The outputs that targets speak of -> which of the targets."""
    found: dict[str | int | None, list[int]] = {}
    for i, target in enumerate(targets):
        found.setdefault(target.output, []).append(i)
    return found


def _condition(name: str | int, given: Any, known: Captured, start: Node) -> Condition:
    if isinstance(given, Condition):
        return given
    if isinstance(given, str) and given == STOP:
        return Stop()
    if isinstance(given, Tensor):
        return Mask(given)
    if isinstance(given, Concept):
        node = known.node(name, "conditions")
        if node is start:
            raise InputError(f"Relevance starts at the output of {name!r}: the target says at what of it.")
        shape = shape_of(node)
        if shape is not None and None not in shape[1:]:
            given.check([1, *(int(n) for n in shape[1:] if n is not None)])
        return given.condition()
    if callable(given):
        return Entrywise(given)
    raise InputError(
        f"conditions[{name!r}] is {type(given).__name__}; give a mask, a tensor that broadcasts to the module's "
        f"output, one of relprop.concepts such as Channels(3), a function of its relevance, or {STOP!r}."
    )


def check_one_way(conditions: Collection[Node]) -> None:
    """Raise `InputError` unless there is a way that passes all of these nodes."""
    for a, b in itertools.combinations(conditions, 2):
        if a not in ancestors(b) and b not in ancestors(a):
            raise InputError(
                f"No way through the model passes both {where_is(a)} and {where_is(b)}, so paths='through' leaves "
                "nothing. Ask for one of them, or paths='all'."
            )


def check_masks(conditions: Mapping[Node, Condition], batch: int) -> None:
    """Raise `InputError` for a mask that does not broadcast to the value of its node."""
    for node, condition in conditions.items():
        shape = shape_of(node)
        if not isinstance(condition, Mask) or shape is None:
            continue
        mask = tuple(condition.mask.shape)
        sizes = (batch, *shape[1:])
        pairs = zip(reversed(mask), reversed(sizes), strict=False)
        if len(mask) > len(sizes) or any(m != 1 and n is not None and m != n for m, n in pairs):
            raise InputError(
                f"A mask of shape {mask} does not broadcast to relevance of shape {sizes}. "
                "For channels of a convolution give (C, 1, 1), or (B, C, 1, 1) for each sample its own."
            )


def asked_again(options: Mapping[str, Any], number: int, others: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """What an analyzer's call was asked for one of its targets, with other options; and whether that is of a part.

    Args:
        options: of the call.
        number: of the target.
        others: keywords of a call.
    """
    under = others.get("conditions", options["conditions"][number])
    given = replace(options["options"], **{"conditions": under, **others})
    return {"options": given, "conditions": [under], "chunk": None}, given.start is not None or bool(under)


def paired(
    targets: Sequence[TargetLike] | TargetLike, conditions: Sequence[Conditions] | None, chunk: int | None
) -> tuple[list[TargetLike], list[Conditions]]:
    """A target and conditions for each explanation."""
    several = list(targets) if isinstance(targets, (list, tuple, Tensor, range)) else []
    under = list(conditions) if isinstance(conditions, (list, tuple)) else []
    if conditions is not None and targets is None:
        several = [None] * len(under)
    if isinstance(targets, (int, str)):
        raise InputError(
            f"each() takes targets in a list: targets=[{targets!r}]; a call takes one, target={targets!r}."
        )
    if not several or not (chunk is None or (isinstance(chunk, int) and chunk > 0)):
        raise InputError(
            f"each() takes at least one target, in a list, and a chunk of at least 1; got targets={targets!r}, "
            f"chunk={chunk!r}."
        )
    length = max(len(several), len(under))
    under = under or [None]
    if any(len(given) not in (1, length) for given in (several, under)):
        raise InputError(f"each() got {len(several)} targets and {len(under)} conditions; give as many, or one.")
    return several * (length // len(several)), under * (length // len(under))
