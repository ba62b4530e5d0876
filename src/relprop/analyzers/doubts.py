"""Relevance that has exploded or vanished is not handed over in silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from relprop.errors import RelpropError, warn
from relprop.explanations.ledger import LEAST, MOST
from relprop.explanations.origin import target_of

if TYPE_CHECKING:
    from relprop.explanations.explanation import Explanation
    from relprop.targets import Normalize


UNKNOWN = (
    "What arrived at the inputs is far from what is explained, or not finite. A call with audit=True finds the layer, "
    "and its ledger.trouble says what helps."
)


@dataclass
class Doubts:
    """What one analyzer has looked at, and said.

    A look costs two sums over the inputs, and on a GPU a synchronisation: calls 1, 2, 4, 8 and so on get one. Where it
    finds something, one sample is explained again with an audit, which finds the layer. What is said is said once.
    """

    calls: int = 0
    told: bool = False

    def look(self, found: Explanation, normalize: Normalize, *, audits: bool = True) -> None:
        """Look at an explanation of the whole output, whose ledger, if it has one, speaks for itself.

        Args:
            found: the explanation.
            normalize: as the analyzer has it.
            audits: False where memory is short, which an audit takes: then it is left to the user.
        """
        if self.told:
            return
        if found.ledger is not None:
            self._tell(found.ledger.trouble)
            return
        self.calls += 1
        sample = None if self.calls & (self.calls - 1) else doubtful(found, normalize)
        if sample is not None and not audits:
            self._tell(UNKNOWN)
        elif sample is not None and found.origin is not None:
            self.told = True  # the audited call does not speak
            try:
                target = target_of(found, found.origin, sample)
                ledger = found.origin.ask(target, sample, audit=True).ledger
                trouble = "" if ledger is None else ledger.trouble
            except (RelpropError, RuntimeError):  # a model that takes no single sample, or memory that is full
                trouble = ""
            self.told = False
            self._tell(trouble)

    def _tell(self, trouble: str) -> None:
        if trouble:
            self.told = True
            warn(trouble)


def doubtful(found: Explanation, normalize: Normalize) -> int | None:
    """The sample whose relevance at the inputs is furthest from what is explained; None where all is well.

    Its magnitude is not finite or more than `MOST` times, or its sum less than `LEAST` of what relevance started with.
    """
    arrived, amount = list(found.by_input.values()), found.amount
    if amount is None or any(r.is_meta or len(r) != len(amount) for r in arrived):
        return None
    started = (amount != 0).double() if normalize else amount.detach().double().abs()
    rows = [r.detach().reshape(len(r), -1).double() for r in arrived]
    total = torch.stack([r.sum(1) for r in rows]).sum(0)
    magnitude = torch.stack([r.abs().sum(1) for r in rows]).sum(0)
    bad = ~(magnitude <= MOST * started) | (total.abs() < LEAST * started)
    return int(bad.double().argmax()) if bool(bad.any()) else None
