"""BiLRP: which parts of two inputs make their embeddings similar (Eberle et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.analyzers.analyzer import in_one
from relprop.analyzers.lrp import LRP
from relprop.analyzers.options import Options
from relprop.engine.graph.signature import Inputs
from relprop.errors import InputError, TargetError
from relprop.explanations.explanation import Explanation
from relprop.explanations.pairs import PairExplanation
from relprop.targets.output import Verbatim
from relprop.targets.target import Shape

Pool = Callable[[Tensor], Tensor]
Given = Tensor | Sequence[Any] | Mapping[str, Any]


class BiLRP:
    """Relevance of pairs of parts for the similarity of two embeddings, `y = φ(x)·φ(x')`.

    `R_pq = Σ_k R_p[φ_k](x) · R_q[φ_k](x')`: the embedding's dimension k is explained in either input, from its value,
    and parts are pooled before the product. All dimensions of an input take one forward pass; what is kept of them are
    P·Q numbers and those of one chunk.

    Args:
        lrp: an analyzer of the network that returns the embedding (B, K); its rules serve both inputs.
        similarity: `"dot"`, or `"cosine"`, which divides by the lengths of the embeddings, as constants.
        patch: of pictures (B, C, H, W): parts are squares of so many pixels, of which H and W are multiples.
        pool: what makes parts of relevance, (B, ...) -> (B, P), by sums. None: of pictures patches, of (B, T, D)
            positions, of (B, F) features.
        chunk: dimensions at a time. None: few on a CPU, by their tokens; all on other devices.

    Raises:
        InputError: it is none of these.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop import LRP
        >>> from relprop.analyzers import BiLRP
        >>> bilrp = BiLRP(LRP(nn.Linear(3, 2, bias=False).double()))
        >>> x, other = torch.rand(2, 1, 3, dtype=torch.float64)
        >>> pairs = bilrp(x, other)
        >>> pairs.relevance.shape, bool(pairs.kept.abs() < 1e-6)
        (torch.Size([1, 3, 3]), True)
    """

    def __init__(
        self,
        lrp: LRP,
        *,
        similarity: Literal["dot", "cosine"] = "dot",
        patch: int = 8,
        pool: Pool | None = None,
        chunk: int | None = None,
    ) -> None:
        if not isinstance(lrp, LRP):
            raise InputError(f"BiLRP takes an LRP analyzer of the embedding network, got {type(lrp).__name__}.")
        if similarity not in ("dot", "cosine"):
            raise InputError(f"similarity={similarity!r} is neither 'dot' nor 'cosine'.")
        if not isinstance(patch, int) or patch < 1:
            raise InputError(f"patch={patch!r}: give the side of a patch in pixels.")
        self.lrp, self.similarity, self.patch, self.pool, self.chunk = lrp, similarity, patch, pool, chunk

    def __call__(self, first: Given, second: Given) -> PairExplanation:
        """Explain the similarity of two inputs, or of the pairs of two batches of equal size.

        Args:
            first: the model's inputs in one object: a tensor, a tuple, or a dict of keyword inputs.
            second: likewise; other sizes of pictures or sentences are fine.

        Raises:
            InputError: what the network returns is no embedding (B, K), batches differ, or patches do not fit.
        """
        sides = [_Side(self, in_one(given)) for given in (first, second)]
        sizes = [tuple(side.embedding.shape) for side in sides]
        if sizes[0] != sizes[1]:
            raise InputError(f"The embeddings have shapes {sizes[0]} and {sizes[1]}; give batches of equal size.")
        dtype = sides[0].embedding.dtype
        relevance: Tensor | None = None
        for p, q in zip(*(side.parts() for side in sides), strict=True):
            product = torch.einsum("bp,bq->bpq", p.to(dtype), q.to(dtype))
            relevance = product if relevance is None else relevance.add_(product)
        assert relevance is not None
        y = (sides[0].embedding * sides[1].embedding).sum(1)
        if self.similarity == "cosine":
            scale = sides[0].embedding.norm(dim=1) * sides[1].embedding.norm(dim=1)
            y, relevance = y / scale, relevance / scale[:, None, None]
        return PairExplanation(relevance, y, (sides[0].grid, sides[1].grid))

    def __repr__(self) -> str:
        return f"BiLRP({type(self.lrp).__name__}(...), similarity={self.similarity!r})"


class _Side:
    """One of the two inputs: its embedding, and the relevance of its parts for each of the embedding's dimensions."""

    def __init__(self, bilrp: BiLRP, inputs: Inputs) -> None:
        self.bilrp, self.inputs = bilrp, inputs
        self.grid: tuple[int, int] | None = None
        target = _Whole()
        self.relevance_of(next(bilrp.lrp.ask(inputs, [target], Options())))  # says what does not fit
        self.embedding: Float[Tensor, "B K"] = target.embedding

    def parts(self) -> Iterator[Float[Tensor, "B P"]]:
        """For each dimension of the embedding, from its value."""
        targets = [_Dimension(k) for k in range(self.embedding.shape[1])]
        for explanation in self.bilrp.lrp.ask(self.inputs, targets, Options(), chunk=self.bilrp.chunk):
            yield self.relevance_of(explanation)

    def relevance_of(self, explanation: Explanation) -> Float[Tensor, "B P"]:
        """Relevance of the parts."""
        found = explanation.relevance
        relevance = found[0] if isinstance(found, tuple) else found
        if self.bilrp.pool is not None:
            return self.bilrp.pool(relevance)
        if relevance.dim() == 4:
            return self._patches(relevance)
        return relevance.sum(2) if relevance.dim() == 3 else relevance.flatten(1)

    def _patches(self, relevance: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P"]:
        side, (height, width) = self.bilrp.patch, relevance.shape[-2:]
        if height % side or width % side:
            raise InputError(f"patch={side} does not divide pictures of {height} x {width} pixels.")
        self.grid = height // side, width // side
        rows, columns = self.grid
        return relevance.sum(1).reshape(-1, rows, side, columns, side).sum((2, 4)).flatten(1)


class _Value(Verbatim):
    """The embedding's own values, whatever the analyzer starts with elsewhere."""

    traceable = False

    def check(self, batch: int, shape: Shape) -> None:
        if len(shape) != 1:
            sizes = ", ".join("?" if size is None else str(size) for size in shape)
            raise TargetError(
                f"BiLRP needs an embedding (B, K), but the model returns (B, {sizes}): pool over the positions in the "
                "model, or name another output in LRP(model, output=...)."
            )


class _Whole(_Value):
    """All of it, which is kept."""

    embedding: Tensor

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        self.embedding = output.detach()
        return output


@dataclass(frozen=True)
class _Dimension(_Value):
    """One dimension."""

    k: int

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        seed = torch.zeros_like(output)
        seed[:, self.k] = output[:, self.k]
        return seed
