"""The laws: every rule on every affine operator (the table is tests/support/law_table.py).

1. relevance equals the paper's formula on the operator's dense matrix, in float64 to 1e-9;
2. the books balance: what came in went on, or is in a sink with a name, and the bias's sink is what the
formula says;
3. a batch is explained as its samples one by one;
4. dtype and device are kept, and nothing becomes NaN or infinite at zero, in half precision neither;
5. a pair that cannot be served is refused with an error that names both.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.compare import assert_close
from support.dense import Shares, dense, matrix
from support.law_table import BIAS_POLICIES, OPERATORS, REFUSED, RULES, Layer, Operator, Pick, Rule, first
from torch import Tensor, nn

from relprop import LRP
from relprop.errors import RuleError
from relprop.rules import PassRule, ZBoxRule, ZeroRule

PAIRS = [(o, r) for o in OPERATORS for r in RULES]
SERVED = [pair for pair in PAIRS if (pair[1].name, pair[0].name) not in REFUSED]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Layers this small are five times as fast without threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def name(pair) -> str:
    return f"{pair[1].name}-{pair[0].name}"


@dataclass
class Case:
    """A pair with all its hyperparameters chosen: the analyzer, its input, and the oracle's answer."""

    lrp: LRP
    x: Tensor
    R_out: Tensor
    R_in: Tensor
    shares: Shares


def make_case(operator: Operator, rule: Rule, pick: Pick, seed: int) -> Case:
    torch.manual_seed(seed)
    layer = operator.build(pick, pick(True, True, False) and operator.biased)
    layer.module.double().eval()
    parameters, oracle_parameters = rule.draw(pick, layer)
    if not operator.weighted and rule.name in ("w_square", "flat"):
        # a pool's weights are equal, whatever they are: all shares are equal, and only ε could tell them apart
        parameters["stabilizer"] = oracle_parameters["stabilizer"] = 1e-15
    policy = pick(*BIAS_POLICIES)
    x = inputs(layer.shape)
    R_out = torch.randn_like(layer.module(x))
    if pick(False, True):  # the graph itself proves that the layer's inputs are not negative
        model, rules = nn.Sequential(nn.ReLU(), layer.module), [PassRule()]
        a = x.clamp(min=0)
    else:
        model, rules, a = nn.Sequential(layer.module), [], x
    rules, seed_out = [*rules, rule.make(**parameters, bias=policy)], R_out
    # No relevance comes where a ReLU behind the layer is off. (Factored, the 0-rule has no stabilizer to compare.)
    if rule.name not in ("zero", "norm") and pick(False, True):
        y = layer.module(a).relu()
        tail = nn.Linear(y[0].numel(), 3, bias=False).double()
        model.extend([nn.ReLU(), nn.Flatten(), tail])
        rules += [PassRule(), PassRule(), ZeroRule(stabilizer=0.0)]
        seed_out = torch.randn(len(x), 3, dtype=torch.float64)
        R_out = y * torch.autograd.functional.vjp(tail, y.flatten(1), seed_out / tail(y.flatten(1)))[1].reshape(y.shape)
        R_out = R_out.detach().nan_to_num(0.0)  # of a sample that the ReLU turns off altogether
    lrp = LRP(model.eval(), rules, canonize=False)
    R_in, shares = expected(layer, rule, oracle_parameters | {"bias": policy}, a, R_out)
    return Case(lrp, x, seed_out, R_in, shares)


def inputs(shape: tuple[int, ...]) -> Tensor:
    """Four samples: two signed, one positive, one with exact zeros."""
    x = torch.randn(4, *shape, dtype=torch.float64).clamp(-3.5, 3.5)
    x[2].abs_()
    x[3].clamp_(min=0)
    return x


