"""Several entries at once: the largest ones, the pixels of a mask, the tokens of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from relprop.errors import TargetError
from relprop.targets.output import Entry, Given, TargetLike, entry_of
from relprop.targets.rows import entropy
from relprop.targets.target import Shape, Sum, Target, per_sample


@dataclass(frozen=True)
class TopK(Target):
    """`y = Σ z_t` over the k largest entries of each sample's output, with `s_t = z_t`.

    Args:
        k: how many.
    """

    k: int

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise TargetError(f"TopK({self.k!r}): give how many of the largest outputs, at least 1.")

    def check(self, batch: int, shape: Shape) -> None:
        entries = 1
        for size in shape:
            entries *= self.k if size is None else size
        if self.k > entries:
            raise TargetError(f"{self}: one sample's output has {entries} entries.")

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        flat, places = output.reshape(output.shape[0], -1), self._places(output)
        return torch.zeros_like(flat).scatter(1, places, flat.gather(1, places)).reshape(output.shape)

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        return output.reshape(output.shape[0], -1).topk(self.k, 1).values.sum(1)

    def held(self, output: Float[Tensor, "B *output"]) -> Target:
        return Sum(tuple((1.0, Given(places)) for places in self._places(output).unbind(1)))

    def _places(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, "B k"]:
        return output.reshape(output.shape[0], -1).topk(self.k, 1).indices

    def __str__(self) -> str:
        return f"the sum of the {self.k} largest outputs"


@dataclass(frozen=True, eq=False)
class Mask(Target):
    """`y = Σ m z` over a region, with `s = m z`: an object in a segmentation, a box of a feature map.

    Args:
        mask: m, booleans or weights. Of a class `of` it says which positions of maps (B, classes, *positions) count,
            (*positions) or (B, *positions); without `of` it covers the whole output, (*output) or (B, *output).
        of: the class, one for all samples or integers (B,).
        mean: the mean over the region instead of the sum, `y = Σ m z / Σ m`.
    """

    mask: Shaped[Tensor, "*mask"]
    of: TargetLike = None
    mean: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.mask, Tensor):
            raise TargetError(f"Mask takes a tensor of booleans or numbers, got {type(self.mask).__name__}.")
        if self.of is not None:
            object.__setattr__(self, "of", entry_of(self.of, "Mask"))

    @classmethod
    def of_label(cls, labels: Int[Tensor, "*positions"], label: int, *, ignore: int = 255, mean: bool = False) -> Mask:
        """Where a map of labels, (*positions) or (B, *positions), holds the label, of the class of that number.

        Args:
            labels: numbers of classes.
            label: the class.
            ignore: what the labels hold where nobody knows.
            mean: see `Mask`.

        Raises:
            TargetError: the label stands for what is ignored.
        """
        if label == ignore:
            raise TargetError(f"the label {label} marks positions that are ignored, which no output speaks of.")
        return cls(labels == label, label, mean)

    def check(self, batch: int, shape: Shape) -> None:
        covered = shape
        if self.of is not None:
            if len(shape) < 2 or not self._class.knows_index:
                raise TargetError(
                    f"{self}: of= takes a class of maps (B, classes, *positions), and a sample's output has shape "
                    f"{tuple(shape)}. Give a class, or a mask of the whole output and no of=."
                )
            self._class.check(batch, shape[:1])
            covered = shape[1:]
        mask = tuple(self.mask.shape)
        fits = [
            len(mask) == len(sizes) and all(n in (None, m) for m, n in zip(mask, sizes, strict=True))
            for sizes in (tuple(covered), (batch, *covered))
        ]
        if not any(fits):
            of_one_class = self.of is None and mask == tuple(shape[1:])
            hint = " It fits the maps of one class: give of=, the class." if of_one_class else ""
            raise TargetError(f"a mask of shape {mask} does not cover {tuple(covered)}, nor {(batch, *covered)}.{hint}")
        self._check_values(per_sample=not fits[0])

    def _check_values(self, *, per_sample: bool) -> None:
        rows = self.mask.reshape(len(self.mask) if per_sample else 1, -1)
        if not rows.isfinite().all():
            raise TargetError("the mask holds numbers that are not finite.")
        empty = (~(rows != 0).any(1)).nonzero().flatten().tolist()
        if empty:
            where = f" of sample {', '.join(map(str, empty))}" if per_sample else ""
            raise TargetError(f"the mask{where} is empty, so there is nothing to explain.")
        if self.mean and bool((rows.double().sum(1) == 0).any()):
            raise TargetError("the weights of the mask add up to 0, so they have no mean.")

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self._weights(output) * output

    def coefficients(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self._weights(output).expand(output.shape)

    def held(self, output: Float[Tensor, "B *output"]) -> Target:
        return self  # it chooses nothing by values

    def _weights(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "#B *output"]:
        m = self.mask.to(device=output.device, dtype=output.dtype)
        rank = output.dim() - (self.of is not None)
        m = m if m.dim() == rank else m.unsqueeze(0)
        if self.mean:
            m = m / per_sample(m).reshape(-1, *[1] * (m.dim() - 1))
        if self.of is None:
            return m
        index = self._class.index(output.flatten(2)[:, :, 0])
        assert index is not None
        chosen = torch.arange(output.shape[1], device=output.device) == index.unsqueeze(1)
        return m.unsqueeze(1) * chosen.reshape(*chosen.shape, *[1] * (output.dim() - 2))

    @property
    def _class(self) -> Entry:
        return cast(Entry, self.of)

    def __str__(self) -> str:
        what = "the output" if self.of is None else str(self.of)
        return f"the {'mean' if self.mean else 'sum'} of {what} over a mask {tuple(self.mask.shape)}"


@dataclass(frozen=True, eq=False)
class Span(Target):
    """`y = Σ_t z_{t−1, ids_t}` for t from `first` to `last` − 1: an answer, token by token.

    The logits (B, T, V) at each position speak of the next token. `s = z` at the tokens.

    Args:
        ids: token ids of the whole input, (T,) or (B, T).
        first: position of the span's first token, at least 1.
        last: position behind its last token; None: to the end.
        log_probability: add log-probabilities instead of logits, `y = Σ_t log p_{t−1, ids_t}`; the entropies
            −Σ_t H(p_{t−1}) are the sink `"entropy"`.
    """

    ids: Int[Tensor, "*B T"]
    first: int
    last: int | None = None
    log_probability: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.ids, Tensor) or self.ids.is_floating_point() or self.ids.dim() not in (1, 2):
            raise TargetError("Span takes the token ids of the whole input, integers (T,) or (B, T).")

    @property
    def for_one_batch(self) -> bool:
        """Ids of every sample belong to one batch."""
        return self.ids.dim() == 2

    def check(self, batch: int, shape: Shape) -> None:
        length = self.ids.shape[-1]
        if len(shape) != 2 or shape[0] not in (None, length) or (self.ids.dim() == 2 and len(self.ids) != batch):
            raise TargetError(
                f"{self}: ids {tuple(self.ids.shape)} do not fit an output of {batch} samples of shape {tuple(shape)}, "
                "which is to be (T, V) for ids (T,) or (B, T)."
            )
        if not 1 <= self.first < self._last <= length:
            raise TargetError(
                f"{self}: give 1 <= first < last <= {length}; the token at position 0 is predicted by nothing."
            )
        low, high = (int(end) for end in torch.aminmax(self._tokens))
        if low < 0 or (shape[1] is not None and high >= shape[1]):
            raise TargetError(
                f"{self}: it holds the id {low if low < 0 else high}, "
                + ("which marks a position that is ignored." if low < 0 else f"and there are {shape[1]} outputs.")
            )

    def value(self, output: Float[Tensor, "B T V"]) -> Float[Tensor, "B T V"]:
        g = self._one_hot(output)
        if self.log_probability:
            g = g - self._logits(output).softmax(-1)
        shares = torch.where(g == 0, 0, g * self._logits(output))
        return torch.nn.functional.pad(shares, (0, 0, self.first - 1, output.shape[1] - self._last + 1))

    def amount(self, output: Float[Tensor, "B T V"]) -> Float[Tensor, " B"]:
        z = self._logits(output)
        z = z.log_softmax(-1) if self.log_probability else z
        return z.gather(2, self._at(output)).sum((1, 2))

    def sinks(self, output: Float[Tensor, "B T V"]) -> dict[str, Float[Tensor, " B"]]:
        if not self.log_probability:
            return {}
        z = self._logits(output)
        return {"entropy": -entropy(z.flatten(0, 1)).reshape(z.shape[:2]).sum(1)}

    @property
    def _last(self) -> int:
        return self.ids.shape[-1] if self.last is None else self.last

    @property
    def _tokens(self) -> Int[Tensor, "*B n"]:
        return self.ids[..., self.first : self._last]

    def _logits(self, output: Float[Tensor, "B T V"]) -> Float[Tensor, "B n V"]:
        return output[:, self.first - 1 : self._last - 1]

    def _at(self, output: Float[Tensor, "B T V"]) -> Int[Tensor, "B n 1"]:
        tokens = self._tokens.to(device=output.device, dtype=torch.long).unsqueeze(-1)
        return tokens + torch.zeros_like(self._logits(output)[..., :1], dtype=torch.long)  # for each sample

    def _one_hot(self, output: Float[Tensor, "B T V"]) -> Float[Tensor, "B n V"]:
        return torch.zeros_like(self._logits(output)).scatter(2, self._at(output), 1.0)

    def __str__(self) -> str:
        what = "log-probabilities" if self.log_probability else "logits"
        return f"the {what} of tokens {self.first} to {self._last - 1}"
