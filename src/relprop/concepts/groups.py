"""What of a layer is one concept: channels, neurons, heads, tokens, directions.

A group says how the entries of a layer's value (B, ...) fall into n features, what a feature's relevance is, and what
goes on of the relevance of some of them. With members, `Channels(3, 7)`, it is a condition: of their relevance all goes
on (the union), of the others' nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.engine.program.condition import Arrived, Choice, Condition, Mask, Projection
from relprop.errors import InputError


class Group(ABC):
    """Features of a layer's value. Subclass it to make your own.

    Args:
        *members: numbers of features, from 0; from the end if negative.

    Raises:
        InputError: members that are no integers.
    """

    def __init__(self, *members: int) -> None:
        if not all(isinstance(m, int) and not isinstance(m, bool) for m in members):
            raise InputError(f"{type(self).__name__}{members}: members are numbers of features.")
        self.members = members

    @abstractmethod
    def count(self, shape: Sequence[int]) -> int:
        """How many features a value of shape (B, ...) has.

        Raises:
            InputError: it cannot be divided into such features.
        """

    def check(self, shape: Sequence[int]) -> None:
        """Raise `InputError` where a layer of shape (B, ...) does not have the members."""
        checked(self.members, self.count(shape), self)

    @abstractmethod
    def scores(self, arrived: Arrived) -> Float[Tensor, "B n"]:
        """Relevance of each feature."""

    @abstractmethod
    def keep(self, features: Int[Tensor, "B k"]) -> Condition:
        """Of each sample these features' relevance goes on."""

    def condition(self) -> Condition:
        """The members' relevance goes on.

        Raises:
            InputError: there are no members.
        """
        if not self.members:
            raise InputError(f"{self!r} names no features, so nothing would go on: {type(self).__name__}(3), say.")
        return self.keep(torch.tensor([self.members]))

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return self.members

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._made_of == other._made_of

    def __hash__(self) -> int:
        return hash((type(self), self._made_of))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._made_of))})"


@dataclass(frozen=True)
class Concepts:
    """A layer's features: where they are, and what one is.

    Attributes:
        layer: by name, or by its number in the analyzer's table.
        group: what a feature is.
    """

    layer: str | int
    group: Group


class Blocks(Group):
    """Features that are blocks of entries: `R_f = Σ_{i∈f} R_i`, and what goes on is `R_i · 1[i ∈ f]`."""

    @abstractmethod
    def viewed(self, shape: Sequence[int]) -> tuple[list[int], int]:
        """A value's shape with a dimension of features, and which that is."""

    def count(self, shape: Sequence[int]) -> int:
        view, dim = self.viewed(shape)
        return view[dim]

    def place(self, feature: int, shape: Sequence[int]) -> tuple[int, int | None]:
        """What a feature is at its position, and which position that is; None where features have none."""
        return feature, None

    def scores(self, arrived: Arrived) -> Float[Tensor, "B n"]:
        return self.sums(arrived.relevance)

    def sums(self, relevance: Float[Tensor, "B *layer"]) -> Float[Tensor, "B n"]:
        """Each feature's sum over its entries."""
        return self.entries(relevance).sum(2)

    def entries(self, value: Float[Tensor, "B *layer"]) -> Float[Tensor, "B n m"]:
        """The m entries of each feature, in the order in which they lie in the layer."""
        view, dim = self.viewed(value.shape)
        viewed = value.reshape(view).movedim(dim, 1)
        return viewed.flatten(2) if viewed.dim() > 2 else viewed[..., None]

    def single(
        self, features: Int[Tensor, " B"], places: Int[Tensor, " B"], like: Float[Tensor, "B *layer"]
    ) -> Float[Tensor, "B *layer"]:
        """1 at one entry per sample: that place among the feature's `entries`."""
        view, dim = self.viewed(like.shape)
        features, places = (index.to(like.device)[:, None] for index in (features, places))
        B, n, m = self.entries(like).shape
        flat = like.new_zeros(B, n * m).scatter(1, features % n * m + places, 1)
        beside = [size for d, size in enumerate(view) if d not in (0, dim)]
        return flat.reshape(B, n, *beside).movedim(1, dim).reshape(like.shape)

    def keep(self, features: Int[Tensor, "B k"]) -> Condition:
        return Choice(lambda arrived: Mask(self.mask(features, arrived.like)))

    def mask(self, features: Int[Tensor, "B k"], like: Float[Tensor, "B *layer"]) -> Float[Tensor, "B *layer"]:
        """1 at the entries of these features."""
        view, dim = self.viewed(like.shape)
        n = view[dim]
        hot = _hot(features, n, like)
        mask = hot.reshape([like.shape[0], *(n if d == dim else 1 for d in range(1, len(view)))])
        return mask if view == list(like.shape) else mask.expand(view).reshape(like.shape)


