"""Graph rewrites change nothing: outputs are equal to float64 precision, with and without them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_each_close
from torch import Tensor, nn

import relprop as rp
from relprop import LRP
from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Graph, info, operator_name
from relprop.engine.graph.run import evaluate
from relprop.engine.ops.analysis import analyze
from relprop.engine.rewrites import Canonize, FuseBatchNorm, as_rewrites, canonical
from relprop.engine.rewrites.modules import Scale
from relprop.errors import ModelError


def randomized(model: nn.Module) -> nn.Module:
    """Parameters and statistics that leave nothing at its neutral value."""
    torch.manual_seed(3)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.3
    return model.double().eval()


class Functional(nn.Module):
    """Operators that lowering rewrites, called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(6))
        self.m = nn.Parameter(torch.rand(6, 5))
        self.register_buffer("mean", torch.rand(6))
        self.register_buffer("var", torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        h = F.batch_norm(x, self.mean, self.var, self.w, None)
        h = F.layer_norm(h, (6,), self.w)
        h = F.group_norm(h.unsqueeze(-1), 2, self.w).squeeze(-1)
        h = h * self.w + 3
        h = (2 - h) / self.w - h / 3
        h = -h + self.w
        a, b = h.chunk(2, 1)
        return torch.addmm(self.m[0], torch.cat([b, a], 1), self.m) @ self.m.t() - self.w


class InPlace(nn.Module):
    """Writes that can be renamed, and one into a view that cannot."""

    def __init__(self, into_a_view: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.into_a_view = into_a_view

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        h += x
        h.mul_(2).relu_()
        if self.into_a_view:
            half = h[:, :3]
            half *= 0.5
        return h + self.linear(h).add_(1)


class Fused(nn.Module):
    """A batch norm that may be fused, one behind a branch that may not, one module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)
        self.up, self.bn_up = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)
        self.side, self.bn_side = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 1)
        self.bn_first, self.bn_second = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(self.conv(x)).relu()
        h = self.bn_up(self.up(h)).relu()
        branch = self.side(h)
        h = self.bn_side(branch) + branch
        return self.bn_second(self.twice(self.bn_first(self.twice(h)))).mean((2, 3))


class NormFirst(nn.Module):
    """Batch norms in front of layers: with padding, without, grouped, behind a ReLU, over branches (MixNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.padded = nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1)
        self.norm1, self.grouped = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)
        self.wide, self.narrow = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1, bias=False)
        self.mixed = nn.BatchNorm2d(8)
        self.norm2, self.squeeze = nn.BatchNorm2d(14), nn.Conv2d(14, 4, 1)
        self.norm3, self.head = nn.BatchNorm2d(18), nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.grouped(self.norm1(self.padded(self.norm0(x)).relu()))
        a, b = h.chunk(2, 1)
        mixed = self.mixed(torch.cat([self.wide(a), self.narrow(b)], 1)).relu()
        h = torch.cat([h, mixed], 1)
        h = torch.cat([h, self.squeeze(self.norm2(h).relu())], 1)
        return self.head(F.adaptive_avg_pool2d(self.norm3(h).relu(), 1).flatten(1))


CHAINS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU()), (3, 2, 8)),
    (nn.Sequential(nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect"), nn.BatchNorm2d(4)), (3, 2, 6, 6)),
    (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 2, 4, 4, 4)),
    (nn.Sequential(nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), nn.BatchNorm1d(6)), (2, 4, 5)),
    (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    (nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), (3, 5)),
    (nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.ReLU(), nn.LayerNorm(4, elementwise_affine=False)), (3, 5)),
    (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)), (2, 2, 6, 6)),
    (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), (2, 2, 6, 6)),
    (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 2, 6, 6)),
    (nn.Sequential(nn.RMSNorm(5), nn.Linear(5, 3)), (2, 5)),
    (nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)), (2, 5)),
    (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, groups=2, bias=False)),
        (2, 2, 6, 6),
    ),
    (nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3), nn.BatchNorm1d(3)), (2, 5)),
    (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3)), (2, 5)),
]
MODELS = [
    *CHAINS,
    (Functional(), (3, 6)),
    (InPlace(into_a_view=False), (3, 6)),
    (InPlace(into_a_view=True), (3, 6)),
    (Fused(), (3, 2, 8, 8)),
    (NormFirst(), (3, 2, 8, 8)),
]


@pytest.mark.parametrize("canonize", [False, True, "thresholds"])
@pytest.mark.parametrize(
    ("model", "shape"), MODELS, ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None
)
def test_rewritten_graph_computes_the_same(model: nn.Module, shape: tuple[int, ...], canonize: Canonize) -> None:
    model = randomized(model)
    x = torch.randn(shape, dtype=torch.float64)
    graph = canonical(capture(model, (x,)), as_rewrites(canonize))
    assert_each_close(evaluate(graph, [x]), model(x), rtol=1e-12, atol=1e-12)
    other = torch.randn(shape[0] + 3, *shape[1:], dtype=torch.float64)  # another batch size than the captured one
    assert_each_close(evaluate(graph, [other]), model(other), rtol=1e-12, atol=1e-12)
    kept = {node.name: info(node) for node in graph.fx.nodes}
    assert kept == {node.name: info(node) for node in analyze(graph).fx.nodes}  # flags hold without another pass


