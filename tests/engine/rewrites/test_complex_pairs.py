"""Complex numbers of data: rotary positions and Fourier layers, against real spellings and input x gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.compare import assert_close
from support.versions import export_refuses
from torch import Tensor, nn

from relprop import LRP
from relprop.errors import UnexplainedError

X = torch.randn(2, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ANGLES = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Function = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Features (B, 8, 6), a function of them that is linear, a ReLU, and a sum."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.first = function, nn.Linear(4, 6, bias=False)
        self.register_buffer("turn", torch.polar(torch.ones_like(ANGLES), ANGLES))
        self.weight = nn.Parameter(torch.randn(6, 6, 3, dtype=torch.complex128))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.first(x)).relu().flatten(1).sum(1, keepdim=True)


def rotated(m: Net, h: Tensor) -> Tensor:
    """Rotary positions as DeepSeek and Llama wrote them."""
    return torch.view_as_real(torch.view_as_complex(h.reshape(*h.shape[:-1], -1, 2)) * m.turn).flatten(2)


def rotated_in_reals(m: Net, h: Tensor) -> Tensor:
    even, odd, cos, sin = h[..., 0::2], h[..., 1::2], ANGLES.cos(), ANGLES.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(2)


def fourier(m: Net, h: Tensor) -> Tensor:
    """A layer of a Fourier neural operator: three modes, weighted, the others left out."""
    modes = torch.fft.rfft(h.transpose(1, 2))
    kept = torch.zeros(h.shape[0], 6, 5, dtype=modes.dtype)
    kept[:, :, :3] = torch.einsum("bix,iox->box", modes[:, :, :3], m.weight)
    return torch.fft.irfft(kept, n=8)


def short_time(h: Tensor) -> Tensor:
    """Six windows of each sample's 48 numbers, as spectrograms are made."""
    return torch.stft(h.flatten(1), 16, 8, window=torch.hann_window(16, dtype=h.dtype), return_complex=True)


def and_back(m: Net, h: Tensor) -> Tensor:
    """Enhanced speech: a mask on a spectrogram, and a signal again."""
    kept = torch.linspace(0, 1, 9, dtype=h.dtype)[:, None]
    return torch.istft(short_time(h) * kept, 16, 8, window=torch.hann_window(16, dtype=h.dtype), length=48)


LINEAR: dict[str, Function] = {
    "spectrogram": lambda m, h: short_time(h).abs(),
    "spectrogram as pairs": lambda m, h: torch.view_as_real(short_time(h)),
    "spectrogram and back": and_back,
    "made of two": lambda m, h: torch.fft.ifft(torch.fft.fft(torch.complex(h, h.flip(1))) * m.turn[:, :1]).abs(),
    "made of one and a constant": lambda m, h: torch.complex(h, torch.zeros(6, dtype=h.dtype)).imag + h,
    "real, and no imaginary part": lambda m, h: ((h + 0j) @ m.weight[..., 0]).real,
    "real and complex": lambda m, h: (torch.fft.fft(h) + h).abs(),
    "rotary": rotated,
    "fourier": fourier,
    "padded": lambda m, h: torch.fft.irfft(torch.fft.rfft(h, dim=1)[:, :2] / 2, n=8, dim=1),
    "two transforms, real part": lambda m, h: torch.fft.fft(torch.fft.fft(h, dim=-1), dim=-2).real,
    "imaginary part of a sum": lambda m, h: (torch.fft.fft(h) + torch.fft.ifft(h).conj() - torch.fft.fft(2 * h)).imag,
    "size": lambda m, h: torch.fft.rfft(h, dim=1).abs(),
    "stacked": lambda m, h: torch.view_as_real(torch.cat([torch.fft.rfft(h), -torch.fft.rfft(h).flip(1)], 1)),
}


SYMBOLIC = {"made of two", "real, and no imaginary part"}
"""Products of complex numbers, which PyTorch 2.6 cannot make of symbolic sizes."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=export_refuses) if n in SYMBOLIC else n for n in LINEAR], ids=list(LINEAR)
)
def test_maps_between_complex_numbers_explain_as_input_times_gradient(name: str) -> None:
    model, x = Net(LINEAR[name]), X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    expl = LRP(model, normalize_output=False)(X, target=0, audit=True)
    assert_close(expl.output, model(X), rtol=1e-10)
    assert_close(expl.relevance, X * gradient, rtol=1e-7)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-8
    alone = torch.cat([LRP(model, normalize_output=False)(x[None], target=0).relevance for x in X])
    assert_close(alone, expl.relevance, rtol=1e-9)


def test_rotary_positions_are_what_they_are_in_real_numbers() -> None:
    assert_close(LRP(Net(rotated))(X, target=0).relevance, LRP(Net(rotated_in_reals))(X, target=0).relevance, rtol=1e-9)


class Correlated(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(y).conj(), n=x.shape[-1])


def test_of_a_product_of_complex_numbers_each_factor_gets_half() -> None:
    x, y = (t.requires_grad_() for t in torch.randn(2, 3, 6, dtype=torch.float64))
    gradients = torch.autograd.grad(Correlated()(x, y)[:, 1].sum(), (x, y))
    found = LRP(Correlated(), normalize_output=False)(x.detach(), y.detach(), target=1).relevance
    for R, a, gradient in zip(found, (x, y), gradients, strict=True):
        assert_close(R, a.detach() * gradient / 2, rtol=1e-7)


def test_angles_of_data_are_refused_by_name() -> None:
    with pytest.raises(UnexplainedError, match="angle"):
        LRP(Net(lambda m, h: torch.fft.rfft(h).angle()))(X, target=0)
