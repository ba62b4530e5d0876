"""Clusters, outliers and references as layers that LRP explains: put them behind a network, or take them alone.

All are written as distances or differences to references, a smallest one of them, and nothing else: what is subtracted
counts as a constant that takes no share (Kauffmann et al. 2020, 2022), so that relevance is conserved.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relprop.engine.ops.units import register_module
from relprop.errors import InputError
from relprop.rules import PassRule


class Difference(nn.Module):
    """`x - reference`, all of whose relevance is x's.

    Args:
        reference: broadcasts to x.
    """

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.reference: Tensor
        self.register_buffer("reference", reference.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x - self.reference


class SoftMin(nn.Module):
    """`y = -1/β log mean_k exp(-β h_k)` over the last dimension; h_k's share of relevance is `softmax(-β h)_k`.

    Args:
        beta: β, as a buffer that may be set later.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta: Tensor
        self.register_buffer("beta", torch.tensor(float(beta), dtype=torch.float64))

    def forward(self, h: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        beta = self.beta.to(h.dtype)
        smallest: Tensor = -(torch.logsumexp(-beta * h, dim=-1) - math.log(h.shape[-1])) / beta
        return smallest


def _by_derivative(forward: Any, inputs: Any, output: Tensor, relevance: Tensor) -> Tensor:
    """The derivative of a soft minimum are its weights, which add up to 1."""
    with torch.enable_grad():
        h = inputs[0].detach().requires_grad_()
        share: Tensor = torch.autograd.grad(forward(h), h, relevance)[0]
    return share


class Flooding(nn.Module):
    """Activations `ã = max(a - c, 0)` with `w·ã + b = y`, found by bisection on the level c of each sample.

    They are where the answer starts from, not what speaks for it, and keep what comes to them.

    Args:
        weight: w, (m,). bias: b. y: the reference value.
    """

    def __init__(self, weight: Float[Tensor, " m"], bias: float, y: float) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", weight.detach().clone())
        self.bias, self.y = bias, y

    def forward(self, a: Float[Tensor, "B m"]) -> Float[Tensor, "B m"]:
        a = a.detach()
        low, high = -self._far(a), a.amax(1, keepdim=True)
        rises = (a @ self.weight)[:, None] + self.bias >= self.y  # where f is above y, the level has to rise
        low, high = torch.where(rises, torch.zeros_like(high), low), torch.where(rises, high, torch.zeros_like(high))
        above = self._value(a, low) >= self.y
        for _ in range(STEPS):
            middle = (low + high) / 2
            same = (self._value(a, middle) >= self.y) == above
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        return (a - (low + high) / 2).clamp(min=0)

    def _value(self, a: Tensor, level: Tensor) -> Tensor:
        value: Tensor = ((a - level).clamp(min=0) @ self.weight)[:, None] + self.bias
        return value

    def _far(self, a: Tensor) -> Tensor:
        """A level so low that f has passed y, if it ever does."""
        slope = self.weight.sum().abs().clamp(min=torch.finfo(a.dtype).tiny)
        return ((self.y - self.bias - a @ self.weight).abs()[:, None] / slope + a.amax(1, keepdim=True)) * 2


STEPS = 80
"""Of a bisection: more than a float64 can tell apart."""


def _keep(forward: Any, inputs: Any, output: Tensor, relevance: Tensor) -> Tensor:
    return torch.zeros_like(inputs[0])


register_module(Difference, rule=PassRule())
register_module(Flooding, rule=_keep)
register_module(SoftMin, rule=_by_derivative)


class KMeansEvidence(nn.Module):
    """The evidence that x belongs to each of K clusters: `f_c = softmin_{k≠c} (‖x - μ_k‖² - ‖x - μ_c‖²)`, (B, K).

    It is positive where c is the nearest centre. Each difference is linear, `w_k·(x - m_k)` with `w_k = 2 (μ_c - μ_k)`
    and the point `m_k` half-way between the centres, so `R_i = Σ_k w_ki (x_i - m_ki) / (w_k·(x - m_k)) R_k`.

    Args:
        centers: (K, D), as `sklearn.cluster.KMeans` has them in `cluster_centers_`.
        beta: of the soft minimum; `calibrate` sets it.

    Raises:
        InputError: fewer than two centres.

    Examples:
        >>> import torch
        >>> from relprop import LRP, neuralize
        >>> evidence = neuralize.KMeansEvidence(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
        >>> LRP(evidence, normalize_output=False)(torch.tensor([[2.0, 7.0]]), target=1).relevance
        tensor([[4., 0.]])
    """

    def __init__(self, centers: Float[Tensor, "K D"], beta: float = 1.0) -> None:
        super().__init__()
        centers = torch.as_tensor(centers).detach()
        if centers.dim() != 2 or len(centers) < 2:
            raise InputError(f"centers of shape {tuple(centers.shape)}: give at least two, (K, D).")
        K = len(centers)
        others = torch.stack([torch.cat([centers[:c], centers[c + 1 :]]) for c in range(K)])
        own = centers[:, None].expand_as(others)
        self.weight: Tensor
        self.register_buffer("weight", 2 * (own - others))
        self.boundary, self.softmin = Difference((own + others) / 2), SoftMin(beta)

    def differences(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K K-1"]:
        """`‖x - μ_k‖² - ‖x - μ_c‖²` of each c and each k ≠ c."""
        apart: Tensor = self.boundary(x[:, None, None].expand(-1, *self.weight.shape))
        return (self.weight * apart).sum(-1)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        evidence: Tensor = self.softmin(self.differences(x))
        return evidence

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "B D"]) -> KMeansEvidence:
        """Set β to 1 over the mean evidence of the clusters that samples are in."""
        nearest = self.differences(x).amin(-1).amax(-1)
        self.softmin.beta.fill_(1 / nearest.mean())
        return self


