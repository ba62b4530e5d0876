"""The reference values of RelevancePropagation.jl, all of them, through the public API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import dense as oracle
from support.compare import assert_close
from support.law_table import Scale
from torch import Tensor, nn

import relprop.rules
from relprop import LRP

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "cases.json").read_text())["cases"]
Arrays = dict[str, Tensor]


class Parallel(nn.Module):
    """x -> first(x) + second(x), added functionally."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


class Skip(nn.Module):
    """x -> x + inner(x), added functionally."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def load(case: dict[str, Any]) -> Arrays:
    arrays: Arrays = {}
    for file in {case["files"]["params"], case["files"]["tensors"]}:
        with np.load(HERE / file) as stored:
            arrays |= {key: torch.from_numpy(stored[key]) for key in stored}
    return arrays


def rule_of(layer: dict[str, Any]) -> Any:
    return getattr(relprop.rules, layer["rule"]["name"])(**layer["rule"]["params"])


def dense(spec: dict[str, Any], arrays: Arrays) -> nn.Module:
    weight = arrays[spec["weight"]]
    module = nn.Linear(*reversed(weight.shape), bias=spec["bias"] is not None, dtype=weight.dtype)
    return fill(module, spec, arrays)


def layer_norm(spec: dict[str, Any], arrays: Arrays) -> nn.Module:
    assert spec["eps"] == 0.0  # where upstream adds it makes no difference then
    dtype = arrays["input"].dtype
    module = nn.LayerNorm(spec["normalized_shape"], eps=0.0, elementwise_affine=spec["affine"], dtype=dtype)
    return fill(module, spec, arrays)


def fill(module: nn.Module, spec: dict[str, Any], arrays: Arrays) -> nn.Module:
    with torch.no_grad():
        for parameter in ("weight", "bias"):
            if spec[parameter] is not None:
                getattr(module, parameter).copy_(arrays[spec[parameter]])
    return module


LAYERS = {
    "dense": dense,
    "layer_norm": layer_norm,
    "scale": lambda spec, arrays: Scale(arrays[spec["weight"]], spec["bias"] and arrays[spec["bias"]]),
    "dropout": lambda spec, arrays: nn.Dropout(spec["p"]),
    "flatten": lambda spec, arrays: nn.Flatten(),
    "max_pool2d": lambda spec, arrays: nn.MaxPool2d(spec["kernel_size"], spec["stride"], spec["padding"]),
    "mean_pool2d": lambda spec, arrays: nn.AvgPool2d(spec["kernel_size"], spec["stride"], spec["padding"]),
    "global_max_pool2d": lambda spec, arrays: nn.AdaptiveMaxPool2d(1),
}
ACTIVATIONS = {
    "relu": lambda spec: [nn.ReLU()],
    "leaky_relu": lambda spec: [nn.LeakyReLU(spec["negative_slope"])],
    "identity": lambda spec: [],
    None: lambda spec: [],
}


def build(spec: dict[str, Any], arrays: Arrays) -> tuple[list[nn.Module], list[Any]]:
    """The modules of a layer, its activation among them, and the rule of each."""
    layer = LAYERS[spec["kind"]](spec, arrays)
    activation = ACTIVATIONS[spec.get("activation")](spec)
    return [layer, *activation], [rule_of(spec), *(relprop.rules.PassRule() for _ in activation)]


def analyzer(case: dict[str, Any], arrays: Arrays) -> LRP:
    spec = case["layer"]
    layers = spec["layers"] if spec["kind"] == "chain" else [spec]
    if layers[0]["kind"] in ("parallel", "skip"):
        return branches(layers[0], arrays)
    modules, rules = [], []
    for layer in layers:
        more_modules, more_rules = build(layer, arrays)
        modules += more_modules
        rules += more_rules
    return LRP(nn.Sequential(*modules).eval(), rules, canonize=False, normalize_output=True)


def branches(spec: dict[str, Any], arrays: Arrays) -> LRP:
    """The branches' rules are all the 0-rule and pass, which is what `LRP(model)` assigns."""
    assert spec["connection"] == "add"
    if spec["kind"] == "skip":
        return LRP(Skip(nn.Sequential(*build(spec["layer"], arrays)[0])), normalize_output=True)
    identity, inner = spec["layers"]
    assert identity["kind"] == "identity"
    return LRP(Parallel(nn.Identity(), nn.Sequential(*build(inner, arrays)[0])), normalize_output=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_reference_value(case: dict[str, Any]):
    arrays = load(case)
    lrp = analyzer(case, arrays)
    expl = lrp(arrays["input"], target=lambda output: arrays["relevance_out"])
    tolerance = case.get("tight_tolerance", case["tolerance"])
    bounds = {"rtol": tolerance["rtol"], "atol": tolerance["atol"]}
    assert_close(expl.output, arrays["output"], what="output", rtol=1e-6)
    actual, expected = expl.relevance, arrays["relevance_in"]
    if "except_mask" in case:
        inside = ~arrays[case["except_mask"]].bool()
        actual, expected = actual[inside], expected[inside]
    assert_close(actual, expected, what="relevance", **bounds)
    if "output_selection" in case:
        selection = case["output_selection"]
        chosen = lrp(arrays["input"], target=selection["index"])
        assert selection["normalize"]
        assert torch.equal(arrays["relevance_out"], torch.eye(chosen.output.shape[1])[selection["index"]][None])
        assert_close(chosen.relevance, arrays["relevance_in"], what="relevance of the index", **bounds)


FORMULAS = {
    "ZeroRule": oracle.zero,
    "EpsilonRule": lambda L, a, R, epsilon: oracle.zero(L, a, R, epsilon),
    "GammaRule": oracle.gamma,
    "GeneralizedGammaRule": oracle.generalized_gamma,
    "ZPlusRule": oracle.z_plus,
    "AlphaBetaRule": oracle.alpha_beta,
    "WSquareRule": oracle.w_square,
    "FlatRule": oracle.flat,
    "ZBoxRule": lambda L, a, R, low, high, **options: oracle.z_box(
        L, a, R, torch.full_like(a[0], low), torch.full_like(a[0], high), **options
    ),
}
AFFINE = [c for c in CASES if c.get("layer_kind") in ("dense", "scale") and c["rule"]["name"] in FORMULAS]


@pytest.mark.parametrize("case", AFFINE, ids=lambda case: case["name"])
def test_the_dense_oracle_reproduces_it_too(case: dict[str, Any]):
    """The oracle of the other tests, held against somebody else's numbers."""
    arrays = {key: array.double() for key, array in load(case).items()}
    layer = LAYERS[case["layer_kind"]](case["layer"], arrays)
    L = oracle.dense(layer, tuple(arrays["input"].shape[1:]))
    shares = FORMULAS[case["rule"]["name"]](L, arrays["input"], arrays["relevance_out"], **case["rule"]["params"])
    tolerance = case.get("tight_tolerance", case["tolerance"])
    assert_close(shares.R_in, arrays["relevance_in"], rtol=tolerance["rtol"], atol=tolerance["atol"])


def test_the_cases_are_all_here():
    assert len(CASES) == len({case["name"] for case in CASES}) == 62
    assert {Path(case["files"]["tensors"]).name for case in CASES} == {file.name for file in (HERE / "cases").iterdir()}
