"""Solutions of linear systems are linear in the right side, as a product with the inverse is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP, EpsilonPlus
from relprop.errors import UnexplainedError

DTYPE = torch.float64


class Solved(nn.Module):
    """A system (4, 4) of parameters, and right sides (B, 4)."""

    def __init__(self, by: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.system = nn.Parameter(torch.randn(4, 4) + 3 * torch.eye(4))
        self.inner, self.out, self.by = nn.Linear(6, 4), nn.Linear(4, 3), by
        self.to(DTYPE)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.by(self.system, self.inner(x).relu()))


def of_all(a: Tensor) -> Tensor:
    """A system for each of three samples."""
    return a.expand(3, 4, 4) + torch.arange(3, dtype=a.dtype)[:, None, None] * torch.eye(4, dtype=a.dtype)


def lower_half(a: Tensor) -> Tensor:
    return torch.linalg.cholesky(a @ a.T)


solve, triangular = torch.linalg.solve, torch.linalg.solve_triangular

FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "columns": (lambda a, h: solve(a, h.T).T, lambda a, h: h @ a.inverse().T),
    "rows": (lambda a, h: solve(a, h, left=False), lambda a, h: h @ a.inverse()),
    "vectors": (
        lambda a, h: solve(of_all(a), h),
        lambda a, h: (of_all(a).inverse() @ h[..., None])[..., 0],
    ),
    "lower": (lambda a, h: triangular(a, h.T, upper=False).T, lambda a, h: h @ a.tril().inverse().T),
    "upper": (lambda a, h: triangular(a, h, upper=True, left=False), lambda a, h: h @ a.triu().inverse()),
    "cholesky": (
        lambda a, h: torch.cholesky_solve(h.T, lower_half(a)).T,
        lambda a, h: h @ (a @ a.T).inverse().T,
    ),
    "cholesky, upper": (
        lambda a, h: torch.cholesky_solve(h.T, lower_half(a).T, upper=True).T,
        lambda a, h: h @ (a @ a.T).inverse().T,
    ),
}


@pytest.mark.parametrize("composite", [None, EpsilonPlus(), AttnLRP()], ids=["zero", "plus", "attnlrp"])
@pytest.mark.parametrize("form", FORMS)
def test_a_solution_is_a_product_with_the_inverse(form, composite):
    x = torch.randn(3, 6, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    found, expected = (LRP(Solved(by), composite)(x, target=1, audit=True) for by in FORMS[form])
    torch.testing.assert_close(found.output, Solved(FORMS[form][0])(x))
    # ε stands beside each sum, and a matrix of parameters may be the layer's weight or what it is multiplied with
    atol = 1e-5 if composite == EpsilonPlus() else 1e-12
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-7, atol=atol)
    assert found.ledger.imbalance < 1e-9


def test_a_system_of_data_is_refused():
    model = Solved(lambda a, h: solve(h[:, :, None] + a, h))
    with pytest.raises(UnexplainedError, match="linalg_solve"):
        LRP(model)(torch.randn(3, 6, dtype=DTYPE), target=1)
