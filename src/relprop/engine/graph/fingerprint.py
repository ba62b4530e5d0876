"""What a model's program depends on besides values of tensors, read off the module tree at every call.

Modules, their classes and the classes' methods, hooks, attributes, parameters by identity. Values that forward makes
on the way, `training`, `requires_grad` and hooks of the backward pass are not part of it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from relprop.engine.graph.quantized import SWITCHES
from relprop.engine.graph.shadow import CONTAINERS, HELD, LONG, may_be_copied

PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size))
"""Types whose values stand for themselves."""

APART = frozenset(
    (
        *("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"),
        *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
        *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
        *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
        *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
    )
)
"""Attributes of every module that are read apart, or that the program does not depend on."""

TENSORS = ("_parameters", "_buffers")
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
EVERYWHERE = (torch.nn.modules.module._global_forward_hooks, torch.nn.modules.module._global_forward_pre_hooks)

Key = tuple[Any, ...]
"""An attribute: the number of what holds it, and its name."""


@dataclass(frozen=True)
class Fingerprint:
    """Equal where the same program is captured.

    Attributes:
        structure: modules, classes, hooks and parameters; any change may change the program.
        attributes: the rest by name, some of which change with every call and have no influence (counters, caches).
    """

    structure: tuple[Any, ...]
    attributes: Mapping[Key, Any]

    def changes(self, before: Fingerprint) -> frozenset[Key]:
        """The attributes that were set, changed or deleted."""
        now, then = self.attributes, before.attributes
        return frozenset(k for k in {**now, **then} if k not in now or k not in then or now[k] != then[k])


def fingerprint(model: nn.Module) -> Fingerprint:
    """That of a model as it is now. Costs microseconds per module, and holds nothing of the model alive."""
    walk = _Walk()
    walk.hooks(EVERYWHERE)
    walk.module(model)
    return Fingerprint(tuple(walk.structure), walk.attributes)


class _Numbers:
    """A number for each object, for as long as it lives; never given twice, as `id` is."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._next = 0

    def __call__(self, value: Any) -> Any:
        identity = id(value)
        known = self._known.get(identity)
        if known is not None and known[0]() is value:
            return known[1]
        self._next += 1
        number = self._next
        try:
            reference = weakref.ref(value, lambda gone: self._forget(identity, gone))
        except TypeError:  # nothing but its value is known of it
            return _by_value(value)
        self._known[identity] = reference, number
        return number

    def _forget(self, identity: int, gone: weakref.ref[Any]) -> None:
        if self._known.get(identity, (None,))[0] is gone:
            del self._known[identity]


number = _Numbers()


class _Walk:
    """One reading of a module tree; what is met twice is read once."""

    def __init__(self) -> None:
        self.structure: list[Any] = []
        self.attributes: dict[Key, Any] = {}
        self._met: set[int] = set()
        self._left = HELD

    def module(self, module: nn.Module) -> int:
        own: int = number(module)
        self.structure.append(own)
        if id(module) in self._met:
            return own
        self._met.add(id(module))
        self._class(type(module))
        held = module.__dict__
        if buffers := held.get("_buffers"):
            self.structure += [version(buffers[name]) for name in SWITCHES if name in buffers]
        for name in TENSORS:
            if tensors := held.get(name):
                self.structure += [(key, _described(tensor)) for key, tensor in tensors.items()]
        for name in HOOKS:
            if hooks := held.get(name):
                self.hooks([hooks])
        for name, value in held.items():
            if name not in APART:
                self.attributes[own, name] = value if type(value) in PLAIN else self.value(value)
        for name, child in (held.get("_modules") or {}).items():
            self.structure.append(name)
            if child is not None:
                self.module(child)
        return own

    def hooks(self, several: Iterable[Mapping[int, Any]]) -> None:
        for hooks in several:
            for key, hook in hooks.items():
                self.structure.append(key)
                self.attributes["hook", key] = self._callable(hook)

    def value(self, value: Any) -> Any:
        """Numbers and texts as they are, containers and objects by what they hold, anything else by identity."""
        kind = type(value)
        if kind in PLAIN:
            return value
        if isinstance(value, Tensor):
            return number(value), version(value)
        if id(value) in self._met:
            return number(value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if kind in CONTAINERS:
            return self._container(value)
        if isinstance(value, (FunctionType, MethodType, functools.partial)):
            return self._callable(value)
        if may_be_copied(value):
            return self._object(value)
        return number(value)

    def _container(self, value: Any) -> Any:
        if len(value) > min(LONG, self._left):
            return len(value)
        self._met.add(id(value))
        self._left -= len(value)
        if isinstance(value, dict):
            return tuple((self.value(k), self.value(v)) for k, v in value.items())
        return frozenset(map(self.value, value)) if isinstance(value, (set, frozenset)) else (*map(self.value, value),)

    def _object(self, value: Any) -> Any:
        own, held = number(value), value.__dict__
        self._met.add(id(value))
        if len(held) > self._left:
            return own
        self._left -= len(held)
        self._class(type(value))
        return own, tuple((name, self.value(entry)) for name, entry in list(held.items()))

    def _callable(self, value: Any) -> Any:
        """A function with what it reads from outside: variables around it, numbers and tensors of its file."""
        if isinstance(value, functools.partial):
            return tuple(map(self.value, (value.func, value.args, value.keywords)))
        if isinstance(value, MethodType):
            return self.value(value.__self__), self._callable(value.__func__)
        if not isinstance(value, FunctionType):
            return self.value(value)
        if id(value) in self._met:
            return number(value)
        self._met.add(id(value))
        around = [self.value(c.cell_contents) for c in value.__closure__ or () if _is_full(c)]
        defaults = self.value(value.__defaults__)
        return number(value), number(value.__code__), defaults, tuple(around), self._globals(value)

    def _globals(self, function: FunctionType) -> tuple[Any, ...]:
        known = function.__globals__
        read = (known[name] for name in function.__code__.co_names if name in known)
        return tuple(self.value(v) for v in read if type(v) in PLAIN or isinstance(v, Tensor))

    def _class(self, kind: type) -> None:
        own = number(kind)
        self.structure.append(own)
        if id(kind) in self._met:
            return
        self._met.add(id(kind))
        for base in kind.__mro__:
            if id(base) in self._met and base is not kind:
                continue
            self._met.add(id(base))
            if base.__module__.startswith("torch.") or base is object:
                self._own_forward(base)
                continue
            where = number(base)
            for name, value in base.__dict__.items():
                if isinstance(value, FunctionType):
                    self.attributes[where, name] = number(value.__code__), self._globals(value)
                elif not name.startswith("__"):
                    self.attributes[where, name] = value if type(value) in PLAIN else number(value)

    def _own_forward(self, base: type) -> None:
        forward = base.__dict__.get("forward")
        if isinstance(forward, FunctionType):
            self.structure.append(number(forward.__code__))


def version(tensor: Tensor) -> int:
    """How often autograd has seen it written to; 0 for tensors of the inference mode, which count nothing."""
    return 0 if tensor.is_inference() else tensor._version


def _described(tensor: Tensor | None) -> Any:
    if tensor is None or is_lazy(tensor):
        return tensor is None
    return number(tensor), tensor.dtype, tensor.shape


def _by_value(value: Any) -> Any:
    if isinstance(value, (CodeType, ModuleType)):
        return id(value)
    try:
        return type(value).__name__, hash(value)
    except TypeError:
        return type(value).__name__


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
