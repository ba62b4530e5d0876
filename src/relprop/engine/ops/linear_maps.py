"""Affine operators as maps `z = W a + b` whose input, weight and bias can be put in anew.

Also their adjoint `c = Wᵀ s` for any weight: written out for the frequent ones, else by differentiating the map itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.engine.graph.graph import Node, data_inputs, fake_value, info, operator_name
from relprop.engine.ops.adjoints import ADJOINTS, CONVOLUTIONS, convolution_of_ones
from relprop.engine.ops.registry import everywhere, inherits, op_of, register
from relprop.engine.ops.tape import Tape

WeightKind = Literal["tensor", "equal", "positive", "mixed"]
"""A weight tensor that rules may modify; or none, and connections that weigh the same, or are positive, or neither."""


@dataclass(frozen=True)
class Affine:
    """How to read an affine operator's arguments.

    Attributes:
        weight, bias: positions of its weight and bias among the arguments. None for the weight of products: there it is
            whichever operand is no data.
        kind: what rules can know about the weights.
        must_be_biased: it takes zeros, not None, for no bias.
    """

    weight: int | None = None
    bias: int | None = None
    kind: WeightKind = "tensor"
    must_be_biased: bool = False


def _with_constant_weight(node: Node, dim: int) -> bool:
    weight = node.args[1]
    return isinstance(weight, Node) and info(weight).static


def _over_features(node: Node, dim: int) -> bool:
    """A mean over the last dimension, which stays."""
    last = {-1, len(fake_value(node).shape) - 1}
    return len(node.args) > 2 and bool(node.args[2]) and set(node.args[1]) <= last  # type: ignore[arg-type]


def _register(names: str, options: Affine, **facts: Any) -> None:
    register(names, "affine", options=options, **facts)


_WEIGHTED, _PRODUCT = Affine(weight=1, bias=2), Affine()
_EQUAL, _POSITIVE, _MIXED = Affine(kind="equal"), Affine(kind="positive"), Affine(kind="mixed")
_C, _P, _X = ("ConvLayer",), ("PoolingLayer",), ("ProductLayer",)

_register("linear", _WEIGHTED, local=_with_constant_weight, positions=1, fresh=True, bilinear=True,
          layers=("LinearLayer",))  # fmt: skip
for _d in (1, 2, 3):
    _register(f"conv{_d}d", _WEIGHTED, convolves=_d, fresh=True, bilinear=True, layers=_C)
    _register(f"conv_transpose{_d}d", _WEIGHTED, convolves=_d, fresh=True, bilinear=True, layers=_C)
_register("scale", _WEIGHTED, local=everywhere, fresh=True, infinite="inherits")
_register("transformers.grouped_mm_fallback _grouped_mm", Affine(weight=1))
_register("mm", _PRODUCT, bilinear=True, layers=("LinearLayer",))
_register("matmul", _PRODUCT, bilinear=True, layers=("LinearLayer", *_X))
_register("bmm einsum", _PRODUCT, bilinear=True, layers=_X)
_register("mv dot", _PRODUCT, bilinear=True)

_register("mean", _EQUAL, nonneg=inherits, local=_over_features, layers=_P)
_register("avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", _EQUAL,
          nonneg=inherits, layers=_P)  # fmt: skip
_register("sum cumsum _adaptive_avg_pool2d _adaptive_avg_pool3d col2im index_add scatter_add", _EQUAL, nonneg=inherits)
_register("upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
          "_upsample_nearest_exact2d _upsample_nearest_exact3d", _EQUAL, nonneg=inherits, gate=None)  # fmt: skip
_register("upsample_linear1d upsample_bilinear2d upsample_trilinear3d _upsample_bilinear2d_aa", _POSITIVE,
          nonneg=inherits, gate=None)  # fmt: skip
_register("upsample_bicubic2d _upsample_bicubic2d_aa", _MIXED, gate=None)
_register("grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator real_part", _MIXED)
_register("complex_linear", _MIXED, bilinear=True)
_register("sum_of_places", _EQUAL, nonneg=inherits)
_register("torchvision.roi_align torchvision.ps_roi_align", _POSITIVE, nonneg=inherits)
_register("torchvision.deform_conv2d", Affine(weight=1, bias=4, must_be_biased=True), layers=_C)


def _sum_sign(node: Node, args: Sequence[bool]) -> bool:
    coefficients: Any = node.kwargs.get("coefficients")
    if coefficients is None or min(coefficients) < 0:  # None: as captured, not yet rewritten
        return False
    return all(args) and all(_is_nonneg_constant(a) for a in node.args if not (isinstance(a, Node) and info(a).data))


def _is_nonneg_constant(value: Any) -> bool:
    return info(value).nonneg if isinstance(value, Node) else value >= 0


register("add", "sum", nonneg=_sum_sign, local=everywhere, fresh=True, infinite="inherits")


class AffineMap:
    """One affine node, `z = Σ_k W_k a_k + b`, with everything replaceable.

    Attributes:
        xs: data inputs. w, b: nodes of weight and bias, if there are any.
    """

    def __init__(self, node: Node, options: Affine) -> None:
        self.node = node
        self.operator = operator_name(node)
        self.kind: WeightKind = options.kind
        self.xs = data_inputs(node)
        self.w = self._argument(options.weight) if options.weight is not None else self._operand()
        self.b = self._argument(options.bias)
        self.must_be_biased = options.must_be_biased
        if self.w is None and options.kind == "tensor":
            self.kind = "mixed"  # its constant is spread over several arguments, so no rule can take it apart

    def _argument(self, position: int | None) -> Node | None:
        if position is None or position >= len(self.node.args):
            return None
        argument = self.node.args[position]
        return argument if isinstance(argument, Node) and argument not in self.xs else None

    def _operand(self) -> Node | None:
        """The one constant operand of a product such as `matmul`."""
        constants = [n for n in self.node.all_input_nodes if n not in self.xs and _has_shape(n)]
        return constants[0] if len(constants) == 1 and self.kind == "tensor" else None

    def weight(self, tape: Tape) -> Tensor:
        """The weight, or the number 1 for an operator without one."""
        return torch.ones((), dtype=tape.dtype, device=tape.device) if self.w is None else tape.value(self.w)

    def bias(self, tape: Tape) -> Tensor | None:
        """What is added to `Σ_k W_k a_k`, or None for nothing."""
        return None if self.b is None else tape.value(self.b)

    @property
    def weighted(self) -> bool:
        """Inputs have weights, of either sign."""
        return self.w is not None

    @property
    def parameter(self) -> Node | None:
        """The weight, if it is a parameter or made of parameters alone."""
        return self.w if self.w is not None and info(self.w).static else None

    @property
    def biased(self) -> bool:
        """Something is added to the weighted inputs."""
        return self.b is not None

    @property
    def weight_name(self) -> str:
        """What the weight is called."""
        return (self.w or self.node).name

    def outputs(self, part: Tensor) -> Tensor:
        """Of a tensor shaped like the node's value what belongs to this map's outputs."""
        return part

    def apply(self, tape: Tape, xs: Sequence[Tensor], w: Tensor | None, b: Tensor | None) -> Tensor:
        """`Σ_k W_k a_k + b`. `w=None` keeps the operator's own weight."""
        substitute: dict[Node, Any] = dict(zip(self.xs, map(self.laid_out, xs), strict=True))
        if self.w is not None:
            substitute[self.w] = tape.value(self.w) if w is None else w
        if self.b is not None:
            substitute[self.b] = torch.zeros_like(tape.value(self.b)) if b is None and self.must_be_biased else b
        z: Tensor = tape.evaluate(self.node, substitute)
        return z if w is None or self.w is not None else z * w

    def laid_out(self, x: Tensor) -> Tensor:
        """An input in the layout that the operator is fast or right with.

        A linear layer is one product if it is contiguous. Transforms read by strides, of which blanks have none:
        `stft` is wrong there, and PyTorch 2.6's FFT fails.
        """
        return x.contiguous() if self.operator in {"linear", "complex_linear"} else x

    def pull(self, tape: Tape, w: Tensor | None, s: Tensor) -> list[Tensor]:
        """`Wᵀ s` for each input."""
        has_weight = self.w is not None  # not where the weight is data, and the input is a constant
        explicit = ADJOINTS.get(self.operator) if has_weight else None
        if explicit is not None:
            c = explicit(self.node, tape, self.weight(tape) if w is None else w, s)
            if c is not None:
                return [c]
        blanks = [tape.blank(x) for x in self.xs]
        z, pull = tape.derivative(lambda *xs: self.apply(tape, xs, w, None), blanks)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(blanks, pull(s.expand_as(z)), strict=True)]

    def through_weight(self, tape: Tape, xs: Sequence[Tensor], w: Tensor | None, s: Tensor) -> Tensor:
        """`W ⊙ ∂(s · W a)/∂W`, shaped like the weight: what of `a · Wᵀ s` goes through each of its entries."""
        w = self.weight(tape) if w is None else w
        z, pull = tape.derivative(lambda w: self.apply(tape, xs, w, None), [w])
        (slope,) = pull(s.sum_to_size(z.shape))  # inputs that are the same for all samples are there once
        assert slope is not None
        return self.whole(w * slope)

    def whole(self, rows: Tensor) -> Tensor:
        """What is shaped like this map's part of the weight or the bias, shaped like all of it."""
        return rows

    def pull_ones(self, tape: Tape, s: Tensor) -> list[Tensor] | None:
        """`1ᵀ s`: what all inputs of an output get alike, if that can be had from one channel; None if not."""
        if self.operator not in CONVOLUTIONS or self.w is None:
            return None
        c = convolution_of_ones(self.node, tape, self.weight(tape), s)
        return None if c is None else [c]

    def spread_bias(self, b: Tensor, z: Tensor) -> Tensor:
        """The bias, shaped to broadcast against the output."""
        op = op_of(self.node)
        return b.reshape(-1, *[1] * (op.convolves or z.dim() - 2)) if op.layers == _C else b


