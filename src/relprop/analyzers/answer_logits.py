"""Language models whose outputs are the logits that the tokens of an answer were taken from."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class AnswerLogits(nn.Module):
    """A causal language model whose output is the logits that each token of an answer was taken from, (B, A + 1, V).

    The last row is what would come next. Nobody asks for it; without it, the head would not be the last operator.
    Prompt and answer are two inputs, so that one captured program serves answers of all lengths.

    Args:
        model: called with `input_ids`, returns `.logits`; a Hugging Face model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        base: Any = getattr(model, "get_base_model", None)  # PEFT's models hand on what they are called with
        self.keeps = _takes(model if base is None else base(), "logits_to_keep")

    def forward(self, prompt_ids: Int[Tensor, "B P"], answer_ids: Int[Tensor, "B A"]) -> Float[Tensor, "B N V"]:
        ids = torch.cat([prompt_ids, answer_ids], 1)
        length, rows = ids.shape[1], answer_ids.shape[1] + 1
        options: dict[str, Any] = {}
        if self.keeps:  # as places: a number would be that of the first answer in the program
            options["logits_to_keep"] = torch.arange(length - rows, length, device=ids.device)
        logits: Tensor = self.model(input_ids=ids, use_cache=False, **options).logits
        return logits if self.keeps else logits[:, length - rows :]


class SequenceLogits(nn.Module):
    """The same of an encoder-decoder, (B, A, V); its answer is what its decoder reads.

    Args:
        model: called with `input_ids` and `decoder_input_ids`, returns `.logits`; a Hugging Face model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, prompt_ids: Int[Tensor, "B P"], answer_ids: Int[Tensor, "B A"]) -> Float[Tensor, "B A V"]:
        logits: Tensor = self.model(
            input_ids=prompt_ids, decoder_input_ids=answer_ids, use_cache=False, return_dict=True
        ).logits
        return logits


_wrapped: WeakValueDictionary[int, AnswerLogits | SequenceLogits] = WeakValueDictionary()


def with_answers(model: nn.Module) -> AnswerLogits | SequenceLogits:
    """The model with prompt and answer as inputs; the same module for all who have it, who share what is captured."""
    found = _wrapped.get(id(model))
    if found is None:  # an entry lives no longer than its model, which it holds
        found = _wrapped[id(model)] = SequenceLogits(model) if is_encoder_decoder(model) else AnswerLogits(model)
    found.training = model.training
    return found


def is_encoder_decoder(model: nn.Module) -> bool:
    """It reads a source and writes an answer with two stacks of layers, as T5 and BART do."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _takes(model: Any, name: str) -> bool:
    code = getattr(type(model).forward, "__wrapped__", type(model).forward)
    names = getattr(code, "__code__", None)
    return names is not None and name in names.co_varnames[: names.co_argcount + names.co_kwonlyargcount]
