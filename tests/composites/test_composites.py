"""Which rule goes where."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import relprop as rp
from relprop import LRP
from relprop.composites import (
    ActivationLayer,
    Composite,
    ConvLayer,
    DropoutLayer,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGamma,
    EpsilonGammaBox,
    EpsilonGammaFlat,
    EpsilonPlus,
    EpsilonPlusFlat,
    FirstLayerMap,
    FirstLayerTypeMap,
    FirstNTypeMap,
    GlobalMap,
    GlobalTypeMap,
    LastLayerMap,
    LastLayerTypeMap,
    LayerMap,
    LinearLayer,
    NameMap,
    NormalizationLayer,
    PoolingLayer,
    RangeMap,
    RangeTypeMap,
    ReshapingLayer,
)
from relprop.engine.layers.layers import layers_of_modules
from relprop.errors import CompositeError, RuleError
from relprop.rules import (
    AlphaBetaRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    GeneralizedGammaRule,
    PassRule,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
)

MARK = EpsilonRule(0.5)


def nested() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)),
    ).eval()


class Net(nn.Module):
    """Registered in another order than executed, with functional operators."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.ModuleDict({"second": nn.Conv2d(2, 4, 3), "first": nn.Conv2d(1, 2, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.body["first"](x))
        h = h + torch.nn.functional.max_pool2d(h, 3, 1, 1)
        return self.head(torch.relu(self.body["second"](h)).mean((2, 3)))


def marked(composite: Composite, model: nn.Module | None = None, **options: bool) -> list[str]:
    """Names of the layers that get the rule `MARK`."""
    model = model if model is not None else nested()
    layers = layers_of_modules(model, fuse=False, **options)
    return [layer.name for layer, rule in zip(layers, composite.assign(layers), strict=True) if rule == MARK]


ALL = ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "1.0", "1.1", "1.2", "1.3", "1.4"]


@pytest.mark.parametrize(
    ("primitive", "expected"),
    [
        (GlobalMap(MARK), ALL),
        (LayerMap(2, MARK), ["0.2"]),
        (LayerMap(-1, MARK), ["1.4"]),
        (RangeMap(range(1, 4), MARK), ["0.1", "0.2", "0.3"]),
        (RangeMap(range(0, 11, 5), MARK), ["0.0", "0.5", "1.4"]),
        (FirstLayerMap(MARK), ["0.0"]),
        (LastLayerMap(MARK), ["1.4"]),
        (GlobalTypeMap({nn.Conv2d: MARK}), ["0.0", "0.2"]),
        (GlobalTypeMap({ConvLayer: MARK}), ["0.0", "0.2"]),
        (GlobalTypeMap({LinearLayer: MARK}), ["1.2", "1.4"]),
        (GlobalTypeMap({PoolingLayer: MARK}), ["0.5"]),
        (GlobalTypeMap({DropoutLayer: MARK}), ["1.1"]),
        (GlobalTypeMap({ReshapingLayer: MARK}), ["1.0"]),
        (GlobalTypeMap({NormalizationLayer: MARK}), ["0.3"]),
        (GlobalTypeMap({ActivationLayer: MARK}), ["0.1", "0.4", "1.3"]),
        (GlobalTypeMap({"ReLU": MARK}), ["0.1", "0.4", "1.3"]),
        (RangeTypeMap(range(0, 2), {ConvLayer: MARK, LinearLayer: MARK}), ["0.0"]),
        (FirstNTypeMap(3, {ConvLayer: MARK}), ["0.0", "0.2"]),
        (FirstLayerTypeMap({ConvLayer: MARK}), ["0.0"]),
        (FirstLayerTypeMap({LinearLayer: MARK}), []),
        (LastLayerTypeMap({LinearLayer: MARK}), ["1.4"]),
        (LastLayerTypeMap({ConvLayer: MARK}), []),
        (NameMap({"0.*": MARK}), ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]),
        (NameMap({"1": MARK}), ["1.0", "1.1", "1.2", "1.3", "1.4"]),
        (NameMap({re.compile(r"\.[24]$"): MARK}), ["0.2", "0.4", "1.2", "1.4"]),
    ],
    ids=repr,
)
def test_primitive(primitive: object, expected: list[str]) -> None:
    assert marked(Composite(primitive)) == expected  # type: ignore[arg-type]


