"""TorchScript models: what `torch.jit.script`, `trace`, `freeze` and `load` return.

They hold no Python code, but run the same ATen operators through PyTorch's dispatcher, where a non-strict export sees
them. Export takes no `ScriptModule` at the root, and a shallow copy of one writes into the original. So a deep copy
stands for it that shares its tensors.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class Scripted(nn.Module):
    """Stands for a copy of a TorchScript module: the same submodules, parameters and names, run by its own code.

    Args:
        module: the original.
        tensor: an original's tensor -> the copy's.
    """

    def __init__(self, module: torch.jit.ScriptModule, tensor: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        own: Any = copy.deepcopy(module)
        for theirs, ours in zip(module.modules(), own.modules(), strict=True):
            for held in ("_parameters", "_buffers"):
                for name, value in getattr(theirs, held).items():
                    ours._c.setattr(name, tensor(_typed(value, held)))
        self.__dict__ |= {name: own.__dict__[name] for name in ("_parameters", "_buffers", "_modules")}
        method = own._c._get_method("forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # nothing is fused
                return method(*args, **kwargs)

        forward.__signature__ = _signature(method.schema.arguments[1:])  # type: ignore[attr-defined]
        self.forward = forward
        self._script = (own,)  # in a tuple, so that it is no submodule

    def train(self, mode: bool = True) -> Self:
        """Also where the code reads it; frozen code is in evaluation mode for good."""
        self.training = mode
        for module in self._script[0].modules():
            if not _is_frozen(module):
                module._c.setattr("training", mode)
        return self


def _typed(value: Tensor, held: str) -> Tensor:
    """`torch.jit.load` gives parameters that are plain tensors."""
    if held == "_buffers" or isinstance(value, nn.Parameter):
        return value
    return nn.Parameter(value, requires_grad=value.requires_grad)


def _signature(arguments: Any) -> inspect.Signature:
    kind, none = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    defaults = [a.default_value if a.has_default_value() else none for a in arguments]
    named = zip(arguments, defaults, strict=True)
    return inspect.Signature([inspect.Parameter(a.name, kind, default=default) for a, default in named])


def is_script(module: nn.Module) -> bool:
    """Its operators know of no module inside of it."""
    return isinstance(module, (Scripted, torch.jit.ScriptModule))


def path_of(parameters: Iterable[str]) -> str:
    """The module that an operator's parameters belong to; `""` where there are none, or those of several."""
    owners = {path.rpartition(".")[0] for path in parameters}
    return owners.pop() if len(owners) == 1 else ""


def module_type(module: nn.Module) -> type[nn.Module]:
    """A module's class, or the one that it was scripted from, as far as PyTorch has one of that name.

    What `torch.jit.freeze` returns is named after the model's class, but holds the operators of all that was inside.
    """
    script: Any = module._script[0] if isinstance(module, Scripted) else module
    if not is_script(script) or _is_frozen(script):
        return type(module)
    found = getattr(nn, str(script.original_name), None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else type(module)


def _is_frozen(script: Any) -> bool:
    return not script._c.hasattr("training")
