"""What a model returns: data classes, and names for the tensors in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils import _pytree as pytree


class Record:
    """A data class that PyTorch does not know, as a node of the output's tree. Unflattened it is that class again."""

    def __init__(self, kind: type, values: dict[str, Any]) -> None:
        self.kind, self.values = kind, values


def as_records(output: Any) -> Any:
    """The output with its data classes, at any depth, as `Record`s."""
    if _is_unknown_dataclass(output):
        fields = [f.name for f in dataclasses.fields(output) if hasattr(output, f.name)]
        return Record(type(output), {name: as_records(getattr(output, name)) for name in fields})
    if type(output) in (list, tuple):
        return type(output)(map(as_records, output))
    if type(output) is dict:
        return {key: as_records(value) for key, value in output.items()}
    return output


def leaf_names(spec: pytree.TreeSpec) -> list[str]:
    """Dotted names of the leaves, in order: `logits`, `hidden_states.0`; `""` for an output that is one tensor."""
    return [".".join(path) for path in _paths(spec)]


def _paths(spec: pytree.TreeSpec) -> Iterator[tuple[str, ...]]:
    children = spec.children() if callable(getattr(spec, "children", None)) else spec.children_specs
    if spec.is_leaf():
        yield ()
        return
    for key, child in zip(_keys(spec, len(children)), children, strict=True):
        for path in _paths(child):
            yield (key, *path)


def _keys(spec: pytree.TreeSpec, count: int) -> Sequence[str]:
    context: Any = spec.context
    if isinstance(context, type):  # a named tuple
        context = getattr(context, "_fields", None)
    elif spec.type is Record:
        context = context[1]
    if isinstance(context, (list, tuple)) and len(context) == count:
        return [str(key) for key in context]
    return [str(i) for i in range(count)]


def _is_unknown_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and type(value) not in pytree.SUPPORTED_NODES


def _flatten(record: Record) -> tuple[list[Any], Any]:
    return list(record.values.values()), (record.kind, tuple(record.values))


def _unflatten(values: Any, context: Any) -> Any:
    kind, names = context
    new = object.__new__(kind)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(new, name, value)
    return new


pytree.register_pytree_node(Record, _flatten, _unflatten, serialized_type_name="relprop.Record")