def test_nested_indices() -> None:
    assert marked(Composite(LayerMap((1, 2), MARK)), flatten=False) == ["1.2"]
    assert marked(Composite(LayerMap(1, MARK)), flatten=False) == ["1.0", "1.1", "1.2", "1.3", "1.4"]
    assert marked(Composite(RangeMap(range(1), MARK)), flatten=False) == ALL[:6]
    assert marked(Composite(FirstNTypeMap(1, {LinearLayer: MARK})), flatten=False) == []


def test_later_primitives_win() -> None:
    composite = Composite(MARK, GlobalTypeMap({ConvLayer: ZPlusRule()}), LayerMap(0, MARK), LayerMap(1, ZeroRule()))
    assert marked(composite) == ["0.0", "0.3", "0.4", "0.5", "1.0", "1.1", "1.2", "1.3", "1.4"]


def test_first_and_last_go_by_execution() -> None:
    lrp = LRP(Net(), Composite(FirstLayerMap(FlatRule()), LastLayerMap(MARK)), example_inputs=(torch.rand(2, 1, 8, 8),))
    rules = {layer.name: rule for layer, rule in zip(lrp.layers, lrp._latest.row_rules, strict=True)}  # type: ignore[union-attr]
    assert [name for name, rule in rules.items() if rule == FlatRule()] == ["body.first"]
    assert [name for name, rule in rules.items() if rule == MARK] == ["head"]
    assert list(rules) == [
        "body.first", ":relu", ":max_pool2d", ":add", "body.second", ":relu_1", ":mean", "head",
    ]  # fmt: skip


def test_operator_names_are_types() -> None:
    composite = Composite(GlobalTypeMap({"add": MARK, "max_pool2d": ZeroRule(stabilizer=0.1)}))
    lrp = LRP(Net(), composite, example_inputs=(torch.rand(2, 1, 8, 8),))
    rules = {layer.name: rule for layer, rule in zip(lrp.layers, lrp._latest.row_rules, strict=True)}  # type: ignore[union-attr]
    assert rules[":add"] == MARK
    assert rules[":max_pool2d"] == ZeroRule(stabilizer=0.1)
    assert rules["head"] == ZeroRule()


@pytest.mark.parametrize(
    ("preset", "conv", "first"),
    [
        (EpsilonPlus(), ZPlusRule(), ZPlusRule()),
        (EpsilonPlusFlat(), ZPlusRule(), FlatRule()),
        (EpsilonAlpha2Beta1(), AlphaBetaRule(2, 1), AlphaBetaRule(2, 1)),
        (EpsilonAlpha2Beta1Flat(), AlphaBetaRule(2, 1), FlatRule()),
        (EpsilonGammaBox(-1.0, 1.0), GeneralizedGammaRule(0.25), ZBoxRule(-1.0, 1.0)),
        (EpsilonGammaBox(-1.0, 1.0, generalized=False), GammaRule(0.25), ZBoxRule(-1.0, 1.0)),
        (EpsilonGamma(), GeneralizedGammaRule(0.5), GeneralizedGammaRule(0.5)),
        (EpsilonGammaFlat(), GeneralizedGammaRule(0.5), FlatRule()),
    ],
)
def test_presets(preset: Composite, conv: object, first: object) -> None:
    layers = layers_of_modules(nested(), fuse=False)
    rules = dict(zip([layer.name for layer in layers], preset.assign(layers), strict=True))
    assert rules["0.0"] == first
    assert rules["0.2"] == conv
    assert rules["1.2"] == rules["1.4"] == EpsilonRule(1e-6)
    assert rules["0.5"] == ZeroRule()
    for passing in ("0.1", "0.3", "1.0", "1.1", "1.3"):
        assert rules[passing] == PassRule()