@pytest.mark.parametrize(("model", "shape"), CHAINS, ids=str)
def test_chains_know_beforehand_what_the_graph_fuses(model: nn.Module, shape: tuple[int, ...]) -> None:
    lrp = LRP(randomized(model))
    before = [layer.fused_into for layer in lrp.layers]
    lrp(torch.randn(shape, dtype=torch.float64), target=lambda output: output)
    assert [layer.fused_into for layer in lrp.layers] == before
    left = sum(into is None and not isinstance(m, nn.LayerNorm) for into, m in zip(before, model, strict=True))
    assert sum(not isinstance(m, (nn.LayerNorm, Scale)) for m in rp.canonize(model)) == left


@pytest.mark.parametrize(("model", "shape"), CHAINS, ids=str)
def test_prepared_chains_compute_the_same(model: nn.Module, shape: tuple[int, ...]) -> None:
    model = randomized(model)
    x = torch.randn(shape, dtype=torch.float64)
    for prepare in (rp.canonize, rp.flatten_model, rp.strip_softmax):
        assert_each_close(prepare(model)(x), model(x), rtol=1e-12, atol=1e-12)


def fused_paths(graph: Graph) -> list[tuple[str, str]]:
    return [(info(n).path, alias) for n in graph.operators() for alias in info(n).aliases]


def test_what_is_fused_is_what_the_graph_says() -> None:
    graph = canonical(capture(Fused().eval(), (torch.rand(2, 2, 8, 8),)), (FuseBatchNorm(),))
    assert fused_paths(graph) == [
        ("conv", "bn"), ("up", "bn_up"), ("twice", "bn_first"), ("twice", "bn_second"),
    ]  # fmt: skip
    left = [info(n).path for n in graph.operators() if operator_name(n) == "scale"]
    assert left == ["bn_side"]  # its input is read by a sum, too


def test_canonize_of_a_model_that_is_no_chain() -> None:
    model = randomized(Fused())
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    with pytest.raises(ModelError, match="example_inputs"):
        rp.canonize(model)
    canonized = rp.canonize(model, (x,))
    assert_each_close(canonized(x), model(x), rtol=1e-12, atol=1e-12)
    assert isinstance(canonized.get_submodule("bn"), nn.Identity)
    assert isinstance(canonized.get_submodule("bn_second"), nn.BatchNorm2d)  # its layer is called twice
    assert isinstance(model.bn, nn.BatchNorm2d)


@pytest.mark.parametrize(("canonize", "left"), [(True, ["norm0", "norm2", "norm3"]), ("thresholds", ["norm0"])])
def test_norms_in_front_of_layers_are_taken_in(canonize: Canonize, left: list[str]) -> None:
    model = randomized(NormFirst())
    with torch.no_grad():
        for norm in (model.norm2, model.norm3):
            norm.weight.mul_(torch.tensor([-1.0, 0.0, 1.0]).repeat(6)[: len(norm.weight)])
            norm.bias.sub_(0.8)
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    graph = canonical(capture(model, (x,)), as_rewrites(canonize))
    assert [info(n).path for n in graph.operators() if operator_name(n) == "scale"] == left
    assert_each_close(evaluate(graph, [x]), model(x), rtol=1e-12, atol=1e-12)
    lrp = LRP(model, canonize=canonize, example_inputs=(x,))
    table = str(lrp)
    assert [layer.name for layer in lrp.layers if layer.fused_into is None and "norm" in layer.name] == left
    assert "=> fused into wide" in table
    explained = lrp(x, audit=True)
    assert explained.ledger.imbalance < 1e-9


def test_canonized_model_has_norms_in_front_taken_in() -> None:
    model = randomized(NormFirst())
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    canonized = rp.canonize(model, (x,))
    assert_each_close(canonized(x), model(x), rtol=1e-12, atol=1e-12)
    assert isinstance(canonized.norm1, nn.Identity)
    assert isinstance(canonized.mixed, nn.BatchNorm2d)  # the graph splits it over two layers, modules cannot
    rules = rp.composites.EpsilonPlus()
    assert_each_close(LRP(model, rules)(x).relevance, LRP(canonized, rules)(x).relevance, rtol=1e-10, atol=1e-12)


def test_layer_norm_is_split() -> None:
    canonized = rp.canonize(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    assert [type(m) for m in canonized] == [nn.Linear, nn.LayerNorm, Scale]


def test_canonized_and_fused_by_lrp_agree() -> None:
    """Fusing beforehand or leaving it to the analyzer is the same."""
    model = randomized(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))
    x = torch.rand(3, 2, 6, 6, dtype=torch.float64)
    rules = rp.composites.EpsilonPlus()
    first, second = LRP(model, rules)(x).relevance, LRP(rp.canonize(model), rules)(x).relevance
    assert_each_close(first, second, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("softmax", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_softmax_is_stripped_wherever_it_is(softmax: nn.Module) -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.softmax = nn.Linear(4, 3), softmax

        def forward(self, x: Tensor) -> Tensor:
            return self.softmax(self.linear(x))

    class EndsInFunction(Ends):
        def forward(self, x: Tensor) -> Tensor:
            return F.softmax(self.linear(x), 1)

    x = torch.rand(2, 4)
    for model in (Ends(), EndsInFunction(), nn.Sequential(nn.Sequential(nn.Linear(4, 3), softmax))):
        with pytest.raises(rp.errors.SoftmaxOutputError, match="strip_softmax"):
            LRP(model, example_inputs=(x,))
        logits = model.linear(x) if isinstance(model, Ends) else model[0][0](x)
        stripped = rp.strip_softmax(model)
        assert_each_close(stripped(x), logits)
        assert_each_close(LRP(stripped)(x).output, logits)
        assert not torch.allclose(model(x), logits)
