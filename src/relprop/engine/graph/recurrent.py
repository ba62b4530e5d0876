"""`nn.LSTM`, `nn.GRU` and `nn.RNN` as one operator each while the model is exported.

PyTorch runs them step by step under symbolic sizes, which takes a hundredth of a second for each. Here they are
operators of relprop's own, which know the shape of their result, and become PyTorch's again when the graph is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph as FxGraph
from torch.overrides import TorchFunctionMode

from relprop.errors import CaptureError

LONGEST = 4096
"""Cell updates (steps times layers times directions) up to which a network is unrolled."""

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")

_library = torch.library.Library("relprop", "DEF")  # type: ignore[no-untyped-call]


def too_long(length: int, passes: int) -> str:
    """What is said where `length` steps in `passes` layers and directions are more than is unrolled."""
    return (
        f"{length} steps in {passes} layers and directions are {length * passes} cells, and relprop unrolls up to "
        f"{LONGEST}. Explain a shorter sequence, or a part of the model."
    )


class AsOneOperator(TorchFunctionMode):
    """Within it, a recurrent network over a padded batch is one call of relprop's operator."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in KINDS and not kwargs and len(args) == 9 and isinstance(args[3], bool):
            _check_length(name, *args)
            return getattr(torch.ops.relprop, name)(*args)
        return func(*args, **(kwargs or {}))


def restore(graph: FxGraph) -> None:
    """PyTorch's operators in place of relprop's."""
    for node in graph.nodes:
        if node.target in ORIGINAL:
            node.target = ORIGINAL[node.target]


def _check_length(
    name: str, x: Tensor, hx: Any, params: Any, biases: bool, layers: int, p: float, train: bool, two: bool, first: bool
) -> None:
    length, passes = int(x.shape[int(first)]), layers * (1 + two)  # int: a symbolic length is fixed
    if length * passes > LONGEST:
        raise CaptureError(f"{name}: {too_long(length, passes)}")


def _shapes(
    x: Tensor, hx: Any, params: Any, biases: bool, layers: int, p: float, train: bool, two: bool, first: bool
) -> tuple[Tensor, ...]:
    """The sequence of hidden states, (B, T, D · H) or (T, B, D · H), and the last states."""
    states = hx if isinstance(hx, (list, tuple)) else [hx]
    output = x.new_empty((*x.shape[:2], (1 + two) * states[0].shape[-1]))
    return output, *(torch.empty_like(state) for state in states)


def _define(name: str) -> tuple[Any, Any]:
    state, result = ("Tensor[] hx", "(Tensor, Tensor, Tensor)") if name == "lstm" else ("Tensor hx", "(Tensor, Tensor)")
    _library.define(  # type: ignore[no-untyped-call]
        f"{name}(Tensor input, {state}, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
        f"bool bidirectional, bool batch_first) -> {result}"
    )
    torch.library.register_fake(f"relprop::{name}", _shapes, lib=_library)
    return getattr(torch.ops.relprop, name).default, getattr(torch.ops.aten, name).input


ORIGINAL = dict(_define(name) for name in KINDS)
