"""Why a language model answered what it did: every token of the answer, on one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relprop.analyzers.lrp import LRP
from relprop.analyzers.options import Options
from relprop.composites import AttnLRP, Composite
from relprop.engine.graph.signature import inputs_of
from relprop.errors import InputError
from relprop.explanations.answers import ExplainedAnswer, shown
from relprop.explanations.explanation import Explanation
from relprop.targets import Logit, Target

MOST_LENGTHS = 8
"""Answers of so many lengths keep their programs."""


class AnswerLogits(nn.Module):
    """A causal language model whose output is the logits that each token of an answer was taken from, (B, A, V).

    Args:
        model: called with `input_ids`, returns `.logits`; a Hugging Face model.
        length: A, of the answer at the end of the tokens.
    """

    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()
        self.model, self.length = model, length
        self.keeps = _takes(model, "logits_to_keep")

    def forward(self, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B A V"]:
        options: dict[str, Any] = {"logits_to_keep": self.length + 1} if self.keeps else {}
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False, **options).logits
        return logits[:, -self.length - 1 : -1]


def _takes(model: nn.Module, name: str) -> bool:
    code = getattr(type(model).forward, "__wrapped__", type(model).forward)
    names = getattr(code, "__code__", None)
    return names is not None and name in names.co_varnames[: names.co_argcount + names.co_kwonlyargcount]


class AnswerExplainer:
    """Explains answers of a causal language model, which it gives itself or which are given.

    The model runs once over prompt and answer; each token of the answer is explained from its own logit, with one set
    of denominators. Only at the answer's positions are there logits.

    Args:
        model: a causal language model of Hugging Face, or one that is called as they are, in eval mode.
        tokenizer: its tokenizer.
        composite: None: `AttnLRP()`.

    Raises:
        InputError: it is no module.

    `AnswerExplainer(model, tokenizer)("The capital of France is", " Paris").top(0)` lists the words that spoke for
    "Paris" (docs/text.md).
    """

    def __init__(self, model: nn.Module, tokenizer: Any, composite: Composite | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"AnswerExplainer takes a language model, got {type(model).__name__}.")
        self.model, self.tokenizer = model, tokenizer
        self.composite = AttnLRP() if composite is None else composite
        self._by_length: dict[int, LRP] = {}

    def __call__(
        self,
        prompt: str | Sequence[Mapping[str, str]] | Sequence[int],
        answer: str | Sequence[int] | None = None,
        *,
        contrast: Mapping[int, str | int] | None = None,
        longest: int = 32,
        chunk: int | None = None,
    ) -> ExplainedAnswer:
        """Explain an answer.

        Args:
            prompt: text, messages of a chat (`[{"role": "user", "content": ...}]`, by the tokenizer's template), ids.
            answer: text or ids. None: what the model says, taking the most probable token each time.
            contrast: number of a token of the answer -> the token that it is explained against, "why not that".
            longest: how many tokens the model may say.
            chunk: tokens that are explained at a time. None: one on a CPU, all on other devices.

        Raises:
            InputError: there is no prompt, no answer, or a contrast that is more than one token.
        """
        start = self._prompt(prompt)
        end = self._answer(start, answer, longest)
        against = {self._place(i, len(end)): self._token(token) for i, token in (contrast or {}).items()}
        targets: list[Target] = [Logit((i, token)) for i, token in enumerate(end)]
        for i, token in against.items():
            if token == end[i]:
                raise InputError(f"contrast={{{i}: ...}} is the token of the answer itself: name another one.")
            targets[i] = targets[i] - Logit((i, token))
        device = next(self.model.parameters()).device
        ids = torch.tensor([[*start, *end]], device=device)
        rows = self._lrp(len(end)).ask(inputs_of({"input_ids": ids}), targets, Options(), chunk=chunk)
        found = list(rows)
        logits = found[0].output[0].double()
        amounts = torch.stack([self._amount(logits, i, t, against.get(i)) for i, t in enumerate(end)])
        log_p = logits.log_softmax(-1)
        names = shown(self.tokenizer.convert_ids_to_tokens([*start, *end]))
        return ExplainedAnswer(
            prompt=names[: len(start)],
            answer=names[len(start) :],
            relevance=torch.stack([self._tokens(e) for e in found]),
            explained=amounts,
            probability=log_p[torch.arange(len(end)), torch.tensor(end)].exp(),
            entropy=-(log_p.exp() * log_p).sum(-1),
        )

    def _lrp(self, length: int) -> LRP:
        if length not in self._by_length:
            if len(self._by_length) == MOST_LENGTHS:
                del self._by_length[next(iter(self._by_length))]
            wrapped = AnswerLogits(self.model, length).train(self.model.training)
            self._by_length[length] = LRP(wrapped, self.composite, normalize_output=False)
        return self._by_length[length]

    @staticmethod
    def _tokens(explanation: Explanation) -> Float[Tensor, " T"]:
        relevance = explanation.relevance
        assert isinstance(relevance, Tensor)
        return relevance[0].sum(-1)

    @staticmethod
    def _amount(logits: Tensor, i: int, token: int, other: int | None) -> Tensor:
        return logits[i, token] - (0 if other is None else logits[i, other])

    def _prompt(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"]
        elif prompt and isinstance(prompt[0], Mapping):
            ids = self.tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
        else:
            ids = [int(token) for token in prompt]
        if not ids:
            raise InputError(f"The prompt {prompt!r} has no tokens.")
        return list(ids)

    def _answer(self, start: list[int], answer: Any, longest: int) -> list[int]:
        if answer is None:
            device = next(self.model.parameters()).device
            options: dict[str, Any] = {"max_new_tokens": longest, "do_sample": False}
            mask = torch.ones(1, len(start), dtype=torch.long, device=device)
            said = self.model.generate(torch.tensor([start], device=device), attention_mask=mask, **options)  # type: ignore[operator]
            ids = said[0, len(start) :].tolist()
        elif isinstance(answer, str):
            ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        else:
            ids = [int(token) for token in answer]
        if not ids:
            raise InputError(f"The answer {answer!r} has no tokens.")
        return list(ids)

    def _token(self, token: str | int) -> int:
        ids = [token] if isinstance(token, int) else self.tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = self.tokenizer.convert_ids_to_tokens(ids)
            raise InputError(f"contrast={token!r} is {len(ids)} tokens: {pieces}; give one.")
        return int(ids[0])

    @staticmethod
    def _place(i: int, length: int) -> int:
        if not -length <= i < length:
            raise InputError(f"contrast={{{i}: ...}}: the answer has {length} tokens, 0 to {length - 1}.")
        return i % length
