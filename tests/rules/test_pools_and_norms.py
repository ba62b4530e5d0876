"""Layers that are not affine: max pools and normalizations, written as loops; and who passes all on."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.compare import assert_close
from support.dense import stabilize
from torch import Tensor, nn

from relprop import LRP
from relprop.rules import (
    EpsilonRule,
    LayerNormRule,
    NormRule,
    PassRule,
    ZeroRule,
)

# ---------------------------------------------------------------------------------------------- max pooling

MAX_POOLS = [
    (nn.MaxPool1d(3, stride=2, padding=1), (2, 7)),
    (nn.MaxPool2d(2), (2, 4, 6)),
    (nn.MaxPool2d(3, stride=2, padding=1), (2, 5, 6)),
    (nn.MaxPool2d((2, 3), stride=1), (2, 4, 5)),
    (nn.MaxPool2d(2, dilation=2), (2, 5, 5)),
    (nn.MaxPool2d(2, ceil_mode=True), (2, 5, 5)),
    (nn.MaxPool3d(2, stride=1), (1, 3, 3, 3)),
    (nn.AdaptiveMaxPool1d(3), (2, 7)),
    (nn.AdaptiveMaxPool2d(1), (2, 4, 5)),
    (nn.AdaptiveMaxPool2d((2, 3)), (2, 5, 5)),
]


def windows(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Which inputs each output looks at, (out, in): those that win when they alone are large."""
    n = torch.Size(shape).numel()
    probes = torch.zeros(n, *shape, dtype=torch.float64)
    probes.reshape(n, n).fill_diagonal_(1.0)
    return (module(probes).reshape(n, -1) > 0).T.double()


def explained(module: nn.Module, rule, x: Tensor, R_out: Tensor, **options):
    return LRP(nn.Sequential(module), [rule], canonize=False)(x, target=lambda output: R_out, **options)


@pytest.mark.parametrize("rule", [ZeroRule(), EpsilonRule(1e-9)], ids=repr)
@pytest.mark.parametrize(("module", "shape"), MAX_POOLS, ids=repr)
def test_max_pool_winner_takes_all(module, shape, rule):
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64) + 0.1
    z = module(x)
    R_out = torch.randn_like(z)
    expected = torch.zeros(2, x[0].numel(), dtype=torch.float64)
    looks_at = windows(module, shape)
    for n, j in itertools.product(range(2), range(z[0].numel())):
        seen = x[n].flatten().where(looks_at[j] > 0, torch.tensor(float("-inf"), dtype=x.dtype))
        expected[n, seen.argmax()] += R_out[n].flatten()[j]
    expl = explained(module, rule, x, R_out, audit=True)
    assert_close(expl.relevance, expected.reshape(x.shape), rtol=1e-6)
    assert expl.ledger.imbalance <= 1e-10


@pytest.mark.parametrize(
    ("module", "shape"), [row for row in MAX_POOLS if getattr(row[0], "dilation", 1) == 1], ids=repr
)
def test_max_pool_by_the_norm_rule_shares_in_proportion(module, shape):
    """R_i = sum over windows j with i in them of x_i / (sum of the window) R_j."""
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    R_out = torch.randn_like(module(x))
    looks_at = windows(module, shape)
    q = x.flatten(1)[:, None] * looks_at
    s = R_out.flatten(1) / q.sum(-1)
    expected = (q * s[..., None]).sum(1).reshape(x.shape)
    expl = explained(module, NormRule(stabilizer=1e-14), x, R_out, audit=True)
    assert_close(expl.relevance, expected, rtol=1e-9)
    assert expl.ledger.imbalance <= 1e-10


