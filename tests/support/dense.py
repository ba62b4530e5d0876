"""The dense oracle: an affine layer as one matrix, and the papers' formulas written on that matrix.

It shares no code with relprop. `dense(layer)` reads `(W, b)` off any affine callable by its Jacobian, so that

    z_j = sum_i W_ji a_i + b_j

and every rule then says which *contributions* `q_ji` (of input i) and `q_j` (of the bias) an output j is
made of:

    R_i = sum_j q_ji / stab(sum_i q_ji + q_j) R_j

The contributions are written in the form of the papers (positive and negative parts of `a_i W_ji`), which
is not the
form in which an engine that never sees the matrix can compute them.

A connection is an entry of the matrix that the layer's geometry allows: `connected_ji` is 1 also where the
weight
happens to be zero, and 0 where a kernel reads zero padding. It is read off the same layer with all weights
set to one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Stabilizer = float | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Dense:
    """An affine layer on one sample: z = W a + b, all in float64, inputs and outputs flattened."""

    W: Tensor  # (out, in)
    b: Tensor  # (out,)
    connected: Tensor  # (out, in), ones and zeros


@dataclass(frozen=True)
class Shares:
    """What becomes of an output relevance: on to the inputs, and what the bias and the stabilizer keep."""

    R_in: Tensor  # (batch, in)
    bias: Tensor  # (batch, out)
    epsilon: Tensor  # (batch, out)

    def __add__(self, other: Shares) -> Shares:
        return Shares(self.R_in + other.R_in, self.bias + other.bias, self.epsilon + other.epsilon)

    def __rmul__(self, factor: float) -> Shares:
        return Shares(factor * self.R_in, factor * self.bias, factor * self.epsilon)


def matrix(layer: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The Jacobian of an affine callable on one sample of this shape, as a matrix (out, in) in float64.

    Column i is layer(e_i) − layer(0): exact for an affine layer, and without automatic differentiation.
    """
    n = torch.Size(shape).numel()
    probes = torch.cat([torch.zeros(1, n), torch.eye(n)]).double().reshape(n + 1, *shape)
    with torch.no_grad():
        answers = layer(probes).reshape(n + 1, -1)
    return (answers[1:] - answers[0]).T.contiguous()


def dense(layer: nn.Module, shape: tuple[int, ...]) -> Dense:
    """Read (W, b) and the connections off an affine module, in float64; the module itself is left alone."""
    layer = copy.deepcopy(layer).double().eval()
    b = layer(torch.zeros(1, *shape, dtype=torch.float64)).detach().flatten()
    W = matrix(layer, shape)
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor):
        with torch.no_grad():
            weight.fill_(1.0)
    connected = (matrix(layer, shape) != 0).double()
    return Dense(W, b, connected)


def stabilize(d: Tensor, stabilizer: Stabilizer) -> Tensor:
    """d = 0 -> ε, else d + sign(d) ε; a callable says it itself."""
    if callable(stabilizer):
        return stabilizer(d)
    return torch.where(d == 0, torch.full_like(d, stabilizer), d + d.sign() * stabilizer)


def positive(q: Tensor) -> Tensor:
    """The positive part."""
    return torch.where(q > 0, q, torch.zeros_like(q))


def negative(q: Tensor) -> Tensor:
    """The negative part (a negative number or zero)."""
    return torch.where(q < 0, q, torch.zeros_like(q))


def share(q: Tensor, q_bias: Tensor, R: Tensor, connected: Tensor, stabilizer: Stabilizer, bias: str) -> Shares:
    """Share R (batch, out) in proportion to contributions q (batch or 1, out, in) and q_bias (out,).

    `bias` says what happens with the bias: "absorb" (it takes part and keeps its share), "ignore" (it does
    not take
    part), "distribute" (it takes part, its share goes in equal parts to the connected inputs; where there
    is no
    connected input it stays).
    """
    if bias == "ignore":
        q_bias = torch.zeros_like(q_bias)
    d = q.sum(-1) + q_bias
    s = R / stabilize(d, stabilizer)
    R_in = (q * s[..., None]).sum(-2)
    kept = q_bias * s
    if bias == "distribute":
        count = connected.sum(-1)
        part = torch.where(count > 0, kept / count.clamp(min=1), torch.zeros_like(kept))
        R_in = R_in + part @ connected
        kept = torch.where(count > 0, torch.zeros_like(kept), kept)
    return Shares(R_in, kept, (stabilize(d, stabilizer) - d) * s)


