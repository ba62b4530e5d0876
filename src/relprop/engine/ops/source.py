"""Sources: operators whose results carry no relevance: shapes, constants, and decisions such as comparisons."""

from __future__ import annotations

from relprop.engine.ops.registry import always, everywhere, inherits, register

register(
    "sym_size sym_numel sym_stride zeros_like empty_like new_zeros new_empty randn_like rand_like bernoulli "
    "multinomial randint_like randperm signbit heaviside argwhere count_nonzero histc torchvision.nms "
    "greater greater_equal less less_equal not_equal isclose isposinf isneginf isreal logical_xor bitwise_xor one_hot "
    "arange full full_like new_full "
    "gt lt ge le eq ne logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not isnan isinf isfinite "
    "argmax argmin argsort nonzero any all embedding isin bucketize searchsorted",
    "source",
)
# What a quotient divides by counts as a constant (LN-rule).
register("rsqrt reciprocal negative_power", "source", local=everywhere)
register("ones_like new_ones", "source", nonneg=always)
register("hold", "source", nonneg=inherits)
register("categories", "source", nonneg=always)
