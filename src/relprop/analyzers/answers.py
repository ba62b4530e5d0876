"""Why a language model answered what it did: every token of the answer, on one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relprop.analyzers.answer_logits import is_encoder_decoder, with_answers
from relprop.analyzers.lrp import LRP
from relprop.analyzers.options import Options
from relprop.composites import AttnLRP, Composite
from relprop.engine.graph.signature import inputs_of
from relprop.errors import InputError
from relprop.explanations.answers import ExplainedAnswer, Spans, Unit
from relprop.explanations.answers.answer import answers_units
from relprop.explanations.answers.units import units_of
from relprop.explanations.explanation import Explanation
from relprop.explanations.positions import PositionForm
from relprop.explanations.text.names import pieces_of_ids, written
from relprop.targets import Logit, Target

Prompt = str | tuple[str, str] | Sequence[Mapping[str, str]] | Sequence[int]
"""A text, two texts that belong together, the messages of a chat, or ids of tokens."""


class AnswerExplainer:
    """Explains answers of a language model, which it gives itself or which are given.

    The model runs once over prompt and answer; each token of the answer is explained from its own logit, with one set
    of denominators. Only at the answer's positions are there logits. Of an encoder-decoder, the prompt is the source,
    and behind it stands the token that its decoder starts with.

    Args:
        model: a causal language model or an encoder-decoder of Hugging Face, or one that is called as they are, in eval
            mode.
        tokenizer: its tokenizer.
        composite: None: `AttnLRP()`.
        checkpoint: run the forward pass in parts, for long prompts, see `LRP`.

    Raises:
        InputError: it is no module.

    `AnswerExplainer(model, tokenizer)("The capital of France is", " Paris").top(0)` lists the words that spoke for
    "Paris" (docs/answers.md).
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        composite: Composite | None = None,
        *,
        checkpoint: bool | int = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"AnswerExplainer takes a language model, got {type(model).__name__}.")
        self.model, self.tokenizer = model, tokenizer
        self.composite = AttnLRP() if composite is None else composite
        self._lrp = LRP(with_answers(model), self.composite, normalize_output=False, checkpoint=checkpoint)

    def __call__(
        self,
        prompt: Prompt,
        answer: str | Sequence[int] | None = None,
        *,
        contrast: Mapping[int, str | int] | None = None,
        unit: Unit | Spans = "tokens",
        longest: int = 32,
        chunk: int | None = None,
        positions: PositionForm | None = None,
    ) -> ExplainedAnswer:
        """Explain an answer.

        Args:
            prompt: text, a pair of texts in a tuple (as the tokenizer puts them together), messages of a chat
                (`[{"role": "user", "content": ...}]`, by the tokenizer's template), ids.
            answer: text or ids. None: what the model says, taking the most probable token each time.
            contrast: number of a token of the answer -> the token that it is explained against, "why not that": its id,
                or its text, behind a space where the answer's token is.
            unit: "words", "sentences" or spans (start, stop) of prompt and answer are explained together, with one
                reverse pass for each of the answer; the same as `by(unit)` of the answer's tokens.
            longest: how many tokens the model may say.
            chunk: rows that are explained at a time. None: on a CPU as many as are faster together
                (docs/performance.md), all on other devices.
            positions: also say what the tokens' positions have of it: "signed", or another form of
                `Explanation.positions`.

        Raises:
            InputError: there is no prompt, no answer, no such unit, or a contrast that is more than one token.
        """
        start = self.prompt_ids(prompt)
        end = self._answer(start, answer, longest)
        places = {self._place(i, len(end)): token for i, token in (contrast or {}).items()}
        against = {i: self._token(token, end[i]) for i, token in places.items()}
        targets = [self._target(i, token, against.get(i)) for i, token in enumerate(end)]
        known = self._nothing_yet(start, end, against)
        units = units_of(known.pieces, len(known.prompt), unit)
        of_answer = answers_units(units, len(known.prompt))
        asked = [sum(targets[a + 1 : b], targets[a]) for a, b in of_answer]
        options = Options(positions=positions is not None)
        found = list(self._lrp.ask(self._inputs(start, end), asked, options, chunk=chunk))
        logits = found[0].output[0, : len(end)].double()
        log_p = logits.log_softmax(-1)
        rows = torch.stack([self._tokens(each, len(known.tokens)) for each in found])
        amounts = torch.stack([self._amount(logits, i, t, against.get(i)) for i, t in enumerate(end)])
        steps = {
            "explained": amounts,
            "probability": log_p[torch.arange(len(end)), torch.tensor(end)].exp(),
            "entropy": -(log_p.exp() * log_p).sum(-1),
        }
        placed = None if positions is None else torch.stack([each.positions(positions)[0] for each in found])
        known = replace(known, relevance=rows, positions=placed, **steps)
        return known if unit == "tokens" else known.grouped(units, rows)

    @property
    def _translates(self) -> bool:
        return is_encoder_decoder(self.model)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _inputs(self, start: list[int], end: list[int]) -> Any:
        def row(ids: list[int]) -> Tensor:
            return torch.tensor([ids], device=self._device)

        read = [self._first(), *end[:-1]] if self._translates else end
        return inputs_of({"prompt_ids": row(start), "answer_ids": row(read)})

    def _first(self) -> int:
        """The token that a decoder starts with."""
        settings: Any = [getattr(self.model, "generation_config", None), self.model.config]
        for each in settings:
            first = getattr(each, "decoder_start_token_id", None)
            if first is not None:
                return int(first)
        raise InputError(
            f"{type(self.model).__name__} does not say which token its decoder starts with: set "
            "model.config.decoder_start_token_id."
        )

    def _nothing_yet(self, start: list[int], end: list[int], against: Mapping[int, int]) -> ExplainedAnswer:
        """Tokens and how they are written, without relevance."""
        head = [*start, self._first()] if self._translates else start
        pieces = tuple(pieces_of_ids(self.tokenizer, [*head, *end]))
        names = [written(piece) for piece in pieces]
        others = [against.get(i) for i in range(len(end))]
        said = tuple(None if other is None else written(pieces_of_ids(self.tokenizer, [other])[0]) for other in others)
        nothing = torch.zeros(len(end))
        matrix = torch.zeros(len(end), len(pieces))
        parts = names[: len(head)], names[len(head) :]
        ids = (*head, *end)
        return ExplainedAnswer(*parts, matrix, nothing, nothing, nothing, pieces, said, ids, self._translates)

    @staticmethod
    def _target(i: int, token: int, other: int | None) -> Target:
        if other is None:
            return Logit((i, token))
        if token == other:
            raise InputError(f"contrast={{{i}: ...}} is the token of the answer itself: name another one.")
        return Logit((i, token)) - Logit((i, other))

    @staticmethod
    def _tokens(explanation: Explanation, length: int) -> Float[Tensor, " T"]:
        """Of prompt and answer, (T,); a decoder with an encoder never reads the answer's last token."""
        found = torch.cat([explanation.by_input[name][0].sum(-1) for name in ("prompt_ids", "answer_ids")])
        return torch.nn.functional.pad(found, (0, length - len(found)))

    @staticmethod
    def _amount(logits: Tensor, i: int, token: int, other: int | None) -> Tensor:
        return logits[i, token] - (0 if other is None else logits[i, other])

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt's tokens.

        Args:
            prompt: in one of its forms.

        Raises:
            InputError: it has no tokens, or it is a chat and the tokenizer has no template for one like it.
        """
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"]
        elif isinstance(prompt, tuple) and len(prompt) == 2 and all(isinstance(text, str) for text in prompt):
            ids = self.tokenizer(*prompt)["input_ids"]
        elif prompt and isinstance(prompt[0], Mapping):
            if getattr(self.tokenizer, "chat_template", "") is None:
                raise InputError("The tokenizer has no template for chats: give the prompt as a text.")
            ids = self._of_chat(prompt)
        else:
            ids = [int(token) for token in prompt]  # type: ignore[arg-type]
        if not ids:
            raise InputError(f"The prompt {prompt!r} has no tokens.")
        return list(ids)

    def _of_chat(self, messages: Sequence[Any]) -> list[int]:
        options = {"add_generation_prompt": True, "return_dict": False}
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(list(messages), **options)
        except Exception as error:  # templates are programs, and raise what they want where roles are not theirs
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise InputError(
                f"The tokenizer's template takes no chat of these roles, {roles}: {type(error).__name__}: {error}"
            ) from error
        return ids

    def _answer(self, start: list[int], answer: Any, longest: int) -> list[int]:
        if answer is None:
            ids = self._said(start, longest)
        elif isinstance(answer, str):
            ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        else:
            ids = [int(token) for token in answer]
        if not ids:
            raise InputError(f"The answer {answer!r} has no tokens.")
        return list(ids)

    def _said(self, start: list[int], longest: int) -> list[int]:
        device = self._device
        options: dict[str, Any] = {"max_new_tokens": longest, "do_sample": False}
        mask = torch.ones(1, len(start), dtype=torch.long, device=device)
        said = self.model.generate(torch.tensor([start], device=device), attention_mask=mask, **options)  # type: ignore[operator]
        ids: list[int] = said[0, 1 if self._translates else len(start) :].tolist()
        return ids

    def _token(self, token: str | int, answered: int) -> int:
        if isinstance(token, int):
            return token
        behind_space = pieces_of_ids(self.tokenizer, [answered])[0].before
        forms = [token] if token[:1].isspace() or not behind_space else [f" {token}", token]
        several = [self.tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
        ids = next((ids for ids in several if len(ids) == 1), several[0])
        if len(ids) != 1:
            pieces = self.tokenizer.convert_ids_to_tokens(ids)
            raise InputError(f"contrast={token!r} is {len(ids)} tokens: {pieces}; give one.")
        return int(ids[0])

    @staticmethod
    def _place(i: int, length: int) -> int:
        if not -length <= i < length:
            raise InputError(f"contrast={{{i}: ...}}: the answer has {length} tokens, 0 to {length - 1}.")
        return i % length
