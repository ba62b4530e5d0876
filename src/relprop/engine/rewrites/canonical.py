"""What a captured model goes through before rules are assigned: what is necessary, then what the user chose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from relprop.engine.graph.graph import Graph
from relprop.engine.ops.analysis import analyze, remove_dead
from relprop.engine.rewrites.batch_norm import FuseBatchNorm
from relprop.engine.rewrites.constants import hold_estimates
from relprop.engine.rewrites.elementwise import lift_elementwise
from relprop.engine.rewrites.lowering import lower
from relprop.engine.rewrites.rewriting import Rewrite
from relprop.engine.rewrites.scans import HoldSelections
from relprop.errors import InputError

Canonize = bool | Literal["thresholds"] | Sequence[Rewrite]
"""Rewrites in order, or a word for some of them, see `WORDS`."""

WORDS: dict[Any, tuple[Rewrite, ...]] = {
    True: (HoldSelections(), FuseBatchNorm()),
    "thresholds": (HoldSelections(), FuseBatchNorm(thresholds=True)),
    False: (),
}
ANALYZED = (FuseBatchNorm, HoldSelections)
"""Rewrites that leave a graph analyzed, and without operators that nobody reads."""

FORMS = "Give True, False, 'thresholds', or a tuple of rewrites such as (HoldSelections(), FuseBatchNorm())."


def as_rewrites(canonize: Any) -> tuple[Rewrite, ...]:
    """The rewrites that an argument `canonize` means; it comes from users, so it may be anything.

    Raises:
        InputError: it is no form of it.

    Examples:
        >>> from relprop.engine.rewrites import as_rewrites
        >>> as_rewrites("thresholds")
        (HoldSelections(), FuseBatchNorm(thresholds=True))
    """
    if isinstance(canonize, (bool, str)):
        if canonize not in WORDS:
            raise InputError(f"canonize={canonize!r} is no word for rewrites. {FORMS}")
        return WORDS[canonize]
    if not isinstance(canonize, Iterable):
        hint = f"In a tuple: canonize=({canonize!r},)." if _is_rewrite(canonize) else FORMS
        raise InputError(f"canonize={canonize!r} is no tuple of rewrites. {hint}")
    rewrites = tuple(canonize)
    for rewrite in rewrites:
        if isinstance(rewrite, type):
            raise InputError(f"canonize: {rewrite.__name__} is a class; give one of its values: {rewrite.__name__}().")
        if not _is_rewrite(rewrite):
            raise InputError(f"canonize: {rewrite!r} is no rewrite, a value that is called with a graph. {FORMS}")
    return rewrites


def _is_rewrite(value: Any) -> bool:
    return isinstance(value, Rewrite) and not isinstance(value, type)


def canonical(graph: Graph, rewrites: Sequence[Rewrite] = WORDS[True]) -> Graph:
    """Lower operators to relprop's own few and lift spelled-out activations, then apply the rewrites in their order.

    Raises:
        InputError: a rewrite returns no graph.
    """
    graph = lift_elementwise(hold_estimates(lower(graph)))
    for rewrite in rewrites:
        rewritten = rewrite(graph)
        if not isinstance(rewritten, Graph):
            raise InputError(f"canonize: {rewrite!r} returned {rewritten!r}; let it return the graph to go on with.")
        graph = rewritten if type(rewrite) in ANALYZED else analyze(remove_dead(rewritten))
    return graph
