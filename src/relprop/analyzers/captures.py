"""Captured graphs, shared by all analyzers of a model for as long as the model lives, and as long as they fit it."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from relprop.analyzers.waiting import announced
from relprop.engine.graph.capture import capture, departs
from relprop.engine.graph.fingerprint import Fingerprint, Key, fingerprint
from relprop.engine.graph.graph import Graph
from relprop.engine.graph.signature import signature_of
from relprop.engine.program.constants import OwnConstants, Weights
from relprop.engine.program.sample import Sums

MOST = 64
"""Input signatures of one model that are kept; of more, those go that were used longest ago."""

Rewriting = Callable[[Graph], Graph]


@dataclass(eq=False)
class Shared:
    """A canonical graph, which nobody changes any more, and the values of its constant part.

    Attributes:
        lock: for what is made of it, once for all threads.
    """

    graph: Graph
    weights: Mapping[bool, Weights]
    lock: Any = field(default_factory=threading.RLock)
    _constants: dict[bool, OwnConstants] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph.settle()

    def constants(self, *, keep: bool) -> OwnConstants:
        """The same for every analyzer. `keep`: see `OwnConstants`."""
        with self.lock:
            if keep not in self._constants:
                self._constants[keep] = OwnConstants(self.graph, self.weights[keep], keep=keep)
            return self._constants[keep]


@dataclass(eq=False)
class Capture:
    """A program as it was captured, and the canonical graphs that were made of it.

    Attributes:
        graph: what the model's own output is compared with.
        seen: the model when the program was last known to be its program.
        canonical: by recipe.
        calls: how many explanations it has served so far.
    """

    graph: Graph
    seen: Fingerprint
    canonical: OrderedDict[Hashable, Shared] = field(default_factory=OrderedDict)
    calls: int = 0

    def __post_init__(self) -> None:
        self.graph.settle()

    @property
    def due(self) -> bool:
        """To be compared with the model now: at calls 2, 4, 8, 16 and so on."""
        return bool(self.calls) and not self.calls & (self.calls + 1)

    def shared(self, recipe: Hashable, rewrite: Rewriting, weights: Mapping[bool, Weights]) -> Shared:
        """The canonical graph by a recipe, made where there is none yet."""
        if recipe not in self.canonical:
            copy = self.graph.copy()
            self.canonical[recipe] = Shared(rewrite(replace(copy, tensors=dict(copy.tensors))), weights)
            _bounded(self.canonical)
        self.canonical.move_to_end(recipe)
        return self.canonical[recipe]


@dataclass(eq=False)
class Known:
    """What was captured for one input signature, and whose turn it is to look there, capture or rewrite."""

    captures: list[Capture] = field(default_factory=list)
    turn: Any = field(default_factory=threading.RLock)


class Captures:
    """What was captured of one model.

    The model is looked at in every call (`fingerprint`). Where modules, hooks or parameters differ, it is captured
    anew. So it is where an attribute differs, for the first time; if the program is the same then, the attribute is one
    without influence, such as a counter or a kept activation, and from then on the model's own output tells, in one
    forward pass, whether the program still fits. What no look shows, such as a number in a file or in a NumPy array,
    the same comparison finds at calls 2, 4, 8, 16 and so on.

    Threads whose first calls have the same signature share one capture: all but one wait for it. Calls of other
    signatures go on meanwhile.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Known] = OrderedDict()
        self._weights = {keep: Weights() for keep in (True, False)}
        self._lock = threading.RLock()
        self._now: Fingerprint | None = None
        self._idle: frozenset[Key] = frozenset()
        self._sums = Sums()

    def find(
        self,
        model: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        recipe: Hashable,
        rewrite: Rewriting,
        *,
        explains: bool = True,
    ) -> Shared:
        """The canonical graph for some inputs, captured where there is none yet, or none that fits any more.

        Args:
            model: the model, and `args` and `kwargs` its inputs.
            args: positional inputs.
            kwargs: keyword inputs.
            recipe: what `rewrite` depends on.
            rewrite: a captured graph -> the canonical one.
            explains: an explanation follows, which counts as a call; a table or a program to be written does not.

        Raises:
            CaptureError, InputError: as `capture` does.
        """
        key, leaves = signature_of(args, kwargs)
        with self._turn(model, key) as (now, known):
            found = next((c for c in known if c.graph.serves(leaves)), None)
            kept = found if found is not None and self._fits(found, now, model, args, kwargs, explains) else None
            if kept is None:
                with announced(f"Reading the program of {type(model).__name__}: once for inputs like these."):
                    captured = Capture(capture(model, args, kwargs), now)
                    _give_back()
                kept = self._kept(known, found, captured, model)
            kept.calls += explains
            return kept.shared(recipe, rewrite, self._weights)

    @contextmanager
    def _turn(self, model: nn.Module, key: Hashable) -> Iterator[tuple[Fingerprint, list[Capture]]]:
        """One thread at a time for each signature: the model as it is then, and what was captured of it.

        Only the tables have one lock for all signatures. It is never held while the model runs or is captured.
        """
        while True:
            with self._lock:
                now, known = self._look(model), self._known.setdefault(key, Known())
                self._known.move_to_end(key)
            waited = not known.turn.acquire(blocking=False)
            if waited:
                known.turn.acquire()
            try:
                with self._lock:
                    now = self._look(model) if waited else now  # a capture runs forward, which may leave traces
                    current = self._known.get(key) is known
                if current:
                    yield now, known.captures
                    return
            finally:
                known.turn.release()

    def holds(self, model: nn.Module, shared: Shared) -> bool:
        """Whether a canonical graph is still one of the model's, as far as its modules and parameters tell."""
        with self._lock:
            self._look(model)
            return any(
                s is shared for known in self._known.values() for c in known.captures for s in c.canonical.values()
            )

    def _look(self, model: nn.Module) -> Fingerprint:
        """The model as it is now, the same object as long as it is equal."""
        now = fingerprint(model)
        if self._now is None or now.structure != self._now.structure:
            self._known.clear()
            self._clear_weights()
        elif now.attributes == self._now.attributes:
            return self._now
        self._now = now
        return now

    def _fits(
        self,
        found: Capture,
        now: Fingerprint,
        model: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        explains: bool,
    ) -> bool:
        """Whether a program is still the model's, as far as can be told without capturing it."""
        differs = found.graph.is_stale or (now is not found.seen and not now.changes(found.seen) <= self._idle)
        if differs or not ((found.due and explains) or now is not found.seen):
            return not differs
        with self._lock:
            self._reread(found.graph)
        if departs(found.graph, model, args, kwargs):
            return False
        with self._lock:
            found.seen = self._look(model)
        return True

    def _kept(self, known: list[Capture], old: Capture | None, new: Capture, model: nn.Module) -> Capture:
        """A new capture among those of its signature, or the old one if it is the same."""
        with self._lock:
            self._reread(new.graph)
            kept = self._replaced(known, old, new)
            kept.seen = self._look(model)  # forward may have changed what hooks hold on to
            if _bounded(self._known):
                self._clear_weights()
        return kept

    def _replaced(self, known: list[Capture], old: Capture | None, new: Capture) -> Capture:
        """The new program in the place of the old one, which stays if it is the same."""
        if old is None:
            known.append(new)
            return new
        if _same(old.graph, new.graph):
            self._idle |= new.seen.changes(old.seen)
            return old
        known[known.index(old)] = new
        self._clear_weights()
        return new

    def _reread(self, graph: Graph) -> None:
        """Make anew what was made of parameters that have changed though their version has not."""
        if self._sums.differ(graph.tensors.values()):
            self._clear_weights()

    def _clear_weights(self) -> None:
        for weights in self._weights.values():
            weights.clear()


