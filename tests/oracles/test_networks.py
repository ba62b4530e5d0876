"""Whole networks of many kinds, tiny: what reaches the inputs and what the sinks keep add up to the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_each_close
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP, Explanation
from relprop.composites import AttnLRP, Composite, EpsilonPlus


def accounted(expl: Explanation, tolerance: float = 1e-8) -> None:
    """The law: every account balances, and so does the whole."""
    ledger = expl.ledger
    assert ledger is not None
    assert ledger.imbalance <= tolerance
    assert ledger.input + sum(ledger.sinks.values()) == pytest.approx(ledger.output, abs=1e-6)
    several = expl.relevance if isinstance(expl.relevance, tuple) else (expl.relevance,)
    assert all(r.isfinite().all() and r.any() for r in several)
    assert sum(float(r.sum()) for r in several) == pytest.approx(ledger.input, abs=1e-6)


class UNet(nn.Module):
    """Down, up again by a transposed convolution, and a concatenation with what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.norm, self.up = nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.leave = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.enter(x))
        coarse = F.relu(self.norm(self.down(fine)))
        return self.leave(torch.cat([fine, F.relu(self.up(coarse))], 1)).mean((2, 3))


class Experts(nn.Module):
    """Two of four experts for each token, chosen and weighed by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.last = nn.Linear(6, 4), nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 6)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        weights = torch.zeros_like(x[..., :4]).scatter(-1, chosen, share / share.sum(-1, keepdim=True))
        mixed = sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return self.last(x + mixed).mean(1)


class EncoderDecoder(nn.Module):
    """nn.Transformer, whose decoder reads the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True, norm_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.body(x, y)[:, -1])


def convolutional(n: int) -> nn.Module:
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[n]
    pool, norm = {1: (nn.MaxPool1d, nn.BatchNorm1d), 3: (nn.MaxPool3d, nn.BatchNorm3d)}[n]
    return nn.Sequential(conv(2, 4, 3, padding=1), norm(4), nn.ReLU(), pool(2), conv(4, 4, 2), nn.ReLU(),
                         nn.Flatten(), nn.LazyLinear(3))  # fmt: skip


def settled(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """In float64, with batch norms that have seen something."""
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    model.train()(*inputs)
    return model.eval()


NETWORKS: dict[str, tuple[Any, list[tuple[int, ...]], Composite]] = {
    "1-D": (lambda: convolutional(1), [(3, 2, 10)], EpsilonPlus()),
    "3-D": (lambda: convolutional(3), [(3, 2, 4, 6, 6)], EpsilonPlus()),
    "U-Net": (UNet, [(3, 2, 8, 8)], EpsilonPlus()),
    "experts": (Experts, [(3, 5, 6)], AttnLRP()),
    "encoder and decoder": (EncoderDecoder, [(3, 5, 8), (3, 4, 8)], AttnLRP()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_accounted_for(name: str) -> None:
    make, shapes, composite = NETWORKS[name]
    torch.manual_seed(0)
    model, inputs = make(), [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    lrp = LRP(settled(model, *inputs), composite)
    together = lrp(*inputs, target=1, audit=True)
    accounted(together)
    alone = lrp(*(x[1:2] for x in inputs), target=1)
    for whole, part in zip(together.inputs.values(), alone.inputs.values(), strict=True):
        assert_each_close(whole[1:2], part, rtol=1e-8, atol=1e-12)


# Vision transformers: at the pixels, and at the patches.


def torchvisions() -> tuple[nn.Module, str]:
    if not install():
        pytest.skip("torchvision is not installed")
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=3)
    nn.init.normal_(model.heads.head.weight)  # it starts at zero
    return model, "conv_proj"


def timms() -> tuple[nn.Module, str]:
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(16, 4, embed_dim=8, depth=2, num_heads=2, num_classes=3), "patch_embed"


def hugging_faces() -> tuple[nn.Module, str]:
    install()
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                                    image_size=16, patch_size=4, num_labels=3)  # fmt: skip
    return transformers.ViTForImageClassification(config), "vit.embeddings.patch_embeddings"


@pytest.mark.parametrize("make", [torchvisions, timms, hugging_faces])
def test_relevance_at_pixels_and_at_patches(make: Any) -> None:
    torch.manual_seed(0)
    model, patches = make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.3)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expl = LRP(model.double().eval(), AttnLRP())(x, target=1, layers=patches, audit=True)
    accounted(expl)
    at_patches = expl.layers[patches]
    assert at_patches.shape in {(2, 8, 4, 4), (2, 16, 8)}  # (B, D, h, w), or (B, N, D)
    # Behind the patches only the projection's bias keeps something: patch by patch, and in all.
    assert expl.ledger is not None
    projection = next(e for e in expl.ledger if e.operator == "conv2d")
    assert float(at_patches.sum()) == pytest.approx(projection.received)
    assert float(at_patches.sum()) == pytest.approx(float(expl.relevance.sum()) + projection.sinks["bias"])
    upstream = sum(amount for e in expl.ledger if e is not projection for amount in e.sinks.values())
    assert float(at_patches.sum()) == pytest.approx(expl.ledger.output - upstream, abs=1e-8)
    weight, bias = (dict(model.named_parameters())[f"{projection.module}.{kind}"] for kind in ("weight", "bias"))
    z = F.conv2d(x, weight, bias, stride=4).detach()
    by_patch = at_patches if at_patches.dim() == 4 else at_patches.transpose(1, 2).reshape(z.shape)
    expected = (by_patch * (1 - bias.detach()[:, None, None] / z)).sum(1)
    assert_each_close(F.avg_pool2d(expl.relevance.sum(1, keepdim=True), 4, divisor_override=1)[:, 0], expected)


# Text.


class Pooled(nn.Module):
    """Mean of the token embeddings that the mask keeps; the output's weights are the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.hidden, self.output = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
        self.output.weight = self.embedding.weight
        self.embedding.weight.requires_grad_(False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = F.gelu(self.hidden(self.embedding(ids)))
        kept = mask.unsqueeze(-1).to(h.dtype)
        return self.output((h * kept).sum(1) / kept.sum(1).clamp(min=1e-9))


def test_a_masked_mean_of_tied_and_frozen_embeddings() -> None:
    model = Pooled().double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids, mask = torch.tensor([[3, 1, 4], [1, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    lrp = LRP(model)
    expl = lrp(ids, mask, target=2, audit=True)
    accounted(expl)
    assert expl.relevance.shape == (2, 3, 6)
    assert not expl.relevance[1, 2].any()
    alone = lrp(ids[1:, :2], mask[1:, :2], target=2).relevance
    assert_each_close(expl.relevance[1:, :2], alone, rtol=1e-10)
    untied = Pooled().double()
    untied.output.weight = nn.Parameter(untied.embedding.weight.clone())
    assert torch.equal(LRP(untied)(ids, mask, target=2).relevance, expl.relevance)
    assert model.output.weight is model.embedding.weight
    assert not model.embedding.weight.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_is_explained_as_float32_is(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    model, x = Experts().eval(), torch.randn(2, 5, 6)
    expected = LRP(model)(x, target=1).relevance
    actual = LRP(model.to(dtype))(x.to(dtype), target=1).relevance
    assert (actual.float() - expected).norm() <= tolerance * expected.norm()
