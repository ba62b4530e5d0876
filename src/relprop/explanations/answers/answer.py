"""A language model's answer, explained token by token."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.errors import InputError
from relprop.explanations.answers.hops import Hops, check_hops, led_back
from relprop.explanations.answers.page import Shown, framed, page
from relprop.explanations.answers.units import Spans, Unit, merged, summed, units_of
from relprop.explanations.files import replacing
from relprop.explanations.pairs import matrix_of_words
from relprop.explanations.shown import one_line
from relprop.explanations.text import ExplainedText, Piece
from relprop.explanations.text.names import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL = 14
COLUMNS = ("explained", "probability", "entropy")


@dataclass(frozen=True)
class ExplainedAnswer:
    """Relevance of every token of prompt and answer for every token of the answer.

    Attributes:
        prompt: tokens of the prompt, P of them.
        answer: tokens of the answer, A of them.
        relevance: (A, P + A), in units of the logit; 0 from the token itself on, which the model had not seen.
        explained: the amount of each row, (A,): the token's logit, or its difference to the contrast's.
        probability: of each token of the answer, (A,).
        entropy: of the distribution that each token was taken from, in nats, (A,).
        pieces: how the tokens of both are written, and which are special, P + A of them.
        against: for each token of the answer what it was explained against, or None.
        ids: of the tokens of both in the vocabulary; none for units of several tokens.
        translated: an encoder-decoder answered: the prompt's last token is the one that its decoder starts with.
        positions: (A, P + A), what the positions of the tokens have, beside the tokens; None unless it was asked for.
    """

    prompt: list[str]
    answer: list[str]
    relevance: Float[Tensor, "A T"]
    explained: Float[Tensor, " A"]
    probability: Float[Tensor, " A"]
    entropy: Float[Tensor, " A"]
    pieces: tuple[Piece, ...] = ()
    against: tuple[str | None, ...] = ()
    ids: tuple[int, ...] = ()
    translated: bool = False
    positions: Float[Tensor, "A T"] | None = None

    def __post_init__(self) -> None:
        if not self.pieces:
            object.__setattr__(self, "pieces", tuple(Piece(token, token) for token in self.tokens))
        if not self.against:
            object.__setattr__(self, "against", (None,) * len(self.answer))

    @property
    def tokens(self) -> list[str]:
        """Those of the prompt, and those of the answer."""
        return [*self.prompt, *self.answer]

    @property
    def source(self) -> list[str]:
        """The prompt, without the token that an encoder-decoder's decoder starts with."""
        return self.prompt[:-1] if self.translated else self.prompt

    @property
    def kept(self) -> Float[Tensor, " A"]:
        """What of the amounts no token has, (A,): biases, norms and positions kept it."""
        return self.explained - self.relevance.sum(1).to(self.explained)

    def span(self, start: int = 0, stop: int | None = None) -> Float[Tensor, " T"]:
        """Relevance for several tokens of the answer together, the sum of their rows; that of the whole by default.

        Args:
            start: the first of them.
            stop: the one behind the last.

        Raises:
            InputError: there is no such token.
        """
        rows = self.relevance[start:stop]
        if not len(rows):
            last = len(self.answer) - 1
            raise InputError(f"span({start}, {stop}): the answer has {last + 1} tokens, 0 to {last}.")
        return rows.sum(0)

    def by(self, unit: Unit | Spans) -> ExplainedAnswer:
        """The same of words, sentences or spans: relevance, amounts and entropies of their tokens add up.

        Rows of a word have relevance on its own tokens before the last. Special tokens stay apart.

        Args:
            unit: "words", "sentences", or spans (start, stop) of prompt and answer, outside of which tokens stay alone.

        Raises:
            InputError: there is no such unit, or spans overlap, are empty, or reach from the prompt into the answer.
        """
        units = units_of(self.pieces, len(self.prompt), unit)
        rows = answers_units(units, len(self.prompt))
        return self.grouped(units, summed(self.relevance.T, rows).T)

    def grouped(self, units: Spans, rows: Float[Tensor, "G T"]) -> ExplainedAnswer:
        """The same of units, whose rows are known.

        Args:
            units: where each starts and stops, as `units_of` says.
            rows: relevance of the tokens for each unit of the answer.
        """
        P = len(self.prompt)
        of_answer = answers_units(units, P)
        pieces = merged(self.pieces, units)
        names = [written(piece) for piece in pieces]
        head = len(units) - len(of_answer)
        others = [[o for o in self.against[a:b] if o is not None] for a, b in of_answer]
        return replace(
            self,
            prompt=names[:head],
            answer=names[head:],
            relevance=summed(rows, units),
            explained=summed(self.explained, of_answer),
            probability=torch.stack([self.probability[a:b].prod() for a, b in of_answer]),
            entropy=summed(self.entropy, of_answer),
            pieces=tuple(pieces),
            against=tuple("".join(each) or None for each in others),
            ids=self.ids if len(units) == len(self.tokens) else (),
            positions=None if self.positions is None else summed(self._rows_of_positions(of_answer), units),
        )

    def _rows_of_positions(self, of_answer: Spans) -> Float[Tensor, "G T"]:
        assert self.positions is not None
        alike = len(self.positions) == len(of_answer)  # asked for units, there is one row for each already
        return self.positions if alike else summed(self.positions.T, of_answer).T

    def hops(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        through: tuple[int, int] | None = None,
        hops: int | None = None,
        signed: bool = False,
    ) -> Hops:
        """What of the relevance on the answer's own tokens leads back to the prompt.

        A token that the model has said before is no last reason: it was said for reasons, too. Its relevance goes on to
        those in proportion to its own row, and so on; nothing is lost and nothing comes to it.

        Args:
            start: the first token that is explained; the answer's last part, say, behind its reasoning.
            stop: the one behind the last.
            through: tokens of the answer, (start, stop), that hand on; others keep what they get. None: all of them.
            hops: how often; None: until everything has arrived.
            signed: share by relevance with its signs, not by its positive part. Exact, and large where signs cancel.

        Raises:
            InputError: there is no such token, or hops are fewer than none.
        """
        check_hops(hops)
        A = len(self.answer)
        first, last = (0, A) if through is None else through
        if not 0 <= first < last <= A:
            raise InputError(f"through=({first}, {last}): the answer has {A} tokens, 0 to {A - 1}.")
        handing = (torch.arange(A) >= first) & (torch.arange(A) < last)
        handing = handing.to(self.relevance.device)
        found, left = led_back(self.relevance, self.span(start, stop), handing, hops, signed)
        return Hops(self.prompt, self.answer, found, left)

    def top(self, token: int, n: int = 5, *, special: bool = False) -> list[tuple[str, float]]:
        """The n tokens with the most relevance for one token of the answer.

        Args:
            token: which, from the end if negative.
            n: how many.
            special: special tokens, such as that of the start, too.
        """
        row, words = self.relevance[token], self.tokens
        seen = len(self.prompt) + range(len(self.answer))[token]
        order = row.argsort(descending=True, stable=True).tolist()
        order = [i for i in order if i < seen or (i == seen and row[i])]
        named = [i for i in order if special or not self.pieces[i].special]
        return [(words[i], float(row[i])) for i in named[:n]]

    def text(self, start: int = 0, stop: int | None = None) -> ExplainedText:
        """Prompt and answer, coloured by the relevance for some tokens of the answer.

        Args:
            start: the first of them.
            stop: the one behind the last.

        Raises:
            InputError: there is no such token, or relevance is not finite.
        """
        row = self.span(start, stop).double().tolist()
        return ExplainedText(self.pieces, tuple(row), "".join(self.answer[start:stop]).strip())

    def plot(self) -> Figure:
        """The matrix: a row for each token of the answer, a column for each token that it may come from.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        names = [_short(name) for name in self.tokens]
        return matrix_of_words(self.relevance, names[len(self.prompt) :], names, "relevance for the logit")

    def shown(self, title: str = "", notes: tuple[str, ...] = ()) -> Shown:
        """What a page shows of it.

        Args:
            title: above it; the answer by default.
            notes: lines below it.
        """
        P = len(self.prompt)
        units = {"words": units_of(self.pieces, P, "words"), "sentences": units_of(self.pieces, P, "sentences")}
        return Shown(
            title=title or "".join(self.answer).strip(),
            pieces=self.pieces,
            prompt=P,
            relevance=self.relevance.double().tolist(),
            explained=self.explained.double().tolist(),
            probability=self.probability.double().tolist(),
            entropy=self.entropy.double().tolist(),
            against=self.against,
            units=units,
            notes=notes,
        )

    def html(self, path: str | Path | None = None, title: str = "") -> str:
        """A page for the browser, in one file: tokens of the answer light up those that they come from.

        Args:
            path: where to write it; None: nowhere.
            title: of the page.

        Raises:
            RelpropError: the file cannot be written. InputError: relevance is not finite.
        """
        text = page([self.shown()], title or "Why this answer?")
        if path is not None:
            with replacing(Path(path)) as temporary:
                temporary.write_text(text, "utf-8")
        return text

    def save(self, path: str | Path) -> None:
        """Write it to a file, by its ending: `.html` is the page, `.json` what `load` reads.

        Args:
            path: where to.

        Raises:
            InputError: the ending is another one. RelpropError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix == ".html":
            self.html(path)
        elif path.suffix == ".json":
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(self.record(), ensure_ascii=False) + "\n", "utf-8")
        else:
            raise InputError(f"{path}: an answer is saved as .html or .json.")

    def record(self) -> dict[str, Any]:
        """Everything in lists and dicts, for JSON."""
        P = len(self.prompt)
        tokens = [{"token": p.token, "before": p.before, "text": p.text, "special": p.special} for p in self.pieces]
        steps = zip(self.explained, self.probability, self.entropy, self.against, strict=True)
        return {
            "prompt": tokens[:P],
            "answer": tokens[P:],
            "steps": [
                {"explained": float(e), "probability": float(p), "entropy": float(h), "against": a}
                for e, p, h, a in steps
            ],
            "relevance": self.relevance.double().tolist(),
            "positions": None if self.positions is None else self.positions.double().tolist(),
            "ids": list(self.ids),
            "translated": self.translated,
        }

    @classmethod
    def load(cls, path: str | Path) -> ExplainedAnswer:
        """Read what `save` wrote to a .json file; numbers are float64.

        Args:
            path: of the file.

        Raises:
            InputError: there is no such file, or it is another one.
        """
        try:
            record = json.loads(Path(path).read_text("utf-8"))
            pieces = [Piece(each["token"], each["text"], each["before"], each["special"]) for each in _tokens(record)]
            steps, P = record["steps"], len(record["prompt"])
            explained, probability, entropy = (_column(steps, name) for name in COLUMNS)
            names = [written(piece) for piece in pieces]
            return cls(
                names[:P],
                names[P:],
                torch.tensor(record["relevance"], dtype=torch.float64),
                explained,
                probability,
                entropy,
                tuple(pieces),
                tuple(step["against"] for step in steps),
                tuple(record["ids"]),
                bool(record["translated"]),
                None if record.get("positions") is None else torch.tensor(record["positions"], dtype=torch.float64),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no answer that save() wrote: {error}") from error

    def _repr_html_(self) -> str:
        return framed(self.html())

    def __repr__(self) -> str:
        return f"ExplainedAnswer({len(self.prompt)} tokens of prompt, answer {''.join(self.answer)!r})"


def answers_units(units: Spans, prompt: int) -> list[tuple[int, int]]:
    """Those of the answer, counted from its start.

    Args:
        units: of prompt and answer.
        prompt: how many tokens the prompt has.
    """
    return [(start - prompt, stop - prompt) for start, stop in units if start >= prompt]


def _short(name: str) -> str:
    """As a label: in one line, and of long ones both ends."""
    line = one_line(name.replace("\n", "⏎"))
    return line if len(line) <= LABEL else f"{line[: LABEL // 2]}…{line[-LABEL // 2 :]}"


def _column(steps: list[dict[str, Any]], name: str) -> Tensor:
    return torch.tensor([step[name] for step in steps], dtype=torch.float64)


def _tokens(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [*record["prompt"], *record["answer"]]
