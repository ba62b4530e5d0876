"""Captured graphs, shared by all analyzers of a model for as long as the model lives."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Graph
from relprop.engine.graph.signature import signature_of
from relprop.engine.program.constants import OwnConstants, Weights

MOST = 64
"""Input signatures of one model that are kept; of more, those go that were used longest ago."""

Rewriting = Callable[[Graph], Graph]


@dataclass(eq=False)
class Shared:
    """A canonical graph, which nobody changes any more, and the values of its constant part."""

    graph: Graph
    weights: Mapping[bool, Weights]
    _constants: dict[bool, OwnConstants] = field(default_factory=dict)

    def constants(self, *, keep: bool) -> OwnConstants:
        """The same for every analyzer. `keep`: see `OwnConstants`."""
        if keep not in self._constants:
            self._constants[keep] = OwnConstants(self.graph, self.weights[keep], keep=keep)
        return self._constants[keep]


class Captures:
    """What was captured of one model."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, list[Shared]] = OrderedDict()
        self._weights = {keep: Weights() for keep in (True, False)}
        self._lock = threading.RLock()
        self._parameters: list[int] = []

    def find(
        self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], recipe: Hashable, rewrite: Rewriting
    ) -> Shared:
        """The canonical graph for some inputs, captured where there is none yet.

        Args:
            model: the model, and `args` and `kwargs` its inputs.
            args: positional inputs.
            kwargs: keyword inputs.
            recipe: what `rewrite` depends on.
            rewrite: a captured graph -> the canonical one.

        Raises:
            CaptureError, InputError: as `capture` does.
        """
        key, leaves = (recipe, signature_of(args, kwargs)), pytree.tree_leaves((list(args), dict(kwargs)))
        with self._lock:
            self._forget_if_replaced(model)
            known = self._known.setdefault(key, [])
            self._known.move_to_end(key)
            for shared in known:
                if shared.graph.serves(leaves):
                    return shared
            shared = Shared(rewrite(capture(model, args, kwargs)), self._weights)
            known.append(shared)
            if len(self._known) > MOST:
                self._known.popitem(last=False)
                self._clear_weights()
            return shared

    def _forget_if_replaced(self, model: nn.Module) -> None:
        """Captured graphs hold the parameters themselves: where others took their place, capture anew."""
        parameters = [id(t) for t in (*model.parameters(), *model.buffers())]
        if parameters != self._parameters:
            self._known.clear()
            self._clear_weights()
        self._parameters = parameters

    def _clear_weights(self) -> None:
        for weights in self._weights.values():
            weights.clear()


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