def expected(layer: Layer, rule: Rule, parameters: dict, a: Tensor, R_out: Tensor) -> tuple[Tensor, Shares]:
    """What the paper's formula says about a layer: movement, then an affine core."""
    shape, batch = a.shape[1:], a.shape[0]
    P = None
    if layer.movement is not None:
        P = matrix(layer.movement, shape)
        parameters = {k: P @ v if k in ("low", "high") else v for k, v in parameters.items()}
        a = layer.movement(a)
    L = dense(layer.core or layer.module, a.shape[1:])
    shares = rule.formula(L, a.flatten(1), R_out.flatten(1), **parameters)
    R_in = shares.R_in if P is None else shares.R_in @ P
    return R_in.reshape(batch, *shape), shares


def check_against_the_oracle(case: Case) -> None:
    R_in = case.lrp(case.x, target=lambda output: case.R_out).relevance
    assert_close(R_in, case.R_in, rtol=1e-9)


def hypothesis_pick(data, salt: str) -> Pick:
    """Draw among the options, in an order that depends on the pair: derandomized draws repeat from pair to
    pair.
    """
    start = zlib.crc32(salt.encode())

    def pick(*options):
        k = start % len(options)
        return data.draw(st.sampled_from(options[k:] + options[:k]))

    return pick


# -------------------------------------------------------------------------------------- 1. the dense oracle


def draw_and_check(pair, data) -> None:
    case = make_case(*pair, hypothesis_pick(data, name(pair)), data.draw(st.integers(0, 2**16), label="seed"))
    check_against_the_oracle(case)


FRUGAL = settings(  # an example costs an export: no shrinking
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("pair", SERVED[::3], ids=name)
@settings(FRUGAL, max_examples=1, derandomize=True)
@given(data=st.data())
def test_equals_the_dense_oracle(pair, data):
    """A third of the pairs, with drawn hyperparameters; with the first ones the books are tested for all, below."""
    draw_and_check(pair, data)


@pytest.mark.slow
@pytest.mark.parametrize("pair", SERVED, ids=name)
@settings(FRUGAL, max_examples=15)
@given(data=st.data())
def test_equals_the_dense_oracle_thoroughly(pair, data):
    draw_and_check(pair, data)


# ----------------------------------------------------------------------- 2. and 3. the books, and the batch


@pytest.fixture(scope="module", params=SERVED, ids=name)
def case(request) -> Case:
    """The first choice of every hyperparameter, bias and all."""
    return make_case(*request.param, first, seed=1)


def test_equals_the_dense_oracle_and_the_books_balance_with_every_sink_named(case):
    expl = case.lrp(case.x, target=lambda output: case.R_out, audit=True)
    assert_close(expl.relevance, case.R_in, rtol=1e-9)
    ledger, scale = expl.ledger, case.R_out.abs().sum().item()
    assert ledger.imbalance <= 1e-10
    assert all(entry.imbalance <= 1e-10 for entry in ledger.entries)
    assert ledger.output == pytest.approx(case.R_out.sum().item(), abs=1e-10 * scale)
    assert ledger.input == pytest.approx(expl.relevance.sum().item(), abs=1e-10 * scale)
    assert ledger.input + sum(ledger.sinks.values()) == pytest.approx(ledger.output, abs=1e-10 * scale)
    assert ledger.sinks.get("bias", 0.0) == pytest.approx(case.shares.bias.sum().item(), abs=1e-9 * scale)
    assert all(isinstance(sink, str) and sink for sink in ledger.sinks)


def test_asking_for_more_changes_nothing(case):
    plain = case.lrp(case.x, target=lambda output: case.R_out).relevance
    expl = case.lrp(case.x, target=lambda output: case.R_out, audit=True, layers=True)
    assert_close(expl.relevance, plain, rtol=1e-12)


def test_batched_equals_looped(case):
    whole = case.lrp(case.x, target=lambda output: case.R_out).relevance
    for k in range(len(case.x)):
        R_out = case.R_out[k : k + 1]
        one = case.lrp(case.x[k : k + 1], target=lambda output, R_out=R_out: R_out).relevance
        assert_close(one, whole[k : k + 1], rtol=1e-12)


@pytest.mark.parametrize("policy", BIAS_POLICIES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_an_output_that_sees_padding_only_is_in_the_books(rule, policy):
    """A 1x1 kernel with padding: the rim's outputs are their bias. It has no input to be distributed to."""
    torch.manual_seed(3)
    module, x = nn.Conv2d(2, 3, 1, padding=1).double(), torch.randn(2, 2, 3, 3).double()
    R_out = torch.randn_like(module(x))
    layer = Layer(module, (2, 3, 3))
    parameters, oracle_parameters = rule.draw(first, layer)
    lrp = LRP(nn.Sequential(module), [rule.make(**parameters, bias=policy)])
    expl = lrp(x, target=lambda output: R_out, audit=True)
    R_in, _ = expected(layer, rule, oracle_parameters | {"bias": policy}, x, R_out)
    assert_close(expl.relevance, R_in, rtol=1e-9)
    assert expl.ledger.imbalance <= 1e-10


# ---------------------------------------------------------------------------- 4. dtype, device, and zero

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
DTYPES = [
    *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.float32, torch.bfloat16)),
    torch.float64,
    torch.float16,
]
ZERO_AT = [o for o in OPERATORS if o.name in ("linear", "conv2d", "batch_norm2d", "avg_pool2d", "mean")]


