"""Copies of a model's modules that share its parameters, so that whatever forward writes, it writes into the copy.

Modules, and the plain containers and objects that they hold, are copied one by one and not deeply: locks, files and
long lists stay where they are, tensors are shared.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from copyreg import _slotnames  # type: ignore[attr-defined]
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from relprop.engine.graph.packed import check_packed, stay_packed, unpack_weights
from relprop.engine.graph.quantized import check_observers, without_observers
from relprop.engine.graph.scripted import Scripted
from relprop.errors import CaptureError

LONG, HELD = 1_000, 20_000
"""Entries that one container may have, and all together, to be looked into. What lies beyond is shared."""

CONTAINERS = (list, tuple, dict, set, frozenset, deque, OrderedDict, defaultdict)


class LongList(list[Any]):
    """A list that `torch.export` does not look into either: it reads all that modules hold, entry by entry, twice."""


class LongDict(dict[Any, Any]):
    """The same of a dict."""


class LongTuple(tuple[Any, ...]):
    """The same of a tuple."""


OPAQUE: dict[type, type] = {list: LongList, dict: LongDict, tuple: LongTuple}

WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
"""Modules that only run another one, and the attribute that holds it."""

TensorCopy = Callable[[Tensor], Tensor]


def shadow_of(model: nn.Module) -> nn.Module:
    """A copy of the module tree in eval mode that shares every parameter and buffer with the original.

    Wrappers such as `DataParallel` and what `torch.compile` returns hand on to what they wrap.

    Raises:
        CaptureError: some module holds no Python code, or no values.
    """
    check_modules(model)
    shadow = _in_eval_mode(model, _Copier(_same))
    unpack_weights(shadow)
    return shadow


def trial_of(model: nn.Module, written: Collection[str] = ()) -> nn.Module:
    """A shadow to run the model's own code with: what forward writes into tensors is not seen by the original.

    Args:
        model: the original.
        written: paths of parameters that forward writes to. All others, which are most of a model, are shared.
    """
    copier = _Copier(_private)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in written:
            copier.put(parameter, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
    trial = _in_eval_mode(model, copier)
    stay_packed(trial)
    return trial


def copy_modules(model: nn.Module) -> nn.Module:
    """A copy of the module tree, wrappers included, that shares every parameter and buffer with the original."""
    return _Copier(_same, unwrap=False).module(model)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, `DataParallel` and their like."""
    while (name := wrapped_name(model)) is not None:
        model = getattr(model, name)
    return model


def wrapped_name(module: nn.Module) -> str | None:
    """Name of the submodule that a wrapper runs; None for any other module."""
    kind = type(module)
    return WRAPPERS.get(kind.__name__) if kind.__module__.startswith("torch.") else None


