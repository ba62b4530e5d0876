"""Models that make sizes and branches out of tensors that no data flows into."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.errors import CaptureError


class Network(nn.Module):
    """Pairs of positions, each a linear layer's input; a subclass says how many there are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("width", torch.tensor(2), persistent=False)
        self.layer, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

    def pairs(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.pairs(x)).relu().mean(1))


class DividedByFunction(Network):
    """As Longformer counts its chunks."""

    def pairs(self, x: Tensor) -> Tensor:
        count = torch.div(x.size(1), 2, rounding_mode="trunc")
        return x.view(x.size(0), count, 2)


class SizeFromBuffer(Network):
    """As EnCodec works out its padding."""

    def pairs(self, x: Tensor) -> Tensor:
        missing = (torch.ceil(x.shape[-1] / self.width) * self.width).long() - x.shape[-1]
        if missing > 0:
            x = nn.functional.pad(x, (0, missing))
        return x.view(x.shape[0], -1, 2)


class BranchOnOwnMask(Network):
    """As many models look whether a mask that they have made themselves masks anything."""

    def pairs(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        if not mask.all().item():
            x = x.masked_fill(~mask, 0.0)
        return super().pairs(x)


class CastsItsLayer(Network):
    """As routers of experts see to it that they compute in float32; here nothing changes."""

    def pairs(self, x: Tensor) -> Tensor:
        self.layer = self.layer.to(x.dtype)
        return super().pairs(x)


@pytest.mark.parametrize("kind", [DividedByFunction, SizeFromBuffer, BranchOnOwnMask, CastsItsLayer])
@pytest.mark.parametrize("batch", [1, 3])
def test_values_of_constants_are_part_of_the_program(kind: type[Network], batch: int) -> None:
    model = kind().double().eval()
    a = torch.randn(batch, 6, dtype=torch.float64, requires_grad=True)
    output = model(a)
    expected = a * torch.autograd.grad(output[:, 1].sum(), a)[0]
    lrp = LRP(model, normalize_output=False)
    expl = lrp(a.detach(), target=1)
    assert_close(expl.output, output.detach())
    assert_close(expl.relevance, expected.detach(), rtol=1e-6)  # ε
    b = torch.cat([a.detach(), a.detach()], 1)  # another length is another program
    assert_close(lrp(b, target=1).output, model(b).detach())


class BranchOnData(Network):
    def pairs(self, x: Tensor) -> Tensor:
        return super().pairs(-x if x.sum() > 0 else x)


def test_a_branch_on_data_is_refused() -> None:
    line, step = r"in pairs: return super\(\)\.pairs\(-x if x\.sum\(\)", r"torch\.where in the"
    with pytest.raises(CaptureError, match=rf"data-dependent[\s\S]*{line}[\s\S]*{step}"):
        LRP(BranchOnData().eval())(torch.randn(3, 6), target=1)
