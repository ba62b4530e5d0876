"""The books of one explanation: for every operator what came in, what went on, and which sink kept the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from rich.console import Console
from rich.table import Table

from relprop.explanations.pages import rendered
from relprop.rules import Rule

MOST = 1e3
"""A growth in one operator that is reported."""
LEAST = 1e-3
"""A share of relevance, of which less is reported."""


ASKED = ("condition", "stopped")
"""Sinks that a user asked for."""


@dataclass(frozen=True)
class Entry:
    """One operator's account, summed over the batch.

    Attributes:
        name: the operator's name in the graph.
        operator: what it computes.
        module: path of its module.
        rule: the rule that it was treated by; of a ledger that was read from a file, how it is printed.
        received: relevance that came in.
        passed: relevance that went on to its inputs.
        sinks: relevance that it kept, by name: `bias`, `epsilon`, `softmax`, `constant`, `masked`, `module`, `rule`
            (what the coefficients of a rule of one's own do not share out), or the name of the parameter or embedding
            that a constant comes from.
        magnitude: sum of the magnitudes of what came in.
        passed_magnitude: sum of the magnitudes of what went on.
        merged: of a sum of data with data, such as a residual connection: the magnitudes of what was added, and of the
            sum; None of other operators.
    """

    name: str
    operator: str
    module: str
    rule: Rule | str
    received: float
    passed: float
    sinks: Mapping[str, float]
    magnitude: float
    passed_magnitude: float = 0.0
    merged: tuple[float, float] | None = None

    @property
    def growth(self) -> float:
        """`Σ|passed| / Σ|received|`: above 1 where shares of opposite signs cancel, the more the less they are."""
        return self.passed_magnitude / self.magnitude if self.magnitude else 0.0

    @property
    def cancellation(self) -> float | None:
        """`C = (Σ|z_in| + Σ|z_up|) / Σ|z_out|` of a sum of data with data: above 1 where they cancel; None elsewhere.

        The 0-rule makes relevance grow where C is large; the generalized γ-rule never by more than `1 + 2/γ`.
        """
        if self.merged is None:
            return None
        added, total = self.merged
        return added / total if total else inf if added else 1.0

    @property
    def imbalance(self) -> float:
        """`|received − passed − Σ sinks|` over the magnitudes that came in; infinite where one is no number."""
        missing = abs(self.received - self.passed - sum(self.sinks.values()))
        imbalance = missing / self.magnitude if self.magnitude else missing
        return imbalance if isfinite(imbalance) else inf  # a NaN would lose every comparison, and go unseen


@dataclass(frozen=True)
class Ledger(Sequence[Entry]):
    """All accounts, in the order in which relevance came by: from the output to the inputs."""

    entries: tuple[Entry, ...]
    output: float
    input: float

    @property
    def sinks(self) -> dict[str, float]:
        """What each kind of sink kept in the whole model."""
        totals: dict[str, float] = {}
        for entry in self.entries:
            for name, amount in entry.sinks.items():
                totals[name] = totals.get(name, 0.0) + amount
        return totals

    @property
    def imbalance(self) -> float:
        """The worst account's imbalance."""
        return max((entry.imbalance for entry in self.entries), default=0.0)

    @property
    def merges(self) -> tuple[Entry, ...]:
        """The sums of data with data: `growth` is A of ResLRP (2026), `cancellation` is C."""
        return tuple(entry for entry in self.entries if entry.merged is not None)

    @property
    def steepest(self) -> Entry:
        """The account in which relevance grew most."""
        return max(self.entries, key=lambda entry: entry.growth if isfinite(entry.growth) else inf)

    @property
    def heaviest(self) -> tuple[Entry, str]:
        """The account and its sink that kept most."""
        return max(
            ((entry, name) for entry in self.entries for name in entry.sinks),
            key=lambda place: abs(place[0].sinks[place[1]]),
        )

    @property
    def trouble(self) -> str:
        """What an explanation should not be trusted for; empty where nothing speaks against it.

        Relevance that has grown by more than `MOST` in one operator, has overflowed, or of which less than `LEAST`
        arrived.
        """
        entry = self.steepest if self.entries else None
        if entry is not None and not entry.growth < MOST:
            by = f"grew by a factor of {entry.growth:.3g}" if isfinite(entry.growth) else "overflowed"
            return (
                f"Relevance {by} at {_place(entry)}, under {entry.rule}: where contributions of opposite signs "
                "nearly cancel, shares are many times their sum. GeneralizedGammaRule, which EpsilonGammaFlat and "
                "ResLRP have, bounds that."
            )
        if self.entries and abs(self.input) < LEAST * abs(self.output) and self.sinks:
            entry, sink = self.heaviest
            if sink in ASKED:
                return ""
            share = abs(self.input / self.output)
            helps = (
                " bias='ignore' or bias='distribute' gives the share of biases to the inputs." if sink == "bias" else ""
            )
            return (
                f"Of relevance only {share:.2g} arrived: sinks kept the rest, most of it {sink} at {_place(entry)}, "
                f"under {entry.rule}. Heatmaps show what is left.{helps}"
            )
        return ""

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.entries[index]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def _repr_html_(self) -> str:
        return rendered("ledger.html", ledger=self, most=max((abs(v) for v in self.sinks.values()), default=0.0))

    def __str__(self) -> str:
        table = Table(box=None, pad_edge=False)
        for column in ("module", "operator", "rule", "received", "passed", "kept by sinks"):
            table.add_column(
                column, justify="left" if column in ("module", "operator", "rule") else "right", no_wrap=True
            )
        for e in self.entries:
            kept = ", ".join(f"{name} {amount:.3g}" for name, amount in e.sinks.items() if amount)
            table.add_row(e.module, e.operator, str(e.rule), f"{e.received:.4g}", f"{e.passed:.4g}", kept)
        console = Console(width=160, color_system=None)
        with console.capture() as capture:
            console.print(table)
        totals = ", ".join(f"{name} {amount:.4g}" for name, amount in self.sinks.items())
        return f"{capture.get()}output {self.output:.6g} = input {self.input:.6g} + sinks ({totals or 'none'})"


def _place(entry: Entry) -> str:
    return f"{entry.module} ({entry.operator})" if entry.module else entry.operator
