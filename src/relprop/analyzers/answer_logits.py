"""Language models whose outputs are the logits that the tokens of an answer were taken from."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn


class AnswerLogits(nn.Module):
    """A causal language model whose output is the logits that each token of an answer was taken from, (B, A + 1, V).

    The last row is what would come next. Nobody asks for it; without it, the head would not be the last operator.

    Args:
        model: called with `input_ids`, returns `.logits`; a Hugging Face model.
        length: A, of the answer at the end of the tokens.
    """

    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()
        self.model, self.length = model, length
        base: Any = getattr(model, "get_base_model", None)  # PEFT's models hand on what they are called with
        self.keeps = _takes(model if base is None else base(), "logits_to_keep")

    def forward(self, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B N V"]:
        options: dict[str, Any] = {"logits_to_keep": self.length + 1} if self.keeps else {}
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False, **options).logits
        return logits if self.keeps else logits[:, -self.length - 1 :]


class SequenceLogits(nn.Module):
    """An encoder-decoder whose output is the logits that each token of an answer was taken from, (B, A, V).

    Args:
        model: called with `input_ids` and `decoder_input_ids`, returns `.logits`; a Hugging Face model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Int[Tensor, "B S"], decoder_input_ids: Int[Tensor, "B A"]) -> Float[Tensor, "B A V"]:
        logits: Tensor = self.model(
            input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=False, return_dict=True
        ).logits
        return logits


def is_encoder_decoder(model: nn.Module) -> bool:
    """It reads a source and writes an answer with two stacks of layers, as T5 and BART do."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _takes(model: Any, name: str) -> bool:
    code = getattr(type(model).forward, "__wrapped__", type(model).forward)
    names = getattr(code, "__code__", None)
    return names is not None and name in names.co_varnames[: names.co_argcount + names.co_kwonlyargcount]
