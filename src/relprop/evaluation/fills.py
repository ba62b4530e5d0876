"""What is put in the place of what is occluded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from relprop.errors import InputError


class Fill(ABC):
    """What takes the place of hidden entries. Subclass it, or give a function (inputs, hidden) -> inputs.

    All fills are deterministic, and what a sample gets does not depend on the others.
    """

    def prepared(self, inputs: Tensor) -> Tensor:
        """What `__call__` needs of the inputs (B, ...) and can be worked out once, (B, ...)."""
        return inputs

    @abstractmethod
    def __call__(self, inputs: Tensor, hidden: Tensor, prepared: Tensor) -> Tensor:
        """The inputs with other values where `hidden`.

        Args:
            inputs: (N, ...).
            hidden: bool, broadcasts to the inputs.
            prepared: rows of what `prepared` gave, one for each of the inputs.
        """

    def model(self, model: nn.Module) -> Callable[..., Any]:
        """What is asked in the model's place, for fills that need something of it."""
        return model


class _Reference(Fill):
    """Fills that take hidden entries from one other input."""

    def __call__(self, inputs: Tensor, hidden: Tensor, prepared: Tensor) -> Tensor:
        return torch.where(hidden, prepared, inputs)


@dataclass(frozen=True, eq=False)
class Constant(_Reference):
    """A value, the same everywhere.

    Attributes:
        value: a number, or a tensor that broadcasts to one sample, such as the data's mean (C, 1, 1).
    """

    value: float | Tensor = 0.0

    def prepared(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.value, dtype=inputs.dtype, device=inputs.device).expand_as(inputs)


@dataclass(frozen=True)
class Mean(_Reference):
    """The mean of each sample: of each channel of a picture (B, C, H, W), of each dimension of embeddings (B, T, D)."""

    def prepared(self, inputs: Tensor) -> Tensor:
        over = {4: (2, 3), 3: (1,)}.get(inputs.dim())
        if over is None:
            raise InputError(
                f"Mean needs pictures (B, C, H, W) or embeddings (B, T, D), not {tuple(inputs.shape)}; "
                "try Constant(data.mean(0))."
            )
        return inputs.mean(over, keepdim=True).expand_as(inputs)


@dataclass(frozen=True)
class Blur(_Reference):
    """The picture, blurred by a Gaussian.

    Attributes:
        sigma: the Gaussian's standard deviation in pixels. None: an eighth of the shorter side.
    """

    sigma: float | None = None

    def prepared(self, inputs: Tensor) -> Tensor:
        _pictures_only(self, inputs)
        height, width = inputs.shape[2:]
        sigma = min(height, width) / 8 if self.sigma is None else self.sigma
        across = _blurred(inputs, sigma, width)
        return _blurred(across.transpose(2, 3), sigma, height).transpose(2, 3)


def _blurred(pictures: Tensor, sigma: float, length: int) -> Tensor:
    """Along the last dimension; what lies beyond the border does not count, and weights are renormalized there."""
    reach = min(max(1, round(3 * sigma)), length - 1)
    steps = torch.arange(-reach, reach + 1, dtype=pictures.dtype, device=pictures.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2).reshape(1, 1, -1)
    rows = pictures.reshape(-1, 1, length)
    weights = F.conv1d(torch.ones_like(rows[:1]), kernel, padding=reach)
    return (F.conv1d(rows, kernel, padding=reach) / weights).reshape(pictures.shape)


@dataclass(frozen=True)
class NoisyLinear(Fill):
    """Noisy linear imputation (ROAD, Rong et al. 2022): each hidden pixel is the mean of its eight neighbours.

    `x_p = Σ_q w_pq x_q / Σ_q w_pq`, with 1/6 for the neighbours beside, above and below, and 1/12 for those across
    corners, for all hidden pixels at once; then `N(0, noise²)`. Where all are hidden, the picture's mean.

    Attributes:
        noise: the standard deviation of what is added to hidden pixels.
        seed: of the noise, which is one field for all samples.
        tolerance: relative residual at which the conjugate gradients stop.
    """

    noise: float = 0.01
    seed: int = 0
    tolerance: float = 1e-4

    def __call__(self, inputs: Tensor, hidden: Tensor, prepared: Tensor) -> Tensor:
        _pictures_only(self, inputs)
        holes = hidden.expand(inputs.shape[0], 1, *inputs.shape[2:]).to(inputs.dtype)
        generator = torch.Generator().manual_seed(self.seed)
        field = torch.randn(inputs.shape[1:], generator=generator).to(inputs)
        smooth = _harmonic(inputs, holes, self.tolerance)
        return torch.where(hidden, smooth + self.noise * field, inputs)


