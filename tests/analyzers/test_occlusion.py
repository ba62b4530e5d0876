"""Occlusion against loops that are written out, and against Captum's."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from support.networks import Tokens, cnn
from torch import Tensor, nn

from relprop.analyzers import Gradient, Occlusion
from relprop.errors import InputError
from relprop.targets import Contrast, Difference, Logit, LogOdds, Output

X = torch.rand(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def net() -> nn.Module:
    torch.manual_seed(5)
    return cnn().double().eval()


def by_hand(model: nn.Module, x: Tensor, target: int, patch: int, stride: int, fill: float) -> Tensor:
    total, count = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(0, 8, stride):
        for j in range(0, 8, stride):
            without = x.clone()
            without[:, :, i : i + patch, j : j + patch] = fill
            entries = without[0, :, i : i + patch, j : j + patch].numel()
            lost = (model(x) - model(without))[:, target] / entries
            total[:, :, i : i + patch, j : j + patch] += lost[:, None, None, None]
            count[:, :, i : i + patch, j : j + patch] += 1
    return total / count


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize(("patch", "stride"), [(4, None), (3, 2), (3, 3)])
def test_patches_of_pictures(patch: int, stride: int | None, chunk: int) -> None:
    model = net()
    expl = Occlusion(model, patch=patch, stride=stride, fill=0.3, chunk=chunk)(X, target=1)
    assert_close(expl.relevance, by_hand(model, X, 1, patch, stride or patch, 0.3), rtol=1e-10)
    assert_close(expl.amount, model(X)[:, 1], rtol=1e-12)


def test_parts_go_through_the_model_together() -> None:
    """64 pixels, in two calls of 32; and the unchanged input, for its values and for what is compared with it."""
    sizes: list[int] = []

    class Counted(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.ops.aten.addmm.default or func is torch.ops.aten.mm.default:
                sizes.append(args[-2].shape[0])
            return func(*args, **(kwargs or {}))

    occlusion = Occlusion(net(), patch=1, chunk=32)
    occlusion(X)  # captures
    with Counted():
        occlusion(X)
    assert [n for n in sizes if n != 3] == [96, 96]


def test_a_batch_is_a_loop_over_its_samples() -> None:
    analyzer = Occlusion(net(), patch=3)
    for target in (None, LogOdds(), Contrast(None, against="runner-up")):
        whole = analyzer(X, target=target).relevance
        for i in range(len(X)):
            assert_close(analyzer(X[i : i + 1], target=target).relevance[0], whole[i], rtol=1e-10)


def test_what_is_explained_stays_where_another_output_becomes_the_largest() -> None:
    """The outputs are 6 and 4. Without the first input the first output is 0, and the largest is 4."""
    x = torch.tensor([[3.0, 2.0]])
    for target in (None, Contrast(None, against="runner-up")):
        relevance = Occlusion(Twice())(x, target=target).relevance
        expected = [[6.0, 0.0]] if target is None else [[6.0, -4.0]]  # 6 − 4 = 2 becomes −4, and 6
        assert_close(relevance, torch.tensor(expected), rtol=1e-6)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_it_is_captums() -> None:
    captum = pytest.importorskip("captum.attr")
    model = net()
    for patch, stride in ((4, 4), (2, 2)):
        window = {"sliding_window_shapes": (2, patch, patch), "strides": (2, stride, stride)}
        expected = captum.Occlusion(model).attribute(X, target=1, baselines=0.2, **window)
        found = Occlusion(model, patch=patch, fill=0.2)(X, target=1).relevance
        assert_close(found * 2 * patch * patch, expected, rtol=1e-6)  # it computes in float32


def test_features_positions_and_signals() -> None:
    linear = nn.Linear(4, 3, bias=False).double()
    x = torch.rand(2, 4).double()
    assert_close(Occlusion(linear)(x, target=1).relevance, x * linear.weight[1].detach(), rtol=1e-10)
    sequence = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False)).double()
    x = torch.rand(2, 4, 3).double()
    share = x * sequence[1].weight[1].detach().reshape(4, 3)
    found = Occlusion(sequence)(x, target=1).relevance
    assert_close(found, share.mean(2, keepdim=True).expand_as(x), rtol=1e-10)
    found = Occlusion(sequence, dims=(2,), patch=2)(x, target=1).relevance
    assert_close(found[:, :, :2], share[:, :, :2].mean((1, 2), keepdim=True).expand(2, 4, 2), rtol=1e-10)


def test_tokens_are_taken_out_one_by_one() -> None:
    """What stands in their place is an embedding, such as that of a mask token; a mask does not move."""
    model, ids = Tokens().double().eval(), torch.randint(0, 11, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    fill = model.tokens.weight[7].detach()
    found = Occlusion(model, fill=fill)(ids, mask, target=1).relevance
    for t in range(6):
        without = ids.clone()
        without[:, t] = 7
        lost = (model(ids, mask)["logits"] - model(without, mask)["logits"])[:, 1]
        assert_close(found[:, t].sum(1), lost, rtol=1e-9, atol=1e-12)


def test_each_of_several_inputs_by_itself() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * y

    x, y = torch.rand(2, 3).double(), torch.rand(2, 3).double()
    expl = Occlusion(Two(), fill=(0.0, 1.0))(x, y, target=0)
    assert_close(expl.by_input["x"][:, 0], (x * y)[:, 0], rtol=1e-12)
    assert_close(expl.by_input["y"][:, 0], (x * (y - 1))[:, 0], rtol=1e-12)


def test_relevance_that_is_given_weighs_what_is_lost() -> None:
    """As a derivative does: one-hot rows, a function and sums of targets."""
    linear = nn.Linear(4, 3, bias=False).double()
    x = torch.rand(2, 4).double()
    rows = torch.tensor([[0.0, 2.0, 1.0], [0.5, 0.0, 0.0]]).double()
    targets = [rows, lambda z: rows * z, 2 * Logit(1) - Logit(0), Difference(2, 1), Output(0, rows)]
    for target in targets:
        assert_close(
            Occlusion(linear)(x, target=target).relevance, x * Gradient(linear)(x, target=target).relevance, rtol=1e-10
        )


def test_a_program_for_one_batch_takes_parts_one_by_one() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 6).flip(0).flip(0)[:, :3] * 2

    x = torch.rand(2, 6).double()
    found = Occlusion(Fixed())(x, target=1).relevance
    expected = torch.zeros_like(x)
    expected[:, 1] = 2 * x[:, 1]
    assert_close(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"patch": 0}, "patch >= 1"),
        ({"chunk": 0}, "chunk >= 1"),
        ({"patch": 2, "stride": 3}, "would leave gaps"),
        ({"dims": (0,)}, "no such dimensions"),
        ({"dims": (4,)}, "no such dimensions"),
        ({"fill": torch.zeros(5)}, "does not broadcast"),
    ],
)
def test_what_makes_no_sense(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Occlusion(net(), **options)(X)  # type: ignore[arg-type]
