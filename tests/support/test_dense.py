"""The oracle itself, against numbers worked by hand, and against a plain loop over a convolution's kernel."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close, assert_each_close, relative_l2
from support.dense import (
    Dense,
    alpha_beta,
    dense,
    flat,
    gamma,
    generalized_gamma,
    stabilize,
    w_square,
    z_box,
    z_plus,
    zero,
)
from torch import nn

# One layer for all hand-worked cases:  W = [[2, -1/2], [-1, 1]],  b = (1, 1),  a = (1, 2),  R = (4, 6), so
# that
#   z_1 = 1·2 + 2·(-1/2) + 1 = 2        z_2 = 1·(-1) + 2·1 + 1 = 2
LAYER = Dense(
    W=torch.tensor([[2.0, -0.5], [-1.0, 1.0]], dtype=torch.float64),
    b=torch.tensor([1.0, 1.0], dtype=torch.float64),
    connected=torch.ones(2, 2, dtype=torch.float64),
)
A = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
R = torch.tensor([[4.0, 6.0]], dtype=torch.float64)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_zero_rule():
    # s = (4/2, 6/2) = (2, 3);  R_1 = 1·(2·2 - 1·3) = 1;  R_2 = 2·(-1/2·2 + 1·3) = 4;  biases keep (1·2, 1·3)
    shares = zero(LAYER, A, R, 0.0)
    assert_close(shares.R_in, row(1, 4))
    assert_close(shares.bias, row(2, 3))


def test_zero_rule_ignoring_the_bias():
    # z without bias = (1, 1);  s = (4, 6);  R_1 = 2·4 - 1·6 = 2;  R_2 = 2·(-1/2·4 + 6) = 8;  2 + 8 = 10
    shares = zero(LAYER, A, R, 0.0, "ignore")
    assert_close(shares.R_in, row(2, 8))
    assert_close(shares.bias, row(0, 0))


def test_zero_rule_distributing_the_bias():
    # the biases' shares (2, 3) go in halves to both inputs: R = (1 + 1 + 3/2, 4 + 1 + 3/2);  3.5 + 6.5 = 10
    shares = zero(LAYER, A, R, 0.0, "distribute")
    assert_close(shares.R_in, row(3.5, 6.5))
    assert_close(shares.bias, row(0, 0))


def test_epsilon_keeps_its_share():
    # ε = 2: s = (4/4, 6/4) = (1, 3/2);  R_1 = 2 - 3/2 = 1/2;  R_2 = 2·(-1/2 + 3/2) = 2;  b: (1, 3/2);  ε:
    # (2·1, 2·3/2)
    shares = zero(LAYER, A, R, 2.0)
    assert_close(shares.R_in, row(0.5, 2))
    assert_close(shares.bias, row(1, 1.5))
    assert_close(shares.epsilon, row(2, 3))


def test_stabilizer_has_the_sign_of_the_denominator_and_is_exact_at_zero():
    d = row(-2.0, -0.0, 0.0, 2.0)
    assert torch.equal(stabilize(d, 0.5), row(-2.5, 0.5, 0.5, 2.5))
    assert torch.equal(stabilize(d, lambda z: z + 1), row(-1, 1, 1, 3))


def test_gamma_rule():
    # γ = 1: W' = [[4, -1/2], [-1, 2]], b' = (2, 2);  z' = (4 - 1 + 2, -1 + 4 + 2) = (5, 5);  s = (4/5, 6/5)
    # R_1 = 4·4/5 - 6/5 = 2;  R_2 = 2·(-2/5 + 12/5) = 4;  biases keep 2·(4/5, 6/5)
    shares = gamma(LAYER, A, R, 1.0, 0.0)
    assert_close(shares.R_in, row(2, 4))
    assert_close(shares.bias, row(1.6, 2.4))


def test_generalized_gamma_rule():
    # a = (-1, 2), b = (1, -4): contributions of output 1: (-2, -1), z_1 = -2;  of output 2: (1, 2), z_2 = -1.
    # γ = 1, both outputs negative, so negative contributions count double:
    #   output 1: (-4, -2), b 1: z' = -5, s = -4/5;  output 2: (1, 2), b -8: z' = -5, s = -6/5
    #   R_1 = -4·(-4/5) + 1·(-6/5) = 2;  R_2 = -2·(-4/5) + 2·(-6/5) = -4/5;  biases keep (-4/5, 48/5);  in
    #   all 10
    layer = Dense(LAYER.W, torch.tensor([1.0, -4.0], dtype=torch.float64), LAYER.connected)
    shares = generalized_gamma(layer, row(-1, 2), R, 1.0, 0.0)
    assert_close(shares.R_in, row(2, -0.8))
    assert_close(shares.bias, row(-0.8, 9.6))


def test_generalized_gamma_is_gamma_where_inputs_and_outputs_are_positive():
    assert_close(generalized_gamma(LAYER, A, R, 0.3).R_in, gamma(LAYER, A, R, 0.3).R_in)


def test_generalized_gamma_at_a_zero_output_passes_nothing():
    # b = (-1, -1): z = (0, 0)
    layer = Dense(LAYER.W, -LAYER.b, LAYER.connected)
    assert_close(generalized_gamma(layer, A, R, 1.0).R_in, row(0, 0))


def test_z_plus_rule():
    # positive contributions: output 1: (2, 0), b 1: z⁺ = 3, s = 4/3;  output 2: (0, 2), b 1: z⁺ = 3, s = 2
    shares = z_plus(LAYER, A, R, 0.0)
    assert_close(shares.R_in, row(8 / 3, 4))
    assert_close(shares.bias, row(4 / 3, 2))


def test_z_plus_rule_takes_negative_inputs_through_negative_weights():
    # a = (-1, -2): contributions of output 1: (-2, 1), b 1: z⁺ = 2, s = 2;  of output 2: (1, -2), b 1: z⁺ =
    # 2, s = 3
    assert_close(z_plus(LAYER, -A, R, 0.0).R_in, row(3, 2))


def test_alpha_beta_rule():
    # α = 2: twice the z⁺ shares, 2·(8/3, 4) = (16/3, 8); β = 1: negative contributions (0, -1) and (-1, 0),
    # no
    # negative bias: all of R_1 = 4 to input 2, all of R_2 = 6 to input 1. Together (16/3 - 6, 8 - 4) =
    # (-2/3, 4)
    shares = alpha_beta(LAYER, A, R, 2.0, 1.0, 0.0)
    assert_close(shares.R_in, row(-2 / 3, 4))
    assert_close(shares.bias, row(8 / 3, 4))


def test_alpha_beta_rule_puts_a_negative_bias_into_the_inhibitory_part_once():
    # b = (-1, -1): β part: output 1: (0, -1), b -1: z⁻ = -2, input 2 gets 4/2 = 2;  output 2: (-1, 0), b
    # -1: input 1
    # gets 3. α part: all of R_1 to input 1, all of R_2 to input 2. Together (8 - 3, 12 - 2); biases keep
    # -(2, 3)
    shares = alpha_beta(Dense(LAYER.W, -LAYER.b, LAYER.connected), A, R, 2.0, 1.0, 0.0)
    assert_close(shares.R_in, row(5, 10))
    assert_close(shares.bias, row(-2, -3))


def test_w_square_rule():
    # W² = [[4, 1/4], [1, 1]]: sums 17/4 and 2;  R_1 = 4·16/17 + 6/2;  R_2 = 4/17 + 6/2
    assert_close(w_square(LAYER, A, R, 0.0).R_in, row(64 / 17 + 3, 4 / 17 + 3))


def test_flat_rule():
    # halves of 4 and halves of 6
    assert_close(flat(LAYER, A, R, 0.0).R_in, row(5, 5))


def test_z_box_rule():
    # l = (-1, 0), h = (3, 4):
    #   output 1: 1·2 + 1·2 = 4 and 2·(-1/2) + 4·1/2 = 1, z = 5;  output 2: 1·(-1) + 3·1 = 2 and 2·1 - 0·1 =
    #   2, z = 4
    #   s = (4/5, 3/2);  R_1 = 4·4/5 + 2·3/2 = 6.2;  R_2 = 4/5 + 2·3/2 = 3.8
    shares = z_box(LAYER, A, R, row(-1, 0)[0], row(3, 4)[0], 0.0)
    assert_close(shares.R_in, row(6.2, 3.8))


@pytest.mark.parametrize("bias", ["absorb", "ignore", "distribute"])
@pytest.mark.parametrize("rule", [zero, gamma, z_plus, alpha_beta, generalized_gamma])
def test_every_share_is_accounted_for(rule, bias):
    torch.manual_seed(0)
    layer = Dense(torch.randn(5, 7).double(), torch.randn(5).double(), (torch.rand(5, 7) > 0.3).double())
    a, R_out = torch.randn(3, 7).double(), torch.randn(3, 5).double()
    shares = rule(layer, a, R_out, stabilizer=0.1, bias=bias)
    total = shares.R_in.sum() + shares.bias.sum() + shares.epsilon.sum()
    assert_close(total, R_out.sum(), rtol=1e-12)


def test_dense_reads_a_convolution_kernel_by_kernel():
    """A strided, padded, dilated, grouped convolution, written as a loop over kernel positions."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2).double()
    with torch.no_grad():
        conv.weight[0, 0, 1, 1] = 0.0  # a connection whose weight happens to be zero
    H, W_ = 5, 4
    oracle = dense(conv, (4, H, W_))
    H_out, W_out = conv(torch.zeros(1, 4, H, W_).double()).shape[-2:]
    W = torch.zeros(6, H_out, W_out, 4, H, W_).double()
    connected = torch.zeros_like(W)
    for o in range(6):
        for c in range(2):
            for y in range(H_out):
                for x in range(W_out):
                    for u in range(3):
                        for v in range(2):
                            i, j = 2 * y + u - 1, x + 2 * v - 2
                            if 0 <= i < H and 0 <= j < W_:
                                channel = c + 2 * (o // 3)
                                W[o, y, x, channel, i, j] = conv.weight[o, c, u, v]
                                connected[o, y, x, channel, i, j] = 1
    assert torch.equal(oracle.W, W.detach().reshape(oracle.W.shape))
    assert torch.equal(oracle.connected, connected.reshape(oracle.W.shape))
    assert (oracle.connected.sum() > (oracle.W != 0).sum()).item()
    assert torch.equal(oracle.b, conv.bias.detach().repeat_interleave(H_out * W_out))


def test_dense_reads_batch_norm_and_leaves_it_alone():
    norm = nn.BatchNorm1d(2, eps=0.0).double()
    norm.running_mean.copy_(torch.tensor([1.0, -2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0]))
    # W = (3/2, -1/(1/2)) = (1.5, -2);  b = (0.5 - 1·1.5, 0 - (-2)·(-2)) = (-1, -4)
    oracle = dense(norm, (2,))
    assert_close(oracle.W, torch.diag(torch.tensor([1.5, -2.0]).double()))
    assert_close(oracle.b, torch.tensor([-1.0, -4.0]).double())
    assert torch.equal(oracle.connected, torch.eye(2).double())
    assert norm.training
    assert norm.weight.tolist() == [3.0, -1.0]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), (2, 3, 2)), (nn.AvgPool2d(3, 2, 1, True), (2, 4, 5))],
    ids=repr,
)
def test_dense_is_the_jacobian(layer, shape):
    layer = layer.double()
    at = torch.randn(1, *shape, dtype=torch.float64)
    oracle = dense(layer, shape)
    J = torch.autograd.functional.jacobian(layer, at).reshape(oracle.W.shape)
    assert_close(oracle.W, J, rtol=1e-14)
    assert_close(oracle.W @ at.flatten() + oracle.b, layer(at).detach().flatten(), rtol=1e-14)