class SomeRows(AffineMap):
    """The part of a linear layer that computes some of its outputs.

    Attributes:
        first, count: which of its rows.
    """

    def __init__(self, node: Node, options: Affine, first: int, count: int) -> None:
        super().__init__(node, options)
        self.first, self.count = first, count

    @property
    def weight_name(self) -> str:
        return f"{super().weight_name}[{self.first}:{self.first + self.count}]"

    def weight(self, tape: Tape) -> Tensor:
        return super().weight(tape).narrow(0, self.first, self.count)

    def bias(self, tape: Tape) -> Tensor | None:
        b = super().bias(tape)
        return None if b is None else b.narrow(0, self.first, self.count)

    def outputs(self, part: Tensor) -> Tensor:
        return part.narrow(-1, self.first, self.count)

    def whole(self, rows: Tensor) -> Tensor:
        assert self.w is not None
        behind = fake_value(self.w).shape[0] - self.first - self.count
        return F.pad(rows, [0, 0] * (rows.dim() - 1) + [self.first, behind])

    def apply(self, tape: Tape, xs: Sequence[Tensor], w: Tensor | None, b: Tensor | None) -> Tensor:
        return super().apply(tape, xs, self.weight(tape) if w is None else w, b)


class SumMap(AffineMap):
    """A sum of several operands as an affine map: its "weight" holds their coefficients, its constants are the bias."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, Affine(kind="equal"))
        self.kind = "tensor"
        coefficients: Sequence[float] = node.kwargs["coefficients"]  # type: ignore[assignment]
        pairs = list(zip(node.args, coefficients, strict=True))
        self.coefficients = [[k for a, k in pairs if a is x] for x in self.xs]
        self.constants: list[tuple[Any, float]] = [
            (a, k) for a, k in pairs if not (isinstance(a, Node) and a in self.xs)
        ]

    @property
    def weighted(self) -> bool:
        return True

    @property
    def biased(self) -> bool:
        return bool(self.constants)

    def weight(self, tape: Tape) -> Tensor:
        return torch.tensor([sum(k) for k in self.coefficients], dtype=tape.dtype)

    def bias(self, tape: Tape) -> Tensor | None:
        amounts = [amount for _, amount in self.constant_values(tape)]
        return sum(amounts[1:], amounts[0]) if amounts else None

    def constant_values(self, tape: Tape) -> list[tuple[Any, Tensor]]:
        """Each constant summand, and what it adds."""
        return [
            (
                x,
                k
                * (
                    tape.value(x)
                    if isinstance(x, Node)
                    else torch.full((), float(x), dtype=tape.dtype, device=tape.device)
                ),
            )
            for x, k in self.constants
        ]

    def apply(self, tape: Tape, xs: Sequence[Tensor], w: Tensor | None, b: Tensor | None) -> Tensor:
        z: Tensor = sum((k * x for k, x in zip(self._each(w), xs, strict=True)), torch.zeros((), dtype=tape.dtype))
        z = z if b is None else z + b
        shape = tape.shapes[self.node]
        return z if z.shape == shape else z.expand(shape).clone()

    def pull(self, tape: Tape, w: Tensor | None, s: Tensor) -> list[Tensor]:
        shares = [s if isinstance(k, float) and k == 1 else s * k for k in self._each(w)]
        return [share.sum_to_size(tape.shapes[x]) for share, x in zip(shares, self.xs, strict=True)]

    def _each(self, w: Tensor | None) -> Sequence[Any]:
        """A coefficient for each input: numbers, or entries of a modified `w`, whose values stay out of Python."""
        return [float(sum(k)) for k in self.coefficients] if w is None else w.unbind()


def _has_shape(node: Node) -> bool:
    return info(node).static or isinstance(node.meta.get("val"), Tensor)