def test_presets_hand_their_parameters_on() -> None:
    composite = EpsilonGammaBox(-1.0, 2.0, 0.01, 0.5, stabilizer=0.1, bias="ignore")
    layers = layers_of_modules(nested(), fuse=False)
    rules = dict(zip([layer.name for layer in layers], composite.assign(layers), strict=True))
    assert rules["0.0"] == ZBoxRule(-1.0, 2.0, stabilizer=0.1, bias="ignore")
    assert rules["0.2"] == GeneralizedGammaRule(0.5, stabilizer=0.1, bias="ignore")
    assert rules["1.2"] == EpsilonRule(0.01, bias="ignore")
    assert rules["0.5"] == ZeroRule(stabilizer=0.1, bias="ignore")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LRP(nested(), Composite(LayerMap(99, MARK))), "no layer with that index"),
        (lambda: LRP(nested(), Composite(NameMap({"features.*": MARK}))), "no layer matches 'features"),
        (lambda: GlobalTypeMap({3: MARK}), "no layer type"),  # type: ignore[dict-item]
        (lambda: GlobalTypeMap({ConvLayer: ZPlusRule}), r"Did you mean ZPlusRule\(\)"),  # type: ignore[dict-item]
        (lambda: GlobalMap("epsilon"), "no rule"),  # type: ignore[arg-type]
        (lambda: RangeMap((0, 3), MARK), "as a range"),  # type: ignore[arg-type]
        (lambda: FirstNTypeMap(0, {ConvLayer: MARK}), "at least 1"),
        (lambda: Composite(GlobalMap(MARK), MARK), "default rule comes first"),
        (lambda: LRP(nested(), [MARK]), "There is 1 rule, but the model has 10 layers"),
        (lambda: LRP(nested(), "EpsilonPlus"), "takes a Composite"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_an_error(make: object, says: str) -> None:
    with pytest.raises(CompositeError, match=says):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("alpha_beta", [(2.0, 2.0), (0.5, -0.5), (1.0, 1.0)])
def test_alpha_minus_beta_is_one(alpha_beta: tuple[float, float]) -> None:
    with pytest.raises(RuleError, match="alpha - beta = 1"):
        AlphaBetaRule(*alpha_beta)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GammaRule(-1.0),
        lambda: EpsilonRule(-1.0),
        lambda: ZeroRule(stabilizer=-1.0),
        lambda: ZeroRule(bias="forget"),  # type: ignore[arg-type]
        lambda: ZBoxRule(1.0, 0.0),
    ],
)
def test_impossible_parameters(make: object) -> None:
    with pytest.raises(RuleError):
        make()  # type: ignore[operator]


def test_composites_compare() -> None:
    assert EpsilonPlus() == EpsilonPlus()
    assert EpsilonPlus() != EpsilonPlus(epsilon=0.1)
    assert EpsilonGammaBox(torch.zeros(3, 1, 1), 1.0) == EpsilonGammaBox(torch.zeros(3, 1, 1), 1.0)


def test_layer_indices_print(capsys: pytest.CaptureFixture[str]) -> None:
    rp.layer_indices(nested())
    flat = capsys.readouterr().out.splitlines()
    rp.layer_indices(nested(), flatten=False)
    paths = capsys.readouterr().out.splitlines()
    assert flat[6].startswith("6: Flatten(")
    assert paths[6].startswith("(1, 0): Flatten(")
    rp.layer_indices(Net(), (torch.rand(2, 1, 8, 8),))
    assert capsys.readouterr().out.splitlines()[0].startswith("0: Conv2d(1, 2")


def test_printed_indices_are_those_of_layer_map(capsys: pytest.CaptureFixture[str]) -> None:
    """What `layer_indices` prints for the second linear layer is what `LayerMap` takes."""
    rp.layer_indices(nested())
    line = next(line for line in capsys.readouterr().out.splitlines() if "Linear(in_features=4" in line)
    lrp = LRP(nested(), Composite(LayerMap(int(line.partition(":")[0]), MARK)))
    lrp(torch.rand(2, 1, 8, 8))
    assert [layer.name for layer, rule in zip(lrp.layers, lrp._latest.row_rules, strict=True) if rule == MARK] == [
        "1.4"
    ]  # type: ignore[union-attr]
