"""The networks that are measured, as functions of their sizes: random weights, the same in every process.

Weights are drawn by the name of each parameter. So a worker with another version of transformers, whose classes
initialize themselves in another order, still explains the same model.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support import torchvision_shim

torchvision_shim.install()


@dataclass
class Built:
    """A model, its input, and what is explained of it."""

    model: nn.Module
    x: Tensor
    """Pictures, vectors, or token ids."""
    target: Tensor
    """The class or token of each sample."""
    targets: tuple[int, ...] = ()
    """The classes that are explained one after the other, where a case asks for many."""

    @property
    def is_text(self) -> bool:
        return not self.x.is_floating_point()

    @property
    def is_decoder(self) -> bool:
        """Does the model predict a token at each position? Then the last one's prediction is explained."""
        return "CausalLM" in type(self.model).__name__ or "LMHead" in type(self.model).__name__

    def leaf(self) -> Tensor:
        """What a gradient is taken by: the pictures, or the embeddings of the tokens."""
        with torch.no_grad():
            start = self.model.get_input_embeddings()(self.x) if self.is_text else self.x
        return start.detach().clone().requires_grad_()

    def logits(self, leaf: Tensor, *, only_last: bool = False) -> Tensor:
        """(B, classes); of a decoder, those at the last position, where `only_last` computes no others."""
        logits: Tensor
        if not self.is_text:
            logits = self.model(leaf)
        elif only_last:
            hidden = self.model.base_model(inputs_embeds=leaf, use_cache=False)[0]
            logits = self.model.get_output_embeddings()(hidden[:, -1])
        elif self.is_decoder:
            logits = self.model(inputs_embeds=leaf, use_cache=False).logits[:, -1]
        else:
            found = self.model(inputs_embeds=leaf)
            logits = found if isinstance(found, Tensor) else found.logits
        return logits

    def explained(self, logits: Tensor) -> Tensor:
        """The logit of each sample's target, shape (B,)."""
        return logits.gather(1, self.target[:, None])[:, 0]


Build = Callable[[str], Built]
"""From a device to what is measured there."""


def built(model: nn.Module, x: Tensor, gain: float, device: str, targets: int = 0) -> Built:
    """Fill the model with weights and make the largest logits its targets."""
    fill(model, gain)
    fit_batch_norms(model, x)
    model = model.eval().requires_grad_(False).to(device)
    result = Built(model, x.to(device), torch.zeros(len(x), dtype=torch.long, device=device))
    with torch.no_grad():
        logits = result.logits(result.leaf())
    result.target = logits.argmax(1)
    result.targets = tuple(range(targets))
    return result


def fill(model: nn.Module, gain: float) -> None:
    """Draw every parameter, seeded by its name: weights with variance gain / fan-in, norms near 1, biases near 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                drawn *= (gain * parameter.shape[0] / parameter.numel()) ** 0.5
            elif name.endswith("weight"):
                drawn = 1 + 0.1 * drawn
            else:
                drawn *= 0.02
            parameter.copy_(drawn)


def fit_batch_norms(model: nn.Module, x: Tensor) -> None:
    """Statistics of one random batch, so that activations neither grow nor vanish with depth."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    model.eval()
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.train().momentum = None  # the average of all batches, which is this one
    side = min(64, x.shape[-1])
    with torch.no_grad():
        model(torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(1)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def random_normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def picture(make: Callable[[], nn.Module], batch: int, size: int, gain: float = 2.0, targets: int = 0) -> Build:
    return lambda device: built(make(), random_normal(batch, 3, size, size), gain, device, targets)


def mlp(*widths: int, batch: int) -> Build:
    def build(device: str) -> Built:
        layers: list[nn.Module] = []
        for i, (n, m) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU()] * (i > 0) + [nn.Linear(n, m)]
        return built(nn.Sequential(*layers), random_normal(batch, widths[0]), 2.0, device)

    return build


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        model: nn.Module = torchvision.models.get_model(name)
        return model

    return make


def tiny_vgg() -> nn.Module:
    from torchvision.models import vgg

    with torch.device("meta"):  # the head that VGG comes with has a hundred million weights
        model = vgg.VGG(vgg.make_layers([8, "M", 16, 16, "M"]), init_weights=False)
        model.classifier = nn.Sequential(nn.Linear(16 * 49, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
    return model.to_empty(device="cpu")


def tiny_resnet() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=16)


def tiny_densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(8, (2, 2), 16, num_classes=10)


def tiny_efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    settings = [MBConvConfig(4, 3, 2, 8, 16, 2)]
    return EfficientNet(settings, dropout=0.1, num_classes=10, last_channel=32)


def tiny_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)


def bert(layers: int, width: int, heads: int, vocabulary: int, *, batch: int, length: int) -> Build:
    def build(device: str) -> Built:
        from transformers import BertConfig
        from transformers.models.bert import modeling_bert

        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
        model = modeling_bert.BertForSequenceClassification(config)
        return built(model, token_ids(vocabulary, batch, length), 1.0, device)

    return build


class SentenceEncoder(nn.Module):
    """A BERT whose output is the mean of its last hidden states, (B, width)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.body.get_input_embeddings()  # type: ignore[operator]
        return found

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.body(input_ids=input_ids, inputs_embeds=inputs_embeds).last_hidden_state
        return hidden.mean(1)


def sentences(layers: int, width: int, heads: int, vocabulary: int, *, length: int) -> Build:
    def build(device: str) -> Built:
        from transformers import BertConfig
        from transformers.models.bert import modeling_bert

        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        config = BertConfig(vocab_size=vocabulary, intermediate_size=4 * width, **sizes)
        encoder = SentenceEncoder(modeling_bert.BertModel(config, add_pooling_layer=False))
        return built(encoder, token_ids(vocabulary, 1, length), 1.0, device)

    return build


def gpt2(layers: int, width: int, heads: int, vocabulary: int, *, batch: int, length: int) -> Build:
    def build(device: str) -> Built:
        from transformers import GPT2Config
        from transformers.models.gpt2 import modeling_gpt2

        config = GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, bos_token_id=0, eos_token_id=0
        )
        return built(modeling_gpt2.GPT2LMHeadModel(config), token_ids(vocabulary, batch, length), 1.0, device)

    return build


def llama(layers: int, width: int, heads: int, vocabulary: int, *, batch: int, length: int, **others: Any) -> Build:
    """A decoder; `others` are further fields of its config."""

    def build(device: str) -> Built:
        from transformers.models.llama import modeling_llama

        model = modeling_llama.LlamaForCausalLM(llama_config(layers, width, heads, vocabulary, **others))
        return built(model, token_ids(vocabulary, batch, length), 1.0, device)

    return build


def llama_config(layers: int, width: int, heads: int, vocabulary: int, **others: Any) -> Any:
    from transformers import LlamaConfig

    own = {"num_key_value_heads": heads, "intermediate_size": 8 * width // 3} | others
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, **own
    )


def smollm2(length: int) -> Build:
    """The sizes of SmolLM2-135M, in which head and embedding are one."""
    others = {"num_key_value_heads": 3, "tie_word_embeddings": True, "max_position_embeddings": 8192}
    return llama(30, 576, 9, 49152, batch=1, length=length, **others)


def tiny_smollm2(length: int) -> Build:
    """The same with small sizes."""
    others = {"num_key_value_heads": 1, "tie_word_embeddings": True}
    return llama(2, 24, 3, 50, batch=1, length=length, **others)


def token_ids(vocabulary: int, batch: int, length: int) -> Tensor:
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(0))
