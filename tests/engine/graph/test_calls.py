"""Ways to call models and what they return: keywords, data classes, Hugging Face's options, masks, threads."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.engine.graph.capture import capture
from relprop.engine.graph.outputs import leaf_names
from relprop.engine.graph.run import evaluate
from relprop.errors import CaptureError, InputError


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(x)))


class CatchAll(Body):
    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return self.logits(x) * options.get("scale", 1)


class Several(Body):
    def forward(self, *inputs: Tensor) -> Tensor:
        return self.logits(sum(inputs))


class KeywordOnly(Body):
    def forward(self, *, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        return self.logits(x if mask is None else x * mask) * scale


def check(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Input times gradient, for a ReLU network under the 0-rule; of the first input."""
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    x = tensors[0]
    a = x.clone().requires_grad_()
    output = model(*[a if t is x else t for t in args], **{k: a if t is x else t for k, t in kwargs.items()})
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), a)
    expl = LRP(model, normalize_output=False)(*args, target=1, **kwargs)
    relevance = expl.relevance[0] if isinstance(expl.relevance, tuple) else expl.relevance
    torch.testing.assert_close(expl.output, output)
    torch.testing.assert_close(relevance, x * gradient)


def test_keywords_of_a_catch_all() -> None:
    x = torch.randn(3, 4)
    check(CatchAll(), x)
    check(CatchAll(), x, scale=2.0)
    assert capture(CatchAll(), (x,), {"scale": 2.0}).serves([torch.randn(5, 4), 2.0])


def test_positional_catch_all() -> None:
    check(Several(), torch.randn(3, 4), torch.randn(3, 4))


@pytest.mark.parametrize("options", [{}, {"scale": 2.0}, {"mask": torch.tensor([[True, False, True, True]] * 3)}])
def test_keyword_only_inputs(options: dict[str, Any]) -> None:
    check(KeywordOnly(), x=torch.randn(3, 4), **options)


@dataclass
class Nested:
    features: Tensor
    extra: dict[str, Tensor]


@dataclass(frozen=True)
class Output:
    hidden: Nested
    logits: Tensor
    note: str = "fine"


class Pair(NamedTuple):
    features: Tensor
    logits: Tensor


class Returns(Body):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        y = self.logits(x)
        return Output(Nested(x * 2, {"twice": y * 2}), y) if self.kind == "dataclass" else Pair(x * 2, y)


def test_data_classes_as_outputs() -> None:
    x, model = torch.randn(3, 4), Returns("dataclass")
    graph = capture(model, (x,))
    assert leaf_names(graph.out_spec) == ["hidden.features", "hidden.extra.twice", "logits", "note"]
    found = evaluate(graph, [x])
    assert isinstance(found, Output)
    assert isinstance(found.hidden, Nested)
    assert found.note == "fine"
    torch.testing.assert_close(found.logits, model(x).logits)


def test_names_of_outputs() -> None:
    x = torch.randn(3, 4)
    assert leaf_names(capture(Returns("tuple"), (x,)).out_spec) == ["features", "logits"]
    assert leaf_names(capture(CatchAll(), (x,)).out_spec) == [""]