@pytest.mark.parametrize("module", [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d((2, 3)), nn.AvgPool2d(3, 2, 1)], ids=repr)
def test_the_norm_rule_on_an_average_pool_is_the_zero_rule(module):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    R_out = torch.randn_like(module(x))
    expected = explained(module, ZeroRule(), x, R_out).relevance
    assert_close(explained(module, NormRule(), x, R_out).relevance, expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", [ZeroRule(), NormRule()], ids=repr)
def test_max_pool_is_finite_at_zero(rule, dtype):
    x = torch.zeros(2, 2, 4, 4, dtype=dtype)
    R_out = torch.ones(2, 2, 2, 2, dtype=dtype)
    expl = explained(nn.MaxPool2d(2), rule, x, R_out)
    assert expl.relevance.isfinite().all()
    assert expl.relevance.dtype == dtype


# ------------------------------------------------------------------------------------------- normalizations

NORMS = [
    (nn.LayerNorm(6), (6,)),
    (nn.LayerNorm((3, 4)), (2, 3, 4)),
    (nn.LayerNorm(4, bias=False), (3, 4)),
    (nn.LayerNorm(4, elementwise_affine=False), (3, 4)),
    (nn.GroupNorm(2, 4), (4, 3, 2)),
    (nn.GroupNorm(1, 4, affine=False), (4, 3)),
    (nn.InstanceNorm2d(3, affine=True), (3, 4, 2)),
    (nn.InstanceNorm1d(3), (3, 5)),
]


def groups_of(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """(groups, in): which entries are normalized together."""
    index = torch.arange(torch.Size(shape).numel()).reshape(shape)
    if isinstance(module, nn.LayerNorm):
        parts = index.reshape(-1, torch.Size(module.normalized_shape).numel())
    elif isinstance(module, nn.GroupNorm):
        parts = index.reshape(module.num_groups, -1)
    else:
        parts = index.reshape(shape[0], -1)
    return parts


@pytest.mark.parametrize(("module", "shape"), NORMS, ids=repr)
def test_layer_norm_rule(module, shape):
    """Mean and deviation are constants. R_y = y w / (y w + b) R, then R_i = x_i (s_i − mean(s)), s = R_y /
    (x − mean).
    """
    torch.manual_seed(0)
    module = module.double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, *shape, dtype=torch.float64)
    z = module(x).detach()
    R_out = torch.randn_like(z)
    b = module(torch.zeros(1, *shape, dtype=torch.float64)).detach()  # 0 is normalized to 0
    R_y = ((z - b) / stabilize(z, 1e-9) * R_out).flatten(1)
    expected = torch.zeros_like(R_y)
    for n, part in itertools.product(range(2), groups_of(module, shape)):
        a = x[n].flatten()[part]
        s = R_y[n, part] / (a - a.mean())
        expected[n, part] = a * (s - s.mean())
    expl = explained(module, LayerNormRule(), x, R_out, audit=True)
    assert_close(expl.relevance, expected.reshape(x.shape), rtol=1e-6)
    assert expl.ledger.imbalance <= 1e-10


# --------------------------------------------------------------------------------------------- ------- pass


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(),
        nn.Identity(),
        nn.Dropout(0.5),
        nn.Tanh(),
        nn.GELU(),
        nn.BatchNorm1d(4),
        nn.Linear(4, 4),
        nn.LayerNorm(4),
    ],
    ids=repr,
)
def test_pass_rule_passes(module):
    x = torch.randn(3, 4)
    R_out = torch.randn(3, 4)
    assert torch.equal(explained(module.eval(), PassRule(), x, R_out).relevance, R_out)


@pytest.mark.parametrize("rule", [ZeroRule(), EpsilonRule(0.1), NormRule(), PassRule()], ids=repr)
@pytest.mark.parametrize("module", [nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Sigmoid()], ids=repr)
def test_elementwise_layers_pass_by_the_zero_rule_too(module, rule):
    x = torch.randn(3, 2, 2)
    R_out = torch.randn_like(module.eval()(x))
    assert torch.equal(explained(module, rule, x, R_out).relevance, R_out.reshape(x.shape))