def with_dead_outputs(operator: Operator) -> Layer:
    """A layer whose first output has no weights, no bias and so no denominator, where it has any to lose."""
    torch.manual_seed(2)
    layer = operator.build(first, operator.biased)
    with torch.no_grad():
        for parameter in layer.module.parameters():
            parameter[0] = 0.0
    return layer


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pair", [pair for pair in SERVED if pair[0] in ZERO_AT], ids=name)
def test_keeps_dtype_and_device_and_is_finite_at_zero(pair, dtype, device):
    operator, rule = pair
    layer = with_dead_outputs(operator)
    parameters, _ = rule.draw(first, layer)
    parameters = {k: v.to(device, dtype) if isinstance(v, Tensor) else v for k, v in parameters.items()}
    model = nn.Sequential(copy.deepcopy(layer.module)).to(device, dtype).eval()
    x = inputs(layer.shape).to(device, dtype)
    x[1] = 0.0
    R_out = torch.randn_like(model(x))
    expl = LRP(model, [rule.make(**parameters)], canonize=False)(x, target=lambda output: R_out, audit=True)
    assert expl.relevance.dtype == dtype
    assert expl.relevance.device == x.device
    assert expl.relevance.shape == x.shape
    assert expl.relevance.isfinite().all()
    assert expl.relevance.abs().sum() > 0
    if dtype in (torch.float64, torch.float32):
        assert expl.ledger.imbalance <= (1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_layer_of_zeros_and_an_input_of_zeros_are_finite(rule, dtype):
    model = nn.Sequential(nn.Linear(3, 2)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    lrp = LRP(model, [rule.make()])
    for x in (torch.zeros(2, 3, dtype=dtype), torch.randn(2, 3).clamp(0, 1).to(dtype)):
        assert lrp(x, target=0).relevance.isfinite().all()


# ---------------------------------------------------------------------------------------------- 5. refusals


@pytest.mark.parametrize(("rule_name", "operator_name"), sorted(REFUSED))
def test_what_a_rule_cannot_serve_is_refused_by_name(rule_name, operator_name):
    rule = next(rule for rule in RULES if rule.name == rule_name)
    operator = next(operator for operator in OPERATORS if operator.name == operator_name)
    layer = operator.build(first, False)
    with pytest.raises(RuleError) as error:
        LRP(nn.Sequential(layer.module), [rule.make()], canonize=False)(torch.rand(2, *layer.shape))
    assert rule.make.__name__ in str(error.value)
    assert type(layer.module).__name__ in str(error.value)


def test_a_box_of_the_inputs_shape_does_not_fit_a_convolution_that_pads_with_data():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"))
    rule = ZBoxRule(torch.zeros(2, 5, 5), torch.ones(2, 5, 5))
    with pytest.raises(RuleError, match="broadcast"):
        LRP(model, [rule])(torch.rand(2, 2, 5, 5), target=lambda output: torch.ones_like(output))
