"""What is explained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.errors import TargetError
from relprop.targets import Seed, as_target


def start(output: Tensor, given: object, normalize: bool) -> tuple[Tensor, Tensor | None]:
    """What a call does with a target: translate, check, ask for relevance and index."""
    target = as_target(given)  # type: ignore[arg-type]
    target.check(output.shape[0], output.shape[1:])
    return Seed(target, normalize)(output)


OUTPUT = torch.tensor([[1.0, -3.0, 2.0], [0.5, 4.0, -1.0]])


def test_the_largest_output_is_the_default() -> None:
    seed, index = start(OUTPUT, None, True)
    assert index is not None
    assert index.tolist() == [2, 1]
    assert seed.tolist() == [[0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (1, [1, 1]),
        (-1, [2, 2]),
        (torch.tensor([0, 2]), [0, 2]),
        (torch.tensor([-3, -1]), [0, 2]),
        (torch.tensor(2), [2, 2]),
        ((0,), [0, 0]),
        (np.array([0, 2]), [0, 2]),
    ],
)
def test_class_targets(target: object, expected: list[int]) -> None:
    seed, index = start(OUTPUT, target, True)
    assert index is not None
    assert index.tolist() == expected
    assert seed.argmax(1).tolist() == expected
    assert seed.sum(1).tolist() == [1, 1]


def test_without_normalization_relevance_starts_with_the_output() -> None:
    seed, _ = start(OUTPUT, 1, False)
    assert seed.tolist() == [[0, -3, 0], [0, 4, 0]]


def test_tuple_into_a_map() -> None:
    output = torch.rand(2, 3, 4, 5)
    seed, index = start(output, (2, 3, -1), True)
    assert seed[:, 2, 3, 4].tolist() == [1, 1]
    assert float(seed.sum()) == 2
    assert index is not None
    assert index.tolist() == [(2 * 4 + 3) * 5 + 4] * 2


def test_function_of_the_output() -> None:
    seed, index = start(OUTPUT, lambda y: y - y.mean(1, keepdim=True), True)
    assert index is None
    assert torch.equal(seed, OUTPUT - OUTPUT.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (3, "out of range"),
        (-4, "out of range"),
        (torch.tensor([0, 3]), "target 3 is out of range"),
        (torch.tensor([0, 1, 2]), "there are 2 samples"),
        (torch.tensor([0.0, 1.0]), "integers"),
        ((0, 1), "2 entries.*as a tuple. For a class per sample, give torch.tensor"),
        ("cat", "is a name"),
        (True, "give None"),
        (lambda y: y[:1], "shaped like the output"),
        (lambda y: 1.0, "shaped like the output"),
    ],
)
def test_targets_that_select_nothing(target: object, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        start(OUTPUT, target, True)


def test_a_bad_target_is_refused_before_the_model_runs() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    lrp = LRP(model, example_inputs=(torch.rand(2, 4),))
    lrp._latest.program.constants.values = lambda: pytest.fail("the model ran")  # type: ignore[union-attr, method-assign]
    for target in (3, torch.tensor([0, 9]), (0, 0)):
        with pytest.raises(TargetError):
            lrp(torch.rand(2, 4), target=target)


def test_difference_of_two_logits() -> None:
    """For a linear model without bias, R_i of the difference is `a_i (w_1i - w_0i)`, by the 0-rule and linearity."""
    model = nn.Sequential(nn.Linear(4, 3, bias=False)).double()
    x = torch.rand(5, 4, dtype=torch.float64)

    def difference(y: Tensor) -> Tensor:
        return torch.stack([-y[:, 0], y[:, 1], torch.zeros_like(y[:, 2])], 1)

    weight = model[0].weight
    expected = x * (weight[1] - weight[0])
    assert_each_close(LRP(model)(x, target=difference).relevance, expected, atol=1e-7)
