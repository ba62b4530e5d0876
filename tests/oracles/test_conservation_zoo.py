"""Relevance is conserved on torchvision's architectures: no code knows any of them by name.

With the biases left out of the rules, EpsilonPlus has nothing that keeps relevance except ε, so the input's
relevance
must add up to the output's, and the ledger must balance at every node on the way.

There is one thing that z⁺ cannot do, whoever computes it: a unit without a single positive contribution has
nobody to
pass its relevance on to. Ordinary convolutions add up enough inputs for that never to matter. A depthwise
filter has
nine weights, which are all negative in one of 512 random filters, and sees inputs of which a ReLU has put
many to zero;
such a unit still gets relevance where a bias makes it active, or where a linear bottleneck hands on its
negative value.
The networks that are made of depthwise filters therefore get filters that add and no shifts; with arbitrary
random
weights the ledger says what got stuck, and the books balance all the same.
"""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from support.zoo import network, pictures
from torch import nn

from relprop import LRP
from relprop.composites import EpsilonPlus
from relprop.rules import ZPlusRule

slow = pytest.mark.slow
NO_HEADS = {"init_weights": False, "aux_logits": False}
ADDITIVE = {"additive": True}
NETWORKS = [
    pytest.param("alexnet", 64, {}),
    pytest.param("vgg11_bn", 64, {}),
    pytest.param("squeezenet1_1", 64, {}),
    pytest.param("resnet18", 64, {}),
    pytest.param("regnet_x_400mf", 64, {}, marks=slow),
    pytest.param("mobilenet_v2", 64, ADDITIVE),
    pytest.param("mnasnet0_5", 64, ADDITIVE, marks=slow),
    pytest.param("shufflenet_v2_x0_5", 64, ADDITIVE),
    pytest.param("googlenet", 64, NO_HEADS, marks=slow),
    pytest.param("inception_v3", 96, NO_HEADS, marks=slow),
    pytest.param("resnext50_32x4d", 64, {}, marks=slow),
    pytest.param("wide_resnet50_2", 64, {}, marks=slow),
    pytest.param("densenet121", 64, {}, marks=slow),
]


@pytest.mark.parametrize(("name", "size", "options"), NETWORKS)
def test_relevance_is_conserved(name: str, size: int, options: dict):
    model = network(name, size, **options)
    x = pictures(2, size)
    expl = LRP(model, EpsilonPlus(bias="ignore"), normalize_output=True)(x, audit=True)
    assert expl.ledger.output == pytest.approx(2.0)  # relevance 1 at the target of each sample
    assert expl.relevance.isfinite().all()
    assert expl.relevance.sum((1, 2, 3)).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    assert expl.ledger.imbalance <= 1e-4
    with torch.no_grad():
        assert_close(expl.output, model(x), rtol=1e-4)
    if name in ("resnet18", "mobilenet_v2"):  # the plain run frees and overwrites what an audited one keeps
        plain = LRP(model, EpsilonPlus(bias="ignore"), normalize_output=True)
        assert_close(plain(x).relevance, expl.relevance, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet0_5", "shufflenet_v2_x0_5"])
def test_what_gets_stuck_is_in_the_ledger(name: str):
    expl = LRP(network(name, 64), EpsilonPlus(bias="ignore"))(pictures(2, 64), audit=True)
    ledger = expl.ledger
    assert ledger.imbalance <= 1e-4
    assert ledger.input == pytest.approx(expl.relevance.double().sum().item(), abs=1e-4)
    assert ledger.input + sum(ledger.sinks.values()) == pytest.approx(ledger.output, abs=1e-4)
    assert set(ledger.sinks) <= {"epsilon"}  # and to no bias, since biases are ignored
    stuck = [entry for entry in ledger.entries if entry.sinks.get("epsilon", 0.0) > 1e-3]
    assert all(isinstance(entry.rule, ZPlusRule) for entry in stuck)
    assert sum(entry.sinks["epsilon"] for entry in stuck) == pytest.approx(ledger.sinks["epsilon"], abs=1e-2)


def test_a_unit_without_a_positive_contribution_passes_nothing_on():
    """Two channels of ones, filters of +1 and -1, biases of 30: both units are active, only the first has a
    z⁺.

    Inside, z⁺ = (9, 0): the first passes its relevance 1 to nine inputs, the second has no share to give.
    """
    layer = nn.Conv2d(2, 2, 3, groups=2)
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 1.0, -1.0
        layer.bias.fill_(30.0)
    expl = LRP(nn.Sequential(layer, nn.ReLU()), [ZPlusRule(bias="ignore"), ZPlusRule()])(
        torch.ones(1, 2, 3, 3), target=lambda output: torch.ones_like(output), audit=True
    )
    expected = torch.stack([torch.full((3, 3), 1 / 9), torch.zeros(3, 3)])[None]
    assert_close(expl.relevance, expected, rtol=1e-6)
    assert expl.ledger.sinks["epsilon"] == pytest.approx(1.0, abs=1e-6)
