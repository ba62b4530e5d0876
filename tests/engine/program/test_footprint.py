"""What is computed without memory is what a call takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.cases import cnn
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers.options import Options
from relprop.composites import AttnLRP, EpsilonPlus
from relprop.engine.program.footprint import Alive, Footprint, footprint
from relprop.targets import Logit, Target

install()


def asked(lrp: LRP, x: Tensor, target: Target, **inputs: Any) -> Footprint:
    known = lrp._latest
    assert known is not None
    question = Options().question(known, target, False, None)
    program, leaves, (fitted,) = known.fit([x, *inputs.values()], [question])
    return footprint(program, leaves, fitted, segments=known.segments(program))


def taken(call: Any) -> int:
    with Alive() as alive:
        call()
    return alive.peak


def decoder() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=48, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=96, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("checkpoint", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_decoder(checkpoint: bool) -> None:
    model, length = decoder(), 40
    lrp = LRP(model, AttnLRP(), normalize_output=False, checkpoint=checkpoint, checks=False)
    lrp(input_ids=torch.arange(8)[None], target=(-1, 3))
    ids = torch.arange(length)[None] % 20
    found = asked(lrp, ids, Logit((-1, 3)))
    lrp(input_ids=ids, target=(-1, 3))  # the second call is compared with the model
    measured = taken(lambda: lrp(input_ids=ids, target=(-1, 3)))
    assert found.peak == pytest.approx(measured, rel=0.1)
    assert found.weights == sum(p.numel() * 4 for p in model.parameters()) + _buffers(model)
    assert found.made < 0.01 * found.weights


def _buffers(model: nn.Module) -> int:
    return sum(b.numel() * b.element_size() for b in model.buffers())


@pytest.mark.slow
def test_it_grows_with_the_sequence() -> None:
    lrp = LRP(decoder(), AttnLRP(), normalize_output=False, checks=False)
    lrp(input_ids=torch.arange(8)[None], target=(-1, 3))
    few, many = (asked(lrp, torch.zeros(1, n, dtype=torch.long), Logit((-1, 3))).peak for n in (100, 200))
    assert 1.9 < many / few < 2.4


def test_a_convolutional_network_and_its_modified_weights() -> None:
    torch.manual_seed(0)
    model, x = cnn().eval(), torch.rand(4, 3, 8, 8)
    lrp = LRP(model, EpsilonPlus(), normalize_output=False, checks=False)
    for _ in range(2):
        lrp(x, target=1)
    found = asked(lrp, x, Logit(1))
    assert found.peak == pytest.approx(taken(lambda: lrp(x, target=1)), rel=0.1)
    modified = sum(w.numel() * 4 for w in lrp._latest.program.constants.modified.values())
    assert modified <= found.made < modified + found.weights
    low = LRP(model, EpsilonPlus(), normalize_output=False, memory="low")
    low(x, target=1)
    assert asked(low, x, Logit(1)).made < found.made