class OutlierScore(nn.Module):
    """How far x is from N points: `o = -1/γ log mean_j exp(-γ ‖x - u_j‖²)`, (B, 1); a kernel density's logarithm.

    `R_i = Σ_j (x_i - u_ji)² / ‖x - u_j‖² R_j`, where `R_j` is what the soft minimum gives to the j-th distance.

    Args:
        points: (N, D), such as embeddings of the training data.
        gamma: of the kernel; `calibrate` sets it.

    Raises:
        InputError: there are no points.

    Examples:
        >>> import torch
        >>> from relprop import LRP, neuralize
        >>> score = neuralize.OutlierScore(torch.zeros(1, 3))
        >>> LRP(score, normalize_output=False)(torch.tensor([[1.0, 2.0, 0.0]])).relevance
        tensor([[1., 4., 0.]])
    """

    def __init__(self, points: Float[Tensor, "N D"], gamma: float = 1.0) -> None:
        super().__init__()
        points = torch.as_tensor(points).detach()
        if points.dim() != 2 or not len(points):
            raise InputError(f"points of shape {tuple(points.shape)}: give at least one, (N, D).")
        self.apart, self.softmin = Difference(points), SoftMin(gamma)

    def distances(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B N"]:
        """`‖x - u_j‖²`."""
        apart: Tensor = self.apart(x[:, None].expand(-1, *self.apart.reference.shape))
        return apart.square().sum(-1)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B 1"]:
        score: Tensor = self.softmin(self.distances(x))
        return score[:, None]

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "B D"], perplexity: float = 0.25) -> OutlierScore:
        """Set γ so that the soft minimum looks at so large a share of the points: the mean perplexity of its weights.

        Args:
            x: samples, (B, D).
            perplexity: share of the points, in (0, 1).

        Raises:
            InputError: the share is not between 1/N and 1.
        """
        distances, N = self.distances(x).double(), len(self.apart.reference)
        if not 1 / N < perplexity < 1:
            raise InputError(f"perplexity={perplexity}: with {N} points it lies between {1 / N:.2g} and 1.")
        low, high = -30.0, 30.0  # of log γ in units of the mean distance; perplexity falls with γ
        scale = float(distances.mean()) or 1.0
        for _ in range(60):
            middle = (low + high) / 2
            p = torch.softmax(-math.exp(middle) / scale * distances, dim=-1)
            entropy = -(p * p.clamp(min=1e-300).log()).sum(-1)
            low, high = (middle, high) if float(entropy.exp().mean()) > perplexity * N else (low, middle)
        self.softmin.beta.fill_(math.exp(low) / scale)
        return self


class ReferenceHead(nn.Module):
    """What speaks for `f(h)` and not for a reference value y (Letzgus et al. 2022): `f(h) - y`, (B, 1).

    For a head `f(h) = w·relu(V h + b) + d` it is the same number by three paths,

        f - y = Σ_j w_j (relu(z_j - ã_j) + relu(-z_j) - relu(ã_j - z_j)),   z = V h + b,

    where `ã = max(a - c, 0)` are activations `a = relu(z)` lowered by one level c until the head says y. What the
    reference activations would get, they keep (the sink `module`). Where no level makes the head say y, `missed` is
    not 0, and what is explained is less that.

    Args:
        first: V and b, h -> m.
        last: w and d, m -> 1.
        y: the reference value.

    Raises:
        InputError: the layers do not fit each other, or the last has several outputs.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop import neuralize
        >>> head = neuralize.ReferenceHead(nn.Linear(3, 8), nn.Linear(8, 1), y=0.5)
        >>> head(torch.rand(2, 3)).shape
        torch.Size([2, 1])
    """

    def __init__(self, first: nn.Linear, last: nn.Linear, y: float) -> None:
        super().__init__()
        if last.out_features != 1 or first.out_features != last.in_features:
            raise InputError(
                f"A head of layers {first.in_features} -> {first.out_features}, {last.in_features} -> "
                f"{last.out_features}: the last has to take what the first gives, and give one number."
            )
        d = 0.0 if last.bias is None else float(last.bias.detach())
        self.first, self.flooding = first, Flooding(last.weight[0], d, float(y))
        self.weight: Tensor
        self.register_buffer("weight", last.weight.detach().clone())

    def forward(self, h: Float[Tensor, "B n"]) -> Float[Tensor, "B 1"]:
        z = self.first(h)
        lowered = self.flooding(z.relu())
        paths = (z - lowered).relu() + (-z).relu() - (lowered - z).relu()
        return nn.functional.linear(paths, self.weight)

    @torch.no_grad()
    def missed(self, h: Float[Tensor, "B n"]) -> Float[Tensor, " B"]:
        """How far the reference activations are from y: not 0 where no level reaches it, such as a y below the bias."""
        a = self.first(h).relu()
        said: Tensor = self.flooding(a) @ self.flooding.weight + self.flooding.bias - self.flooding.y
        return said