def _harmonic(pictures: Tensor, holes: Tensor, tolerance: float) -> Tensor:
    """Solve `(D − W) x = 0` on the holes, D the row sums of W, by conjugate gradients for all pictures at once."""
    channels = pictures.shape[1]
    kernel = pictures.new_tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])
    weights = kernel.expand(channels, 1, 3, 3)
    degree = F.conv2d(torch.ones_like(pictures[:1, :1]), kernel[None, None], padding=1)

    def laplacian(x: Tensor) -> Tensor:
        return holes * (degree * x - F.conv2d(x, weights, padding=1, groups=channels))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    known = 1 - holes
    mean = (known * pictures).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    mean = torch.where(known.any(2, keepdim=True).any(3, keepdim=True), mean, pictures.mean((2, 3), keepdim=True))
    x = known * pictures + holes * mean
    residual = holes * known.any(2, keepdim=True).any(3, keepdim=True) * -laplacian(x)
    z = residual / degree
    direction, energy = z, dot(residual, z)
    enough = tolerance**2 * energy
    for _ in range(10 * max(pictures.shape[2:])):
        if bool((energy <= enough).all()):
            break
        moved = laplacian(direction)
        curvature = dot(direction, moved)
        going = (energy > enough) & (curvature > 0)  # a picture stops by itself, whatever the others still need
        step = torch.where(going, energy / curvature, torch.zeros_like(energy))
        x, residual = x + step * direction, residual - step * moved
        z = residual / degree
        before, energy = energy, dot(residual, z)
        direction = z + torch.where(before > 0, energy / before, torch.zeros_like(energy)) * direction
    return x


@dataclass(frozen=True)
class MaskToken(_Reference):
    """Another token in the place of hidden ones, for ids (B, T).

    Attributes:
        id: of the mask token, or of padding.
    """

    id: int

    def prepared(self, inputs: Tensor) -> Tensor:
        _ids_only(self, inputs)
        return torch.full_like(inputs, self.id)


@dataclass(frozen=True)
class ZeroEmbedding(Fill):
    """Hidden tokens of ids (B, T) have the embedding 0: the table has one more row for the time of the call.

    Attributes:
        module: the path of the model's `nn.Embedding`, such as `"embeddings.word_embeddings"`.
    """

    module: str

    def __call__(self, inputs: Tensor, hidden: Tensor, prepared: Tensor) -> Tensor:
        _ids_only(self, inputs)
        return torch.where(hidden, torch.full_like(inputs, -1), inputs)

    def model(self, model: nn.Module) -> Callable[..., Any]:
        table = dict(model.named_modules()).get(self.module)
        if not isinstance(table, nn.Embedding):
            raise InputError(f"ZeroEmbedding: the model has no nn.Embedding at {self.module!r}.")
        weight = table.weight.detach()
        longer = {f"{self.module}.weight": torch.cat([weight, weight.new_zeros(1, weight.shape[1])])}

        def row(x: Any) -> Any:
            ids = isinstance(x, Tensor) and not x.is_floating_point() and x.dtype != torch.bool
            return x.masked_fill(x == -1, table.num_embeddings) if ids else x

        def asked(*args: Any, **kwargs: Any) -> Any:
            given = tuple(row(x) for x in args), {name: row(x) for name, x in kwargs.items()}
            return functional_call(model, longer, *given, tie_weights=False)

        return asked


@dataclass(frozen=True)
class Own(Fill):
    """A function of one's own, such as an inpainting model.

    Attributes:
        function: (inputs, hidden) -> inputs.
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, inputs: Tensor, hidden: Tensor, prepared: Tensor) -> Tensor:
        found = self.function(inputs, hidden)
        if found.shape != inputs.shape:
            raise InputError(f"The fill {self.function} made {tuple(found.shape)} of inputs {tuple(inputs.shape)}.")
        return found


def as_fill(fill: Fill | Callable[[Tensor, Tensor], Tensor] | float | Tensor) -> Fill:
    """A number or tensor is a constant, a function is one's own."""
    if isinstance(fill, Fill):
        return fill
    return Constant(fill) if isinstance(fill, (int, float, Tensor)) else Own(fill)


def _pictures_only(fill: Fill, inputs: Tensor) -> None:
    if inputs.dim() != 4:
        raise InputError(f"{type(fill).__name__} needs pictures (B, C, H, W), not {tuple(inputs.shape)}; try Mean().")


def _ids_only(fill: Fill, inputs: Tensor) -> None:
    if inputs.is_floating_point():
        raise InputError(f"{type(fill).__name__} needs token ids, not {inputs.dtype}; try Constant().")


def fill_for(inputs: Tensor) -> Fill:
    """What suits an input: a blurred picture, 0 in the place of embeddings and features.

    Raises:
        InputError: token ids, which have no value that says nothing.
    """
    if not inputs.is_floating_point():
        raise InputError("Token ids need fill=MaskToken(id) or fill=ZeroEmbedding('path.of.the.embedding').")
    return Blur() if inputs.dim() == 4 else Constant(0.0)
