"""Zennit as a live oracle: the same networks, the same composites, in float64.

Where the definitions agree, relevance must agree to 1e-5 in relative L2. They do not agree in three places,
each with
a test of its own below that shows who follows the formula:

- *Batch norm.* Zennit turns a merged batch norm into the identity but leaves its ε in place, so each one
  still divides
  by sqrt(1 + ε) and the explained network is not the given one (its output moves by up to 1e-3 on a
  ResNet50).
  relprop fuses exactly. The networks here have ε = 0, which makes Zennit's merge exact too.
- *Gamma.* Zennit's `Gamma` is the generalized γ-rule (Andéol et al. 2021), relprop's `GammaRule` the
  original one
  (Montavon et al. 2019), which the reference tutorial's EpsilonGammaBox uses; relprop's
  `GeneralizedGammaRule` is
  Zennit's `Gamma`. Both are right by their papers. They coincide where a layer's inputs and outputs are
  positive,
  as in a VGG, and differ where relevance reaches a negative output, as before the addition in a residual
  block.
- *WSquare.* Zennit's rule lets b² take relevance, which the formula (sum over w_ij² only) does not. In no
  composite here.

The stabilizer and ε are set equal. Pooling: Zennit gives average pools the `Norm` rule, which is the 0-rule.
"""

from __future__ import annotations

import pytest
import torch
from support import dense as oracle
from support.compare import assert_close, relative_l2
from support.torchvision_shim import install
from support.zoo import NORMS, network, pictures
from torch import Tensor, nn

import relprop.rules as rp
from relprop import LRP, composites

HAS_TORCHVISION = install()  # Zennit imports it
zennit = pytest.importorskip("zennit")
zennit_rules = pytest.importorskip("zennit.rules")
zennit_composites = pytest.importorskip("zennit.composites")

slow = pytest.mark.slow
EPS = {"epsilon": 1e-6, "stabilizer": 1e-9}
LOW, HIGH = -2.5, 2.5


