"""The table of what is measured: a name, a network at full size and one that is tiny, and the methods."""

from __future__ import annotations

from dataclasses import dataclass

from networks import (
    Build,
    bert,
    gpt2,
    llama,
    mlp,
    picture,
    sentences,
    tiny_densenet,
    tiny_efficientnet,
    tiny_resnet,
    tiny_vgg,
    tiny_vit,
    torchvision_model,
)


@dataclass(frozen=True)
class Case:
    """One row of the table. To add a case: a network in networks.py, methods by name, and a row here."""

    name: str
    full: Build
    tiny: Build
    methods: tuple[str, ...]
    has_floor: bool = False
    """Is its arithmetic counted? (Convolutions and linear layers only.)"""

    def build(self, tiny: bool) -> Build:
        return self.tiny if tiny else self.full


GRADIENTS = ("plain gradient", "input x gradient")
TWINS = (
    "relprop EpsilonPlusFlat",
    "Zennit EpsilonPlusFlat",
    "relprop EpsilonGammaBox",
    "relprop EpsilonGammaBox, generalized",
    "Zennit EpsilonGammaBox",
    "relprop EpsilonAlpha2Beta1Flat",
    "Zennit EpsilonAlpha2Beta1Flat",
)
CAPTUM = tuple(f"{who} {name}" for name in ("Epsilon", "EpsilonPlus") for who in ("relprop", "Captum LRP"))
IMAGES = (*GRADIENTS, *TWINS, *CAPTUM)
COMPILED = "relprop EpsilonPlusFlat, compiled"
MANY = (
    "plain gradients, one forward",
    "relprop EpsilonPlusFlat, each target",
    "relprop EpsilonPlusFlat, a call each",
    "Zennit EpsilonPlusFlat, each target",
)
VISION = (
    *GRADIENTS,
    "relprop CPLRP",
    "LXT vision",
    "relprop CPLRP gamma",
    "relprop CPLRP gamma outside attention",
    "LXT vision, gamma",
)
ENCODER = (*GRADIENTS, "relprop AttnLRP", "relprop AttnLRP, compiled", "LXT AttnLRP")
DECODER = (
    *GRADIENTS,
    "relprop AttnLRP",
    "relprop AttnLRP, compiled",
    "LXT AttnLRP",
    "relprop CPLRP signal",
    "LXT CP-LRP",
    "plain gradient, last position by hand",
    "LXT AttnLRP, last position by hand",
)

VGG16, RESNET50, DENSENET121, EFFICIENTNET, VIT = map(
    torchvision_model, ("vgg16", "resnet50", "densenet121", "efficientnet_b0", "vit_b_16")
)

CASES = (
    Case("VGG16, batch 1", picture(VGG16, 1, 224), picture(tiny_vgg, 1, 32), IMAGES, True),
    Case("VGG16, batch 8", picture(VGG16, 8, 224), picture(tiny_vgg, 2, 32), (*GRADIENTS, *TWINS), True),
    Case("ResNet50, batch 8", picture(RESNET50, 8, 224), picture(tiny_resnet, 2, 32), (*IMAGES, COMPILED), True),
    Case("DenseNet121, batch 4", picture(DENSENET121, 4, 224), picture(tiny_densenet, 2, 32), IMAGES, True),
    Case("EfficientNet-B0, batch 4", picture(EFFICIENTNET, 4, 224), picture(tiny_efficientnet, 2, 32), IMAGES, True),
    Case(
        "MLP 784-1024-1024-10, batch 256",
        mlp(784, 1024, 1024, 10, batch=256),
        mlp(20, 16, 16, 10, batch=4),
        (*GRADIENTS, "relprop EpsilonPlus", "Zennit EpsilonPlus", "relprop Epsilon", "Captum LRP Epsilon"),
        True,
    ),
    Case("ViT-B/16, batch 4", picture(VIT, 4, 224, gain=1.0), picture(tiny_vit, 2, 32, gain=1.0), VISION),
    Case(
        "BERT-base, batch 2, 128 tokens",
        bert(12, 768, 12, 30522, batch=2, length=128),
        bert(2, 32, 2, 50, batch=2, length=8),
        ENCODER,
    ),
    Case(
        "GPT-2, 128 tokens",
        gpt2(12, 768, 12, 50257, batch=1, length=128),
        gpt2(2, 32, 2, 50, batch=1, length=8),
        (*ENCODER, "plain gradient, last position by hand", "LXT AttnLRP, last position by hand"),
    ),
    Case(
        "Llama-like, 256 tokens",
        llama(8, 768, 12, 32000, batch=1, length=256),
        llama(2, 32, 2, 50, batch=1, length=8),
        DECODER,
    ),
    Case(
        "VGG16, 10 targets",
        picture(VGG16, 1, 224, targets=10),
        picture(tiny_vgg, 1, 32, targets=3),
        ("plain gradient", *MANY),
    ),
    Case(
        "ResNet50, 10 targets",
        picture(RESNET50, 1, 224, targets=10),
        picture(tiny_resnet, 1, 32, targets=3),
        ("plain gradient", *MANY),
    ),
    Case(
        "VGG16, 20 channels",
        picture(VGG16, 1, 224, targets=20),
        picture(tiny_vgg, 1, 32, targets=3),
        ("plain gradient", "plain gradients by channel", "relprop EpsilonPlusFlat, CRP"),
    ),
    Case(
        "Two sentences of 32 tokens",
        sentences(6, 384, 12, 30522, length=32),
        sentences(1, 8, 2, 50, length=6),
        ("plain gradient", "relprop BiLRP", "relprop BiLRP, a call each"),
    ),
)
