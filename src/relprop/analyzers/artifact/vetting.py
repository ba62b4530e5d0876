"""A program in an artifact, read as data before PyTorch sees it: operators on tensors, names and sizes, nothing else.

PyTorch builds Python from a program's file: its names become the code of a function, its expressions are evaluated, its
operators are looked up by name in the module `torch`, and containers may name any class. What is let through here
is what `LRP.export` writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch._ops import OpOverload, _OpNamespace

from relprop.analyzers.artifact.expressions import check_guard, check_size
from relprop.errors import ArtifactError

DEEPEST = 100  # containers within containers

NAMESPACES = ("aten", "prims", "torchvision")
"""Of operators that belong to PyTorch and torchvision, and work on tensors."""

OUTSIDE = ("from_file", "save", "_print", "warn", "set_data")  # operators of aten that touch more than their tensors

_OPERATOR = re.compile(r"torch\.ops\.([A-Za-z]\w*)\.(_*[A-Za-z]\w*)\.([A-Za-z]\w*)", re.ASCII)
_NUMBERS = frozenset({
    "_operator.eq", "_operator.ne", "_operator.le", "_operator.ge", "_operator.lt", "_operator.gt", "_operator.neg",
    "_operator.pos", "_operator.mul", "_operator.add", "_operator.sub", "_operator.floordiv", "_operator.mod",
    "_operator.pow", "_operator.truediv", "_operator.and_", "_operator.or_", "_operator.lshift", "_operator.rshift",
    "_operator.getitem", "math.trunc", "math.ceil", "math.floor", "torch.sym_not", "torch.sym_int",
    "torch.sym_float", "torch.sym_ite", "torch.sym_max", "torch.sym_min", "torch.sym_sqrt", "torch._sym_sqrt",
})  # fmt: skip
_NAME = re.compile(r"([A-Za-z_]\w*)?", re.ASCII)
_PATH = re.compile(r"([A-Za-z_]\w*(\.\w+)*)?", re.ASCII)
_WORD = re.compile(r"[\w.+:\- ]{0,200}", re.ASCII)
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None)

_PATHS = ("fqn", "buffer_name", "parameter_name", "tensor_constant_name", "user_input_name", "path_name")
_BY_NAME = ("tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values", "range_constraints", "config")
_DROPPED = ("metadata", "treespec_namedtuple_fields")  # where lines came from; PyTorch runs programs without them
_REFUSED = (
    "as_graph", "as_custom_obj", "as_operator", "custom_obj", "custom_obj_values", "token", "as_string_to_argument",
    "as_opaque_obj",
)  # fmt: skip


def vetted(content: bytes, what: str, operators: Collection[str] = ()) -> bytes:
    """The same JSON without what PyTorch does not need, if it holds nothing but what an artifact of relprop holds.

    Args:
        what: which part of the file it is, for the error.
        operators: further namespaces of operators to allow, which the caller has registered.

    Raises:
        ArtifactError: says what else is in it.
    """
    try:
        value = json.loads(content.decode("utf-8"))
        return json.dumps(_Vetting(operators).value("", value, 0)).encode()
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"its {what} cannot be read: {error}") from error


class _Vetting:
    """Goes through JSON, each value by the name that it stands under."""

    def __init__(self, operators: Collection[str]) -> None:
        self.namespaces = (*NAMESPACES, *operators)
        self.texts: dict[str, Callable[[object], None]] = {
            "target": self._operator,
            "expr_str": check_size,
            "in_spec": _check_inputs,
            "out_spec": _check_outputs,
            **dict.fromkeys(("name", "as_name", "forward_arg_names"), _check_name),
            **dict.fromkeys(_PATHS, _check_path),
            "guards_code": check_guard,
        }

    def value(self, key: str, value: Any, depth: int) -> Any:
        if depth > DEEPEST:
            raise ArtifactError("it nests containers too deeply")
        if isinstance(value, dict):
            return self._dict(key, value, depth)
        if isinstance(value, list):
            return [self.value(key, part, depth + 1) for part in value]
        if key == "as_string" and isinstance(value, str):
            return _without_quotes(value)
        if key in self.texts and value is not None:
            self.texts[key](value)
        elif isinstance(value, str) and not _WORD.fullmatch(value):
            raise ArtifactError(f"it holds the text {value[:60]!r} as {key or 'a value'}, which no program has")
        return value

    def _dict(self, key: str, value: dict[str, Any], depth: int) -> dict[str, Any]:
        if key in _BY_NAME:
            for name in value:
                _check_path(name)
            return {name: self.value("", part, depth + 1) for name, part in value.items()}
        for bound in ("min_val", "max_val"):
            if not isinstance(value.get(bound), (int, type(None))):
                raise ArtifactError(f"it bounds a size by {str(value[bound])[:60]!r}")
        vetted: dict[str, Any] = {}
        for name, part in value.items():
            if name in _REFUSED and part not in ({}, [], None):
                raise ArtifactError(f"it holds objects of other classes ({name}), which are read by running code")
            if name == "use_pickle" and part is not False:
                raise ArtifactError("it holds pickled objects, which are read by running code")
            if not _WORD.fullmatch(name):
                raise ArtifactError(f"it holds {name[:60]!r}, which no program has")
            vetted[name] = {} if name in _DROPPED else self.value(name, part, depth + 1)
        return vetted

    def _operator(self, target: object) -> None:
        if target in _NUMBERS:
            return
        found = _OPERATOR.fullmatch(target) if isinstance(target, str) else None
        if not found or found[1] not in self.namespaces or found[2] in OUTSIDE:
            hint = f"; load(..., operators=({found[1]!r},)) trusts it" if found and found[2] not in OUTSIDE else ""
            raise ArtifactError(f"it calls {str(target)[:80]!r}, which is no operator of PyTorch on tensors{hint}")
        namespace = getattr(torch.ops, found[1])
        operator = getattr(getattr(namespace, found[2], None), found[3], None)
        if not isinstance(namespace, _OpNamespace) or not isinstance(operator, OpOverload):
            raise ArtifactError(f"it calls {found[0]}, which this PyTorch, {torch.__version__}, does not have")


def _check_name(name: object, form: re.Pattern[str] = _NAME) -> None:
    if not isinstance(name, str) or not form.fullmatch(name):
        raise ArtifactError(f"it holds the name {str(name)[:60]!r}, which is none that PyTorch gives")


def _check_path(name: object) -> None:
    _check_name(name, _PATH)


def _without_quotes(text: str) -> str:
    """A text for an operator, or the message of a check: nothing in it can end a string in Python."""
    return "".join(c if c.isprintable() and c not in "'\"\\" else " " for c in text)


def _check_inputs(text: object) -> None:
    """How inputs are packed; those by keyword become names in a function's code."""
    spec = _check_outputs(text)
    parts = spec["children_spec"]
    keywords = parts[1].get("context") if len(parts) == 2 else None
    for key in json.loads(keywords) if isinstance(keywords, str) else keywords or ():
        _check_name(key)


def _check_outputs(text: object) -> Any:
    """How outputs are packed: in tuples, lists and dicts with plain keys."""
    spec = json.loads(text) if isinstance(text, str) else None
    if not isinstance(spec, list) or len(spec) != 2 or not isinstance(spec[0], int):
        raise ArtifactError("it packs inputs and outputs in an unknown way")
    _check_container(spec[1], 0)
    return spec[1]


def _check_container(spec: Any, depth: int) -> None:
    if depth > DEEPEST or not isinstance(spec, dict) or not isinstance(spec.get("children_spec"), list):
        raise ArtifactError("it packs inputs and outputs in an unknown way")
    if spec.get("type") not in _CONTAINERS:
        raise ArtifactError(f"it packs inputs or outputs in {str(spec.get('type'))[:60]!r}, not in plain containers")
    context = spec.get("context")
    keys = json.loads(context) if isinstance(context, str) else context
    if keys is not None and not (isinstance(keys, list) and all(isinstance(key, (str, int)) for key in keys)):
        raise ArtifactError("it packs inputs or outputs under keys that are no plain ones")
    for part in spec["children_spec"]:
        _check_container(part, depth + 1)