def zennit_relevance(model: nn.Module, composite, x: Tensor, R_out: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with composite.context(model) as modified:
        (R_in,) = torch.autograd.grad(modified(x), x, R_out)
    return R_in


def one_hot(output: Tensor) -> Tensor:
    return nn.functional.one_hot(output.argmax(1), output.shape[1]).to(output.dtype)


# ------------------------------------------------------------------------------------------- whole networks


@pytest.fixture(
    scope="module", params=[pytest.param("vgg16_bn", marks=slow), "resnet18", pytest.param("resnet50", marks=slow)]
)
def net(request) -> tuple[str, nn.Module]:
    model = network(request.param, 64, torch.float64)
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eps = 0.0  # see above
    return request.param, model


def zennit_box(x: Tensor, **options):
    return zennit_composites.EpsilonGammaBox(
        low=torch.full_like(x[:1], LOW), high=torch.full_like(x[:1], HIGH), **options
    )


COMPOSITES = {
    "EpsilonPlusFlat": (
        lambda: composites.EpsilonPlusFlat(**EPS),
        lambda x, **options: zennit_composites.EpsilonPlusFlat(**EPS, **options),
    ),
    "EpsilonAlpha2Beta1Flat": (
        lambda: composites.EpsilonAlpha2Beta1Flat(**EPS),
        lambda x, **options: zennit_composites.EpsilonAlpha2Beta1Flat(**EPS, **options),
    ),
    "EpsilonGammaBox": (
        lambda: composites.EpsilonGammaBox(LOW, HIGH, gamma=0.25, **EPS),
        lambda x, **options: zennit_box(x, **EPS, **options),
    ),
    "EpsilonGammaBox, as the paper has it": (
        lambda: composites.EpsilonGammaBox(LOW, HIGH, gamma=0.25, generalized=False, **EPS),
        lambda x, **options: zennit_box(x, **EPS, **options),
    ),
}


@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_network_agrees(net: tuple[str, nn.Module], composite: str):
    """To 1e-5; EpsilonGammaBox with the paper's γ-rule only where both rules mean the same, in the VGG."""
    name, model = net
    ours, theirs = COMPOSITES[composite]
    x = pictures(2, 64, torch.float64)
    canonizer = zennit.torchvision.VGGCanonizer if name.startswith("vgg") else zennit.torchvision.ResNetCanonizer
    expl = LRP(model, ours(), normalize_output=True)(x)
    expected = zennit_relevance(model, theirs(x, canonizers=[canonizer()]), x, one_hot(model(x)))
    if composite == "EpsilonGammaBox, as the paper has it" and name.startswith("resnet"):
        # relevance reaches negative pre-activations before each addition: there the two γ-rules differ
        assert relative_l2(expl.relevance, expected) > 1e-2
        return
    assert_close(expl.relevance, expected, rtol=1e-5)
    assert expected.norm() > 0


def test_zennit_moves_the_output_where_batch_norm_has_an_epsilon_and_relprop_does_not():
    model = network("resnet18", 64, torch.float64)
    x = pictures(2, 64, torch.float64)
    with torch.no_grad():
        z = model(x)
        canonizer = zennit.torchvision.ResNetCanonizer()
        with zennit_composites.EpsilonPlusFlat(canonizers=[canonizer]).context(model) as modified:
            assert relative_l2(modified(x), z) > 1e-5
        assert_close(model(x), z, rtol=1e-14)
    assert_close(LRP(model, composites.EpsilonPlusFlat())(x).output, z, rtol=1e-12)


# ------------------------------------------------------------------ one layer: relprop, Zennit, the formula

# rule, Zennit's rule, the formula
PAIRS = {
    "epsilon": (
        rp.EpsilonRule(0.1),
        lambda: zennit_rules.Epsilon(epsilon=0.1),
        lambda L, a, R: oracle.zero(L, a, R, 0.1),
    ),
    "z_plus": (rp.ZPlusRule(), lambda: zennit_rules.ZPlus(stabilizer=1e-9), oracle.z_plus),
    "alpha_beta": (rp.AlphaBetaRule(), lambda: zennit_rules.AlphaBeta(stabilizer=1e-9), oracle.alpha_beta),
    "generalized_gamma": (
        rp.GeneralizedGammaRule(0.25),
        lambda: zennit_rules.Gamma(gamma=0.25, stabilizer=1e-9),
        oracle.generalized_gamma,
    ),
    "flat": (rp.FlatRule(), lambda: zennit_rules.Flat(stabilizer=1e-9), oracle.flat),
    "z_box": (
        rp.ZBoxRule(-4.0, 4.0),
        lambda: zennit_rules.ZBox(low=-4.0, high=4.0, stabilizer=1e-9),
        lambda L, a, R: oracle.z_box(L, a, R, torch.full_like(a[0], -4.0), torch.full_like(a[0], 4.0)),
    ),
}


@pytest.fixture
def layer() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3, stride=2, padding=1).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def three(layer: nn.Module, x: Tensor, rule, zennit_rule, formula) -> tuple[Tensor, Tensor, Tensor]:
    """The relevance of x by relprop, by Zennit, and by the formula on the layer's dense matrix."""
    z = layer(x).detach()
    R_out = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    ours = LRP(nn.Sequential(layer), [rule])(x, target=lambda output: R_out).relevance
    composite = zennit.core.Composite(
        module_map=lambda ctx, name, module: zennit_rule() if isinstance(module, nn.Conv2d) else None
    )
    theirs = zennit_relevance(nn.Sequential(layer), composite, x, R_out)
    L = oracle.dense(layer, tuple(x.shape[1:]))
    return ours, theirs, formula(L, x.flatten(1), R_out.flatten(1)).R_in.reshape(x.shape)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_layer_agrees_with_zennit_and_with_the_formula(layer, x, pair):
    ours, theirs, formula = three(layer, x, *PAIRS[pair])
    assert_close(ours, formula, rtol=1e-9, what="relprop and the formula")
    assert_close(theirs, formula, rtol=1e-9, what="Zennit and the formula")


def test_zennits_gamma_is_the_generalized_rule_and_not_the_original_one(layer, x):
    ours, theirs, formula = three(
        layer,
        x,
        rp.GammaRule(0.25),
        lambda: zennit_rules.Gamma(gamma=0.25, stabilizer=1e-9),
        lambda L, a, R: oracle.gamma(L, a, R, 0.25),
    )
    assert_close(ours, formula, rtol=1e-9)
    assert relative_l2(theirs, formula) > 0.1


def test_the_two_gamma_rules_coincide_where_inputs_and_outputs_are_positive(layer, x):
    with torch.no_grad():
        layer.bias += 20.0  # every output positive
    ours, theirs, formula = three(
        layer,
        x.abs(),
        rp.GammaRule(0.25),
        lambda: zennit_rules.Gamma(gamma=0.25, stabilizer=1e-9),
        lambda L, a, R: oracle.gamma(L, a, R, 0.25),
    )
    assert_close(ours, formula, rtol=1e-9)
    assert_close(theirs, formula, rtol=1e-9)


@pytest.mark.parametrize("bias", [False, True])
def test_zennits_w_square_leaks_into_the_bias(x, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias).double()
    rules = rp.WSquareRule(), lambda: zennit_rules.WSquare(stabilizer=1e-9), oracle.w_square
    ours, theirs, formula = three(layer, x, *rules)
    assert_close(ours, formula, rtol=1e-9)
    if bias:
        assert relative_l2(theirs, formula) > 1e-2
    else:
        assert_close(theirs, formula, rtol=1e-9)