def check_modules(model: nn.Module) -> None:
    """Refuse modules that no Python code runs, or that hold no values."""
    for name, module in model.named_modules():
        where = f"{name} ({type(module).__name__})" if name else f"The model ({type(module).__name__})"
        kind = type(module).__module__
        check_observers(name, module)
        if ".quantized" in kind and kind.startswith("torch.") and "reference" not in kind:
            raise CaptureError(
                f"{where} is quantized: its weights are packed integers without a graph. Explain the float model, from "
                "before quantization (torch.ao.quantization.convert or quantize_dynamic); its relevance is close."
            )
        check_packed(where, module)
        if kind.startswith("torch.distributed.fsdp"):
            raise CaptureError(
                f"{where} holds its parameters in shards. Explain the whole model: load a full state dict into a "
                "model that FSDP does not wrap."
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise CaptureError(f"Parameter {name} has no shape yet. Run the model once, model(x), before this.")
        if tensor.device.type == "meta" and any("_hf_hook" in vars(module) for module in model.modules()):
            raise CaptureError(
                f"accelerate holds weights elsewhere, such as {name}, and brings them when a layer runs, so they have "
                "no values to explain. Load the model whole: from_pretrained(..., device_map='cpu'), or no device_map."
            )
        if tensor.device.type == "meta":
            raise CaptureError(
                f"The model's parameters, such as {name}, are on the 'meta' device, so they have no values to explain. "
                "Load weights first, for example with model.to_empty(device='cpu') followed by load_state_dict."
            )


class Wrapped(nn.Module):
    """Stands for a wrapper: the same name for what is inside, and nothing else."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)

        @functools.wraps(inner.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs)

        self.forward = forward

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            for inner in self._modules.values():
                return getattr(inner, name)
            raise


def _in_eval_mode(model: nn.Module, copier: _Copier) -> nn.Module:
    shadow = copier.module(model).eval()
    without_observers(shadow)
    for module in shadow.modules():
        if module._parameters and "to" not in module.__dict__:
            module.__dict__["to"] = _Staying(module)
        config = module.__dict__.get("config")
        if config is not None and copier.made(config) and getattr(config, "use_cache", False) is True:
            config.use_cache = False  # caches for generation are no outputs that could be explained
        if isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)):
            module.register_forward_pre_hook(_mask_as_given, with_kwargs=True)
    return shadow


class _Staying:
    """`module.to(...)`, called in forward, where an export cannot replace parameters: nothing if nothing changes."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        held = [*self._module.parameters(), *self._module.buffers()]
        moves = any(device not in (None, t.device) for t in held)
        if moves or any(dtype not in (None, t.dtype) for t in held if t.is_floating_point()):
            return nn.Module.to(self._module, *args, **kwargs)
        return self._module


def _mask_as_given(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """PyTorch compares a mask's values with a causal one's to choose a kernel. The mask says all by itself."""
    hints = ("is_causal",) if isinstance(module, nn.TransformerEncoder) else ("tgt_is_causal", "memory_is_causal")
    parameters = list(inspect.signature(module.forward).parameters)
    free = [name for name in hints if parameters.index(name) >= len(args) and kwargs.get(name) is None]
    return args, kwargs | dict.fromkeys(free, False)


def _same(tensor: Tensor) -> Tensor:
    return tensor


SMALL = 64 * 2**20
"""Bytes up to which a buffer is a state that forward may write to; a larger one is a weight, and is not copied."""


def _private(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
    plain = type(tensor) in (Tensor, nn.Buffer)
    small = plain and tensor.layout is torch.strided and tensor.numel() * tensor.element_size() <= SMALL
    return tensor.detach().clone() if small else tensor.detach()


class _Copier:
    """Copies a module tree. What is met twice is copied once, so that what was shared stays shared."""

    def __init__(self, tensor: TensorCopy, *, unwrap: bool = True) -> None:
        self._tensor, self._unwrap = tensor, unwrap
        self._copies: dict[int, Any] = {}
        self._alive: list[Any] = []  # so that no id is used again
        self._made: set[int] = set()
        self._left = HELD

    def made(self, value: Any) -> bool:
        """The value is a copy, not an original."""
        return id(value) in self._made

    def put(self, value: Any, new: Any) -> None:
        """Let this be the copy of a value."""
        self._keep(value, new)

    def module(self, module: nn.Module) -> nn.Module:
        known: nn.Module | None = self._copies.get(id(module))
        if known is not None:
            return known
        inside = wrapped_name(module) if self._unwrap else None
        if inside is not None:
            wrapped = Wrapped(inside, self.module(getattr(module, inside)))
            self._keep(module, wrapped)
            return wrapped
        if isinstance(module, torch.jit.ScriptModule):
            return self._keep(module, Scripted(module, self._tensor))  # type: ignore[no-any-return]
        new: nn.Module = object.__new__(type(module))
        self._keep(module, new)
        for name, value in _slots(module):
            object.__setattr__(new, name, self.value(value))
        for name, value in module.__dict__.items():
            new.__dict__[name] = self._entries(value) if name in ENTRIES else self.value(value)
        return new

    def value(self, value: Any) -> Any:
        """A copy of what a module holds."""
        if id(value) in self._copies:
            return self._copies[id(value)]
        if isinstance(value, Tensor):
            return self._keep(value, self._tensor(value))
        if isinstance(value, nn.Module):
            return self.module(value)
        if type(value) in CONTAINERS:
            return self._container(value)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self.value(value.__self__))
        if isinstance(value, functools.partial):
            given = {k: self.value(v) for k, v in value.keywords.items()}
            return functools.partial(self.value(value.func), *map(self.value, value.args), **given)
        return self._object(value) if may_be_copied(value) else value

    def _entries(self, given: dict[str, Any]) -> dict[str, Any]:
        return {name: self.value(entry) for name, entry in given.items()}

    def _container(self, value: Any) -> Any:
        if len(value) > min(LONG, self._left):
            return self._keep(value, OPAQUE.get(type(value), copy.copy)(value))
        self._left -= len(value)
        if isinstance(value, (tuple, frozenset)):
            return self._keep(value, type(value)(map(self.value, value)))
        new = self._keep(value, copy.copy(value))
        if isinstance(new, dict):
            new.update({k: self.value(v) for k, v in value.items()})
        elif isinstance(new, set):
            new.clear()
            new.update(map(self.value, value))
        else:
            for i, entry in enumerate(value):
                new[i] = self.value(entry)
        return new

    def _object(self, value: Any) -> Any:
        if len(value.__dict__) > self._left:
            return value
        self._left -= len(value.__dict__)
        try:
            new = copy.copy(value)
        except Exception:
            return value  # what cannot be copied is shared
        if new is value or getattr(new, "__dict__", None) is value.__dict__:
            return value
        self._keep(value, new)
        for name, entry in list(value.__dict__.items()):
            new.__dict__[name] = self.value(entry)
        return new

    def _keep(self, value: Any, new: Any) -> Any:
        self._copies[id(value)] = new
        self._made.add(id(new))
        self._alive.append((value, new))
        return new


ENTRIES = ("_parameters", "_buffers", "_modules")
"""Attributes whose entries are always looked into, however many they are."""


def _slots(module: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(module, name)) for name in _slotnames(type(module)) if hasattr(module, name))


def may_be_copied(value: Any) -> bool:
    """An object of some application's class.

    Copies of what the system or PyTorch made, or of what cleans up when it dies, may do harm.
    """
    kind = type(value)
    root = kind.__module__.partition(".")[0]
    if isinstance(value, type) or _is_function(value) or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    return root != "torch" and root not in sys.stdlib_module_names and not hasattr(kind, "__del__")


def _is_function(value: Any) -> bool:
    """A function: it may have a `__dict__`, but nothing of its own to copy."""
    return hasattr(value, "__code__") or hasattr(value, "__wrapped__")
