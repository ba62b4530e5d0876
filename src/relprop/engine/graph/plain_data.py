"""`tensor.data` as operators while the model is exported.

PyTorch reads and sets `.data` beneath its dispatcher, so that an export sees a tensor from nowhere. Read, it is
`x.detach()`, which shares memory; set to a tensor of the same form, it is `x.copy_(y)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

READ, SET = Tensor.data.__get__, Tensor.data.__set__  # type: ignore[attr-defined]


class DataAsOperators(TorchFunctionMode):
    """Within it, reads and writes of `.data` are seen by whoever traces operators."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == READ:
            return args[0].detach()
        if func == SET and _same_form(*args):
            with torch.no_grad():
                args[0].copy_(args[1])
            return None
        return func(*args, **(kwargs or {}))


def _same_form(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and x.device == y.device