class Channels(Blocks):
    """Channels of a convolution, (B, C, ...); a channel's relevance is its sum over places. Also of (B, C)."""

    def viewed(self, shape: Sequence[int]) -> tuple[list[int], int]:
        if len(shape) < 2:
            raise InputError(f"A layer of shape {tuple(shape)} has no channels (B, C, ...).")
        return list(shape), 1


class Neurons(Blocks):
    """Neurons of a layer that is applied at every position, (B, ..., n); summed over positions."""

    def viewed(self, shape: Sequence[int]) -> tuple[list[int], int]:
        if len(shape) < 2:
            raise InputError(f"A layer of shape {tuple(shape)} has no neurons (B, ..., n).")
        return list(shape), len(shape) - 1


class Tokens(Blocks):
    """Positions of a sequence, (B, T, ...)."""

    def viewed(self, shape: Sequence[int]) -> tuple[list[int], int]:
        if len(shape) < 3:
            raise InputError(f"A layer of shape {tuple(shape)} has no tokens (B, T, D).")
        return list(shape), 1

    def place(self, feature: int, shape: Sequence[int]) -> tuple[int, int | None]:
        return feature, feature


class Entries(Blocks):
    """Every entry by itself, numbered in the flattened sample: one neuron of a convolution at one place."""

    def viewed(self, shape: Sequence[int]) -> tuple[list[int], int]:
        size = 1
        for n in shape[1:]:
            size *= n
        return [shape[0], size], 1


