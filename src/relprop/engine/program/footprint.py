"""What a program needs, without the memory for it: both loops run on tensors that have shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from relprop.engine.graph.run import OnTheFly
from relprop.engine.program.answer import answer
from relprop.engine.program.constants import GivenConstants
from relprop.engine.program.program import Program
from relprop.engine.program.question import Question


@dataclass(frozen=True)
class Footprint:
    """Bytes.

    Attributes:
        weights: of the parameters and buffers that the program reads, what shares memory once.
        made: of what is made of them and kept between calls, such as weights that rules have modified.
        peak: of the most that a call holds at a time beside those.
    """

    weights: int
    made: int
    peak: int


def footprint(program: Program, inputs: Sequence[Any], question: Question, *, segments: int = 1) -> Footprint:
    """What one question takes.

    A mask made of sizes alone is counted with its T × S numbers, since no values tell here that it is causal.

    Args:
        program: whose modified weights are made, if they are not there.
        inputs: flat, one for each of the program's inputs; they may be large, nothing is computed.
        question: to be answered.
        segments: see `answer`.
    """
    example = program.graph.example_leaves()
    smaller = [given if not isinstance(given, Tensor) else leaf for leaf, given in zip(example, inputs, strict=True)]
    next(answer(program, smaller, [question]))  # makes all modified weights
    values, modified = program.constants.values(), dict(program.constants.modified)
    weights = _storages(program.graph.tensors.values())
    made = _storages([*values.values(), *modified.values()], known=weights)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(value: Any) -> Any:
        if isinstance(value, OnTheFly):  # made for its shape alone, and counted where it is read
            shaped = mode.from_tensor(value.make(), static_shapes=True)
            return OnTheFly(lambda: torch.empty_like(shaped))
        return mode.from_tensor(value, static_shapes=True) if isinstance(value, Tensor) else value

    constants = GivenConstants({n: fake(v) for n, v in values.items()}, {k: fake(v) for k, v in modified.items()})
    given = [fake(leaf) for leaf in inputs]
    with mode, Alive() as alive:
        next(answer(replace(program, constants=constants), given, [question], segments=segments))
    return Footprint(sum(weights.values()), sum(made.values()), alive.peak)


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, the most bytes that tensors made meanwhile hold at a time, by their storages: `peak`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {_key(t) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and (key := _key(tensor)) not in given:
                self._sizes.setdefault(key, tensor.untyped_storage().nbytes())
        self._sizes = {key: size for key, size in self._sizes.items() if not key.expired()}  # type: ignore[no-untyped-call]
        self.peak = max(self.peak, sum(self._sizes.values()))
        return result


def _key(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _storages(values: Iterable[Any], known: Iterable[int] = ()) -> dict[int, int]:
    """Address of each storage that is not known -> its bytes."""
    found = [v.untyped_storage() for v in values if isinstance(v, Tensor)]
    sizes, there = {storage.data_ptr(): storage.nbytes() for storage in found}, set(known)
    return {address: size for address, size in sizes.items() if address not in there}
