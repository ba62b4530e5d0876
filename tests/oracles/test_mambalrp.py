"""Selective scans against MambaLRP (Jafari et al. 2024), written out as modified gradients of the recurrence.

Step, decay, input map and readout are detached; SiLU is the identity rule, the gate the half rule, norm statistics are
detached. The loops below are the papers' recurrences; they share no code with relprop or with transformers' chunks.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.compare import relative_l2
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP

install()
transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[3, 17, 42, 8, 25], [11, 2, 36, 29, 4]])


def identity(x: Tensor) -> Tensor:
    """SiLU under the identity rule."""
    return x * (F.silu(x) / x).detach()


def half(x: Tensor) -> Tensor:
    return x / 2 + (x / 2).detach()


def rms(x: Tensor, norm: nn.Module) -> Tensor:
    rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon).detach()
    return x * rstd * norm.weight


def convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Causal depthwise convolution of (B, T, C)."""
    return identity(conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))


def mamba_mixer(m: nn.Module, u: Tensor) -> Tensor:
    x, gate = m.in_proj(u).chunk(2, dim=-1)
    x = convolved(x, m.conv1d)
    step, b, c = m.x_proj(x).split([m.time_step_rank, m.ssm_state_size, m.ssm_state_size], dim=-1)
    step = F.softplus(m.dt_proj(step)).detach()
    decay = torch.exp(step[..., None] * -torch.exp(m.A_log)).detach()
    h, ys = x.new_zeros(x.shape[0], x.shape[2], m.ssm_state_size), []
    for t in range(x.shape[1]):
        taken_in = step[:, t, :, None] * b.detach()[:, t, None]
        h = decay[:, t] * h + taken_in * x[:, t, :, None]
        ys.append((h * c.detach()[:, t, None]).sum(-1))
    y = torch.stack(ys, 1) + m.D * x
    return m.out_proj(half(y * identity(gate)))


def mamba2_mixer(m: nn.Module, u: Tensor) -> Tensor:
    n, groups = m.ssm_state_size, m.n_groups
    gate, xbc, step = m.in_proj(u).split([m.intermediate_size, m.intermediate_size + 2 * groups * n, m.num_heads], -1)
    x, b, c = convolved(xbc, m.conv1d).split([m.intermediate_size, groups * n, groups * n], -1)
    x = x.unflatten(-1, (m.num_heads, m.head_dim))
    b, c = (v.detach().unflatten(-1, (groups, n)).repeat_interleave(m.num_heads // groups, 2) for v in (b, c))
    step = F.softplus(step + m.dt_bias).detach()
    decay = torch.exp(step * -torch.exp(m.A_log)).detach()
    h, ys = x.new_zeros(x.shape[0], m.num_heads, m.head_dim, n), []
    for t in range(x.shape[1]):
        h = decay[:, t, :, None, None] * h + step[:, t, :, None, None] * x[:, t, ..., None] * b[:, t, :, None]
        ys.append((h * c[:, t, :, None]).sum(-1))
    y = (torch.stack(ys, 1) + m.D[:, None] * x).flatten(2)
    gated = half(y * identity(gate))
    rstd = torch.rsqrt(gated.unflatten(-1, (groups, -1)).square().mean(-1, keepdim=True) + m.norm.variance_epsilon)
    return m.out_proj(
        gated * rstd.detach().expand(*rstd.shape[:-1], gated.shape[-1] // groups).flatten(-2) * m.norm.weight
    )


def mamba_lrp(model: nn.Module, mixer: object, token: int) -> tuple[Tensor, Tensor]:
    """Logits, and relevance (B, T, D) of the embeddings for the logit of `token` at the last position."""
    embedded = model.backbone.embeddings(IDS).detach().requires_grad_()
    x = embedded
    for block in model.backbone.layers:
        x = x + mixer(block.mixer, rms(x, block.norm))
    logits = model.lm_head(rms(x, model.backbone.norm_f))
    (grad,) = torch.autograd.grad(logits[:, -1, token].sum(), embedded)
    return logits.detach(), embedded.detach() * grad


def mamba() -> nn.Module:
    config = transformers.MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2, conv_kernel=3)
    return transformers.MambaForCausalLM(config)


def mamba2() -> nn.Module:
    config = transformers.Mamba2Config(
        vocab_size=50,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=8,
        n_groups=2,
        chunk_size=2,
    )
    return transformers.Mamba2ForCausalLM(config)


@pytest.mark.parametrize(
    ("build", "mixer"), [(mamba, mamba_mixer), pytest.param(mamba2, mamba2_mixer, marks=pytest.mark.slow)]
)
def test_scan_equals_mambalrp(build: object, mixer: object) -> None:
    torch.manual_seed(0)
    model = build().double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    for block in model.backbone.layers:
        nn.init.uniform_(block.mixer.A_log, 0, 1)
    logits, expected = mamba_lrp(model, mixer, token=7)
    explained = LRP(model, AttnLRP(), normalize_output=False)(input_ids=IDS, target=(-1, 7), audit=True)
    assert relative_l2(explained.output.logits, logits) < 1e-5, "the reference is not the model"
    assert relative_l2(explained.relevance, expected) < 1e-6
    assert explained.ledger.imbalance < 1e-6  # both models cast to float32 inside


class MaskedByHand(nn.Module):
    """Attention by exponentials and a mask that the model makes: it looks a little like a scan, and is none."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.exp(q @ k.mT)
        weights = weights * torch.ones_like(weights).tril()
        return (weights @ v / weights.sum(-1, keepdim=True)).flatten(1)


def test_what_is_no_scan_is_left_alone() -> None:
    q, k, v = (torch.rand(2, 4, 3, dtype=torch.float64) for _ in range(3))
    explained, plain = (LRP(MaskedByHand(), canonize=c)(q, k, v, target=2).relevance for c in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(explained, plain, strict=True))
    assert explained[2].any()