def test_assert_close_measures_relative_l2_and_names_the_worst_entry():
    expected = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    actual = torch.tensor([[3.0, 0.0], [0.5, 4.0]])
    assert relative_l2(actual, expected) == pytest.approx(0.5 / 25.25**0.5)
    assert_close(actual, expected, rtol=0.0999)
    assert_close(actual, expected, rtol=0.0, atol=0.5)
    with pytest.raises(AssertionError, match=r"\(1, 0\): \+5.0+e-01 should be \+0.0+e\+00"):
        assert_close(actual, expected, rtol=0.09)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_assert_close_does_not_accept_what_is_not_finite(bad):
    expected = torch.ones(2)
    with pytest.raises(AssertionError):
        assert_close(torch.tensor([1.0, bad]), expected, rtol=1.0)
    with pytest.raises(AssertionError, match="shapes differ"):
        assert_close(torch.ones(1, 2), expected)


@pytest.mark.parametrize(
    "expected",
    [
        torch.tensor([1.0, 1e-3 + 1e-6]),  # one small entry; relative L2 would not see it
        torch.tensor([1.0, float("nan")]),
        torch.tensor([1.0, 1e-3], dtype=torch.float64),
        torch.tensor([[1.0, 1e-3]]),
    ],
    ids=["entry", "nan", "dtype", "shape"],
)
def test_entry_by_entry_means_each_entry(expected):
    actual = torch.tensor([1.0, 1e-3])
    assert_each_close(actual, actual * (1 + 5e-6))
    with pytest.raises(AssertionError, match="what it is about"):
        assert_each_close(actual, expected, what="what it is about")
