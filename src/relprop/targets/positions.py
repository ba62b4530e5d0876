"""A position for each sample, in an output of several dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import TargetError
from relprop.targets.output import Entry
from relprop.targets.target import Shape


@dataclass(frozen=True, eq=False)
class Positions(Entry):
    """An entry for each sample, by its indices in the output (B, n_1, ..., n_k): integers (B, k)."""

    indices: Int[Tensor, "B k"]
    for_one_batch = True

    def check(self, batch: int, shape: Shape) -> None:
        if tuple(self.indices.shape) != (batch, len(shape)):
            raise TargetError(
                f"target has {tuple(self.indices.shape)} indices: for {batch} samples whose output has "
                f"{len(shape)} dimensions give ({batch}, {len(shape)})."
            )
        for d, size in enumerate(shape):
            worst = self.indices[:, d]
            wrong = [] if size is None else worst[(worst < -size) | (worst >= size)].tolist()
            if wrong:
                raise TargetError(
                    f"target {wrong[0]} is out of range: dimension {d + 1} of the output has size {size}."
                )

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        flat = torch.zeros(output.shape[0], dtype=torch.long, device=output.device)
        for d, size in enumerate(output.shape[1:]):
            flat = flat * size + self.indices[:, d].to(output.device) % size
        return flat

    def __str__(self) -> str:
        return f"outputs {[tuple(row) for row in self.indices.tolist()]}"