class Heads(Blocks):
    """Heads of attention where their results lie side by side, (B, T, heads · D): the input of the output projection.

    The projection mixes heads, so its output has none. Of the attention operator itself, (B, heads, T, D), heads are
    `Channels`. Queries, keys or values before they are divided into heads serve, too.

    Args:
        heads: how many.
        *members: numbers of heads.
    """

    def __init__(self, heads: int, *members: int) -> None:
        super().__init__(*members)
        if not isinstance(heads, int) or heads < 1:
            raise InputError(f"Heads({heads!r}): give how many heads there are.")
        self.heads = heads

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return (self.heads, *self.members)

    def viewed(self, shape: Sequence[int]) -> tuple[list[int], int]:
        if len(shape) < 3 or shape[-1] % self.heads:
            raise InputError(f"A layer of shape {tuple(shape)} is not made of {self.heads} heads (B, T, heads · D).")
        return [*shape[:-1], self.heads, shape[-1] // self.heads], len(shape) - 1


class PerToken(Blocks):
    """Another group's features at each position of a sequence by itself, (B, T, ...): number `t · n + f` is f at t.

    Args:
        group: features of what a position holds: `Neurons()`, `Heads(h)`.
        *members: numbers of features.

    Raises:
        InputError: the group is none of blocks, or has members.
    """

    def __init__(self, group: Blocks, *members: int) -> None:
        super().__init__(*members)
        if not isinstance(group, Blocks) or group.members:
            raise InputError(f"PerToken({group!r}): give features of what a position holds, Neurons() or Heads(12).")
        self.group = group

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return (self.group, *self.members)

    def viewed(self, shape: Sequence[int]) -> tuple[list[int], int]:
        view, dim = self.group.viewed(shape)
        if len(shape) < 3 or dim != 2:
            raise InputError(
                f"A layer of shape {tuple(shape)} has no {self.group!r} at each of its positions (B, T, D)."
            )
        return [view[0], view[1] * view[2], *view[3:]], 1

    def place(self, feature: int, shape: Sequence[int]) -> tuple[int, int | None]:
        position, number = divmod(feature, self.group.viewed(shape)[0][2])
        return number, position


class Directions(Group):
    """Directions in a layer's activations: those of a PCA, an NMF, a sparse autoencoder, concept vectors (CAV).

    With `a ≈ Σ_k (w_k·a) v_k`, as by two virtual linear layers, the relevance of direction k is
    `R_k = Σ_places (w_k·a) (v_k·c)`, where `R = a · c`, and what goes on is `R = a · Σ_k w_k (v_k·c)`. What the
    directions do not span is the sink `condition`.

    Args:
        encoder: `w`, (n, C), one row per direction, of channels (B, C, H, W) or of features (B, ..., C).
        *members: numbers of directions.
        decoder: `v`, (n, C). None: the pseudoinverse of `encoder`, which for orthonormal rows is `encoder`.
        dim: the dimension of the value that they lie in. None: 1 for (B, C, H, W), else the last.
    """

    def __init__(
        self,
        encoder: Float[Tensor, "n C"],
        *members: int,
        decoder: Float[Tensor, "n C"] | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(*members)
        if encoder.dim() != 2 or not (decoder is None or decoder.shape == encoder.shape):
            shape = None if decoder is None else tuple(decoder.shape)
            raise InputError(
                f"Directions take matrices (directions, channels), encoder and decoder alike; got "
                f"{tuple(encoder.shape)} and {shape}. One direction v is v[None]."
            )
        self.encoder = encoder.detach()
        self.decoder = torch.linalg.pinv(self.encoder).T if decoder is None else decoder.detach()
        self.dim = dim

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return (id(self.encoder), id(self.decoder), self.dim, *self.members)

    def __repr__(self) -> str:
        return f"Directions({', '.join([f'<{len(self.encoder)} directions>', *map(str, self.members)])})"

    def count(self, shape: Sequence[int]) -> int:
        self._dim(shape)
        return len(self.encoder)

    def _dim(self, shape: Sequence[int]) -> int:
        dim = (1 if len(shape) == 4 else len(shape) - 1) if self.dim is None else self.dim % len(shape)
        if shape[dim] != self.encoder.shape[1]:
            raise InputError(
                f"Directions of {self.encoder.shape[1]} entries do not fit dimension {dim} of a layer of shape "
                f"{tuple(shape)}."
            )
        return dim

    def _parts(self, arrived: Arrived) -> tuple[Tensor, Tensor, Tensor, int]:
        """`w`, `w_k·a` and `v_k·c`, the latter (B, ..., n), and the dimension."""
        a, c = arrived.value, arrived.coefficient
        dim = self._dim(a.shape)
        w, v = (m.to(device=a.device, dtype=a.dtype) for m in (self.encoder, self.decoder))
        return w, a.movedim(dim, -1) @ w.T, c.movedim(dim, -1) @ v.T, dim

    def scores(self, arrived: Arrived) -> Float[Tensor, "B n"]:
        _, a, c, _ = self._parts(arrived)
        product = a * c
        return product.flatten(1, -2).sum(1) if product.dim() > 2 else product

    def keep(self, features: Int[Tensor, "B k"]) -> Condition:
        def projected(arrived: Arrived) -> Tensor:
            w, _, c, dim = self._parts(arrived)
            hot = _hot(features, len(w), c).reshape(c.shape[0], *[1] * (c.dim() - 2), len(w))
            return ((c * hot) @ w).movedim(-1, dim)

        return Projection(projected)


def _hot(features: Int[Tensor, "B k"], n: int, like: Tensor) -> Float[Tensor, "B n"]:
    """1 at each sample's features, one row for all or one for each."""
    chosen = features.to(like.device).expand(like.shape[0], -1)
    return like.new_zeros(like.shape[0], n).scatter(1, chosen % n, 1)


def checked(features: Sequence[int], n: int, group: Group) -> None:
    """Raise `InputError` for a feature that a layer of n features does not have."""
    wrong = [f for f in features if not -n <= f < n]
    if wrong:
        raise InputError(f"{type(group).__name__} {wrong[0]} is out of range: the layer has {n}, 0 to {n - 1}.")
