"""Entries in tables of the whole process that can be taken back."""

from __future__ import annotations

from types import TracebackType
from typing import Any

_ENTERED: list[Registration] = []
"""Those that stand, in the order in which they were made."""

_NOTHING = object()


class Registration:
    """One entry. `remove()` takes it back, and so does the end of a `with` block.

    What stood there before stands there again, unless somebody has registered the same thing since. A model that was
    captured meanwhile keeps what it was captured with.
    """

    def __init__(self, table: dict[Any, Any], key: Any, row: Any) -> None:
        self._table, self._key = table, key
        self._before = table.get(key, _NOTHING)
        table[key] = row
        _ENTERED.append(self)

    def remove(self) -> None:
        """Take the entry back; a second time does nothing."""
        if self not in _ENTERED:
            return
        later = _ENTERED[_ENTERED.index(self) + 1 :]
        above = next((r for r in later if r._table is self._table and r._key == self._key), None)
        if above is not None:
            above._before = self._before
        elif self._before is _NOTHING:
            del self._table[self._key]
        else:
            self._table[self._key] = self._before
        _ENTERED.remove(self)

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Registration({getattr(self._key, '__name__', self._key)})"