def zero(L: Dense, a: Tensor, R: Tensor, stabilizer: Stabilizer = 1e-9, bias: str = "absorb") -> Shares:
    """R_i = sum_j a_i W_ji / (sum_i a_i W_ji + b_j) R_j   (Bach et al. 2015, eq. 56; with ε, eq. 58)."""
    return share(a[:, None] * L.W, L.b, R, L.connected, stabilizer, bias)


def gamma(
    L: Dense, a: Tensor, R: Tensor, gamma: float = 0.25, stabilizer: Stabilizer = 1e-9, bias: str = "absorb"
) -> Shares:
    """W_ji replaced by W_ji + γ W_ji⁺, b_j by b_j + γ b_j⁺   (Montavon et al. 2019, table 10.1)."""
    return share(
        a[:, None] * (L.W + gamma * positive(L.W)),
        L.b + gamma * positive(L.b),
        R,
        L.connected,
        stabilizer,
        bias,
    )


def generalized_gamma(
    L: Dense, a: Tensor, R: Tensor, gamma: float = 0.25, stabilizer: Stabilizer = 1e-9, bias: str = "absorb"
) -> Shares:
    """Contributions of the output's own sign weigh 1 + γ, the others 1   (Andéol et al. 2021).

    z_j > 0:  a_i W_ji + γ (a_i W_ji)⁺, b_j + γ b_j⁺;   z_j < 0:  a_i W_ji + γ (a_i W_ji)⁻, b_j + γ b_j⁻;
    z_j = 0:  nothing.
    """
    q = a[:, None] * L.W
    z = q.sum(-1) + L.b
    nowhere = torch.zeros_like(R)
    up = share(
        q + gamma * positive(q),
        L.b + gamma * positive(L.b),
        torch.where(z > 0, R, nowhere),
        L.connected,
        stabilizer,
        bias,
    )
    down = share(
        q + gamma * negative(q),
        L.b + gamma * negative(L.b),
        torch.where(z < 0, R, nowhere),
        L.connected,
        stabilizer,
        bias,
    )
    return up + down


def z_plus(L: Dense, a: Tensor, R: Tensor, stabilizer: Stabilizer = 1e-9, bias: str = "absorb") -> Shares:
    """R_i = sum_j (a_i W_ji)⁺ / (sum_i (a_i W_ji)⁺ + b_j⁺) R_j   (Montavon et al. 2017; Bach et al. 2015)."""
    return share(positive(a[:, None] * L.W), positive(L.b), R, L.connected, stabilizer, bias)


def alpha_beta(
    L: Dense,
    a: Tensor,
    R: Tensor,
    alpha: float = 2.0,
    beta: float = 1.0,
    stabilizer: Stabilizer = 1e-9,
    bias: str = "absorb",
) -> Shares:
    """R_i = sum_j (α z_ji⁺ / (sum_i z_ji⁺ + b_j⁺) − β z_ji⁻ / (sum_i z_ji⁻ + b_j⁻)) R_j   (Bach et al.
    2015, eq. 60).
    """
    q = a[:, None] * L.W
    excitatory = share(positive(q), positive(L.b), R, L.connected, stabilizer, bias)
    inhibitory = share(negative(q), negative(L.b), R, L.connected, stabilizer, bias)
    return alpha * excitatory + (-beta) * inhibitory


def w_square(L: Dense, a: Tensor, R: Tensor, stabilizer: Stabilizer = 1e-9, bias: str = "absorb") -> Shares:
    """R_i = sum_j W_ji² / sum_i W_ji² R_j   (Montavon et al. 2017, eq. 12): neither input nor bias takes
    part.
    """
    return share((L.W**2)[None], torch.zeros_like(L.b), R, L.connected, stabilizer, bias)


def flat(L: Dense, a: Tensor, R: Tensor, stabilizer: Stabilizer = 1e-9, bias: str = "absorb") -> Shares:
    """R_i = sum_j 1 / (number of inputs connected to j) R_j   (Lapuschkin et al. 2019)."""
    return share(L.connected[None], torch.zeros_like(L.b), R, L.connected, stabilizer, bias)


def z_box(
    L: Dense,
    a: Tensor,
    R: Tensor,
    low: Tensor,
    high: Tensor,
    stabilizer: Stabilizer = 1e-9,
    bias: str = "absorb",
) -> Shares:
    """Contributions a_i W_ji − l_i W_ji⁺ − h_i W_ji⁻ (Montavon et al. 2017, eq. 14); b − b⁺ − b⁻ = 0
    cancels.
    """
    q = a[:, None] * L.W - low * positive(L.W) - high * negative(L.W)
    return share(q, torch.zeros_like(L.b), R, L.connected, stabilizer, bias)