class Mixed(Body):
    """Mixed precision by autocast within forward, inside another setting."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            h = F.relu(self.first(x))
            with torch.autocast("cpu", enabled=False):
                h = h.float() * 2
        return self.head(h)


def test_autocast_in_forward_is_followed() -> None:
    model, x = Mixed().eval(), torch.randn(3, 4)
    expl = LRP(model, normalize_output=False)(x, target=1)
    assert torch.equal(expl.output, model(x))
    weight = torch.where(model.first(x) > 0, model.head.weight[1] * 2, 0) @ model.first.weight
    difference = (expl.relevance - x * weight).norm() / (x * weight).norm()
    assert difference < 0.05


CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
MASKS = [{}, {"mask": CAUSAL}, {"mask": CAUSAL, "is_causal": True}, {"src_key_padding_mask": PADDING}]


@pytest.mark.parametrize("options", MASKS, ids=lambda options: "+".join(options) or "none")
def test_a_transformer_encoder_with_masks(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 5, 8)
    found = evaluate(capture(model, (x,), options), [x, *options.values()])
    expected = model(x, **options)  # nested tensors: zeros where padding is
    torch.testing.assert_close(found[:, :3], expected[:, :3], rtol=1e-4, atol=1e-5)


def test_a_causal_encoder_gives_what_comes_later_nothing() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 5, 8)
    relevance = LRP(model)(x, mask=CAUSAL.isinf(), target=(1, 0)).relevance
    assert relevance[:, :2].abs().sum((1, 2)).all()
    assert not relevance[:, 2:].any()


def test_a_transformer_decoder_with_a_mask() -> None:
    torch.manual_seed(0)
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1).eval()
    x, memory = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    found = evaluate(capture(model, (x, memory), {"tgt_mask": CAUSAL}), [x, memory, CAUSAL])
    torch.testing.assert_close(found, model(x, memory, tgt_mask=CAUSAL), rtol=1e-4, atol=1e-5)


OPTIONS = [
    {},
    {"output_hidden_states": True},
    {"output_attentions": True},
    {"return_dict": False},
    {"labels": True},
    {"output_hidden_states": True, "return_dict": False, "labels": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_of_hugging_face_models(options: dict[str, Any]) -> None:
    install()
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    config._attn_implementation = "eager"
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.randint(0, 20, (2, 5))
    given = {**options, "labels": torch.tensor([0, 2])} if "labels" in options else dict(options)
    graph = capture(model, (), {"input_ids": ids, **given})
    leaves = list(({"input_ids": ids} | given).values())
    expected = model(input_ids=ids, **given)
    found = evaluate(graph, leaves)
    assert type(found) is type(expected)
    logits = 1 if "labels" in options else 0
    torch.testing.assert_close(found[logits], expected[logits], rtol=1e-4, atol=1e-5)
    if options.get("return_dict", True):
        assert leaf_names(graph.out_spec)[logits] == "logits"


class Draws(Body):
    """Numbers that no generator of PyTorch draws."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = iter(range(1, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x) * next(self.calls)


def test_a_program_that_is_not_the_model_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"does not compute what the model computes.*differs by"):
        capture(Draws(), (torch.randn(3, 4),))


class Exporting(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x) * (0.5 if torch.compiler.is_exporting() else 1)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this PyTorch does not let a model ask")
def test_what_is_done_for_export_only_is_refused() -> None:
    with pytest.raises(CaptureError, match="is_exporting"):
        capture(Exporting(), (torch.randn(3, 4),))


def test_inputs_that_the_model_refuses_are_said_to_be() -> None:
    with pytest.raises(InputError, match=r"CatchAll itself fails on inputs of shape \(3, 5\).*cannot be multiplied"):
        capture(CatchAll(), (torch.randn(3, 5),))
    with pytest.raises(InputError, match=r"Convert one: x\.to\(torch\.float32\)"):
        capture(CatchAll(), (torch.randn(3, 4).half(),))


def test_first_calls_from_several_threads() -> None:
    model, x, failed = CatchAll(), torch.randn(3, 4), []

    def work(scale: float) -> None:
        try:
            capture(model, (x,), {"scale": scale})
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


BAG = """
import sys, torch
from torch import nn
from relprop import LRP

class Bag(nn.Module):
    def forward(self, x):
        return torch.mm(x.squeeze(0), torch.ones(4, 2)).sum(0, keepdim=True)

class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

print(LRP(Bag())(torch.randn(1, 5, 4), target=1).relevance.shape)
try:
    LRP(Branches())(torch.randn(1, 5))
except Exception as error:
    print(type(error).__name__)
"""


def test_nothing_goes_to_stderr_whether_a_capture_works_or_not() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BAG], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["torch.Size([1, 5, 4])", "CaptureError"]
    assert done.stderr == ""


def test_the_application_s_own_logs_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    class Speaks(Body):
        def forward(self, x: Tensor) -> Tensor:
            logging.getLogger("application").warning("forward")
            return self.logits(x)

    capture(Speaks(), (torch.randn(3, 4),))
    assert "forward" in caplog.messages
    logging.getLogger("torch.fx").warning("afterwards")
    assert "afterwards" in caplog.messages