def _give_back() -> None:
    """Return to the system what a capture has freed, where there is glibc.

    What is kept of it lies between, so that glibc alone gives nothing back: each new size of pictures might cost as
    much again as the largest weight.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _bounded(known: OrderedDict[Hashable, Any]) -> bool:
    """Forget what was used longest ago; whether there was too much."""
    full = len(known) > MOST
    if full:
        known.popitem(last=False)
    return full


def _same(old: Graph, new: Graph) -> bool:
    """The same operators on the same tensors."""
    if str(old.fx) != str(new.fx) or old.tensors.keys() != new.tensors.keys():
        return False
    return all(a is b or _equal(a, b) for a, b in zip(old.tensors.values(), new.tensors.values(), strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    """Constants of no name that forward makes are new tensors in each capture."""
    plain = not isinstance(a, nn.Parameter) and a.dtype == b.dtype and a.device == b.device
    return plain and torch.equal(a, b)


_OF_MODELS: dict[int, tuple[weakref.ref[nn.Module], Captures]] = {}
_LOCK = threading.Lock()


def captures_of(model: nn.Module) -> Captures:
    """Those of a model, which is held weakly."""
    with _LOCK:
        known = _OF_MODELS.get(id(model))
        if known is None or known[0]() is not model:
            identity = id(model)

            def forget(reference: weakref.ref[nn.Module]) -> None:
                if _OF_MODELS.get(identity, (None,))[0] is reference:
                    del _OF_MODELS[identity]

            known = _OF_MODELS[identity] = weakref.ref(model, forget), Captures()
        return known[1]
