"""Both loops on another device than the CPU: nothing is made elsewhere, and nobody waits for values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import program_of
from support.cases import CASES
from support.elsewhere import META, answer_on_meta, waits
from support.law_table import OPERATORS, REFUSED, RULES, Operator, first
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP
from relprop.engine.program.condition import Mask
from relprop.engine.program.program import Program
from relprop.engine.program.question import Question
from relprop.targets import Seed
from relprop.targets.output import Function, Largest, Logit


def check(program: Program, inputs: list[Any], **how: Any) -> None:
    """Relevance arrives on the device of the inputs, in their shapes, from each kind of target."""
    start = program.explained
    shape = program.explained_shape(inputs)
    targets = [Largest(), Logit((0,) * len(shape[1:])), Function(torch.ones_like)]
    for several in ([target] for target in targets):
        (found,) = answer_on_meta(program, inputs, [Question(start, Seed(target)) for target in several], **how)
        _check_answer(found, inputs)


def _check_answer(found: Any, inputs: list[Any]) -> None:
    floats = [x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
    assert [r.shape for r in found.inputs.values()][: len(floats)] == [x.shape for x in floats]
    assert all(r.device == META for r in found.inputs.values())
    assert all(output.device == META for output in found.outputs())


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_every_affine_operator_by_every_rule(operator: Operator, every: int) -> None:
    """All pairs are slow; of every fourth, each operator and each rule has some."""
    layer = operator.build(first, operator.biased)
    model, x = nn.Sequential(layer.module.double().eval()), torch.rand(2, *layer.shape, dtype=torch.float64)
    for rule in RULES[OPERATORS.index(operator) % every :: every]:
        if (rule.name, operator.name) not in REFUSED:
            parameters, _ = rule.draw(first, layer)
            check(program_of(LRP(model, [rule.make(**parameters)], canonize=False), x), [x])


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_models_of_several_kinds(case: str, segments: int) -> None:
    build, shape, composite = CASES[case]
    model, x = build().eval(), torch.randn(shape)
    check(program_of(LRP(model, composite), x), [x], segments=segments)


OTHERS = {
    "prod": lambda h: h.prod(1),
    "cumprod": lambda h: h.cumprod(1),
    "cumsum": lambda h: h.cumsum(1),
    "max": lambda h: h.max(1).values,
    "median": lambda h: h.median(1).values,
    "topk": lambda h: h.topk(2, 1).values,
    "logsumexp": lambda h: h.logsumexp(1),
    "std": lambda h: h.std(1),
    "norm": lambda h: h.norm(dim=1),
    "normalize": lambda h: F.normalize(h, dim=-1),
    "layer_norm": lambda h: F.layer_norm(h, h.shape[-1:]),
    "softmax": lambda h: h.softmax(-1) * h,
    "log_softmax": lambda h: h.log_softmax(-1) * h,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "where": lambda h: torch.where(h > 0, h, 0.1),
    "masked_fill": lambda h: h.masked_fill(torch.ones(4, 6, dtype=torch.bool, device=h.device).triu(), 0.0),
    "pad": lambda h: F.pad(h, (1, 2), value=0.5),
    "gather": lambda h: h.gather(1, torch.zeros(2, 1, 6, dtype=torch.long, device=h.device)),
    "indices": lambda h: h[:, torch.tensor([0, 2], device=h.device)],
    "positions": lambda h: h + torch.arange(6, device=h.device),
    "einsum": lambda h: torch.einsum("btd,bsd->bts", h, h),
    "causal": lambda h: F.scaled_dot_product_attention(h, h, h, is_causal=True),
    "dropout": lambda h: F.dropout(h, 0.5),
    "cdist": lambda h: torch.cdist(h, h[:, :2]),
    "cosine_similarity": lambda h: F.cosine_similarity(h, h.flip(1), dim=-1),
    "roll": lambda h: h.roll(1, 1),
    "chunk": lambda h: torch.cat(h.chunk(2, -1)[::-1], -1),
    "interpolate": lambda h: F.interpolate(h[:, None], scale_factor=2, mode="bilinear")[:, 0],
    "max_pool": lambda h: F.max_pool2d(h[:, None], 2)[:, 0],
    "group_norm": lambda h: F.group_norm(h, 2),
    "sin": torch.sin,
    "pow": lambda h: h**2,
    "exp2": lambda h: 2**h,
    "clamp": lambda h: h.clamp(-1, 1),
}
"""Operators of every other family, each on the output (2, 4, 6) of a linear layer."""


class Between(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(6, 6), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x)).flatten(1)


@pytest.mark.parametrize("name", OTHERS)
def test_operators_of_other_families(name: str) -> None:
    x = torch.randn(2, 4, 6)
    program = program_of(LRP(Between(OTHERS[name]), AttnLRP()), x)
    for how in ({}, {"segments": 2}):
        check(program, [x], **how)


def test_token_ids_and_several_questions_at_once() -> None:
    model, ids = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Flatten()), torch.randint(0, 9, (2, 5))
    program = program_of(LRP(model), ids)
    start, middle = program.explained, program.steps[0].node
    seeds = [Seed(Logit(i)) for i in range(3)]
    masked = [Question(start, s, conditions={middle: Mask(torch.ones(5, 3, device=META))}) for s in seeds]
    for questions in ([Question(start, s) for s in seeds], masked):
        for chunk in (1, None):  # one after the other, and as one batch
            found = answer_on_meta(program, [ids], questions, chunk=chunk)
            assert [r.shape for one in found for r in one.inputs.values()] == [(2, 5, 4)] * 3
            assert all(r.device == META for one in found for r in one.inputs.values())


def waited_for(lrp: LRP, x: Tensor, target: Any) -> Counter[str]:
    """Of the fifth call, which the model's own output is not compared in."""
    for _ in range(4):
        lrp(x, target=target)
    return waits(lambda: lrp(x, target=target))


@pytest.mark.parametrize("case", CASES)
def test_a_warm_call_waits_in_front_of_the_loops_only(case: str) -> None:
    """Are the input's values finite, and are some numbers of the parameters, by dtype, those of the call before?"""
    build, shape, composite = CASES[case]
    model, x = build().eval(), torch.randn(shape)
    kinds = len({t.dtype for t in model.state_dict().values()})
    assert waited_for(LRP(model, composite), x, 1) == {"aten::_local_scalar_dense": 1, "aten::equal": kinds}
    assert waited_for(LRP(model, composite, checks=False), x, 1) == {"aten::equal": kinds}


@pytest.mark.parametrize(("target", "more"), [(None, 0), (torch.tensor([1, 0]), 2)], ids=["largest", "per sample"])
def test_targets_do_not_wait_but_for_the_range_of_classes(target: Any, more: int) -> None:
    found = waited_for(LRP(nn.Linear(6, 3), checks=False), torch.randn(2, 6), target)
    assert found == Counter({"aten::_local_scalar_dense": more, "aten::equal": 1})


def test_waiting_is_seen() -> None:
    x = torch.rand(3)
    found = waits(lambda: (x.sum().item(), bool(x.sum() > 0), x.tolist(), torch.tensor(1.0), x.nonzero()))
    assert found == {"aten::_local_scalar_dense": 2, "tolist": 1, "tensor": 1, "aten::nonzero": 1}
