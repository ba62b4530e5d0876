"""The zoo's models: how each is built, with random weights of a sensible scale, and what it is called with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # a wheel of torchvision for CUDA beside a CPU's torch

from zoo_entry import Built, Entry


def zoo() -> list[Entry]:
    """All entries, library by library."""
    from support.torchvision_shim import install
    from zoo_hf import entry, hf_entries
    from zoo_own import own_entries
    from zoo_several import SEVERAL, several_entries
    from zoo_sight import DETECTION, MASKS
    from zoo_signals import SERIES, SOUND, VIDEO
    from zoo_texts import DECODERS, SEQ2SEQ, TEXTS

    install()
    tables = (DETECTION, MASKS, VIDEO, SOUND, SERIES, TEXTS, DECODERS, SEQ2SEQ, SEVERAL)
    rows = [entry(*row) for table in tables for row in table]
    return [*torchvision_entries(), *timm_entries(), *hf_entries(), *rows, *several_entries(), *own_entries()]


# torchvision


def torchvision_entries() -> Iterator[Entry]:
    """Every classification model that torchvision lists, and its segmentation models."""
    from torchvision import models

    for name in models.list_models(module=models):
        yield Entry("torchvision", name, _torchvision(name))
    for name in models.list_models(module=models.segmentation):
        yield Entry("torchvision", f"segmentation.{name}", _torchvision(name), target=(3, 17, 20))


def _torchvision(name: str) -> Callable[[], Built]:
    def build() -> Built:
        from torchvision import models

        size, options = 64, {}
        if name.startswith("vit_"):
            size = 56 if name.endswith("14") else 64
            options = {"image_size": size}
        elif name == "maxvit_t":
            size = 224
        elif name == "inception_v3":
            size = 96
        if name in {"inception_v3", "googlenet"}:
            options = {"init_weights": False}
        return models.get_model(name, weights=None, **_no_backbone(name), **options), _picture(size)

    return build


def _no_backbone(name: str) -> dict[str, Any]:
    return {"weights_backbone": None} if name.startswith(("deeplabv3", "fcn", "lraspp")) else {}


def _picture(size: int) -> dict[str, Tensor]:
    return {"x": torch.randn(2, 3, size, size)}


# timm: the smallest variant of each family. Options make small images possible.

FIXED = {"img_size": 64}

TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    # convolutional
    "resnet10t": (64, {}),
    "resnetv2_18": (64, {}),
    "resnetv2_50x1_bit": (64, {}),
    "resnest14d": (64, {}),
    "res2net50_48w_2s": (64, {}),
    "skresnet18": (64, {}),
    "legacy_seresnet18": (64, {}),
    "ecaresnet26t": (64, {}),
    "gcresnext26ts": (64, {}),
    "densenet121": (64, {}),
    "rdnet_tiny": (64, {}),
    "dla46_c": (64, {}),
    "dpn48b": (64, {}),
    "vgg11_bn": (64, {}),
    "vovnet39a": (64, {}),
    "ese_vovnet19b_slim": (64, {}),
    "cspresnet50": (64, {}),
    "darknet17": (64, {}),
    "cspnext_tiny": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_cc_b0_4e": (64, {}),
    "mixnet_s": (64, {}),
    "tf_efficientnetv2_b0": (64, {}),
    "mobilenetv2_050": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small_035": (64, {}),
    "mobilenetv4_hybrid_medium": (64, {}),
    "mobileone_s0": (64, {}),
    "lcnet_035": (64, {}),
    "lcnetv2_small": (64, {}),
    "hardcorenas_a": (64, {}),
    "mnasnet_small": (64, {}),
    "ghostnet_050": (64, {}),
    "ghostnetv2_100": (64, {}),
    "repghostnet_050": (64, {}),
    "rexnet_100": (64, {}),
    "regnetx_002": (64, {}),
    "regnety_002": (64, {}),
    "regnetz_b16": (64, {}),
    "repvgg_a0": (64, {}),
    "gernet_s": (64, {}),
    "selecsls42": (64, {}),
    "tresnet_m": (64, {}),
    "hrnet_w18_small": (64, {}),
    "hgnetv2_b0": (64, {}),
    "inception_v4": (96, {}),
    "inception_resnet_v2": (96, {}),
    "legacy_xception": (96, {}),
    "xception41": (64, {}),
    "nasnetalarge": (96, {}),
    "pnasnet5large": (96, {}),
    "nfnet_l0": (64, {}),
    "nf_resnet26": (64, {}),
    "convnext_zepto_rms": (64, {}),
    "convnext_atto": (64, {}),
    "convnextv2_atto": (64, {}),
    "convmixer_768_32": (64, {}),
    "inception_next_atto": (64, {}),
    "fasternet_t0": (64, {}),
    "starnet_s050": (64, {}),
    "focalnet_tiny_srf": (64, {}),
    "mambaout_femto": (64, {}),
    "poolformer_s12": (64, {}),
    "convformer_s18": (64, {}),
    "lambda_resnet26t": (256, {}),
    "bat_resnext26ts": (256, {}),
    # transformers
    "vit_tiny_patch16_224": (64, FIXED),
    "deit_tiny_distilled_patch16_224": (64, FIXED),
    "deit3_small_patch16_224": (64, FIXED),
    "beit_base_patch16_224": (64, FIXED),
    "eva02_tiny_patch14_224": (56, {"img_size": 56}),
    "cait_xxs24_224": (64, FIXED),
    "convit_tiny": (64, FIXED),
    "crossvit_9_240": (240, {}),
    "davit_tiny": (64, {}),
    "flexivit_small": (64, FIXED),
    "gcvit_xxtiny": (224, {}),
    "hiera_tiny_224": (64, FIXED),
    "mvitv2_tiny": (64, {}),
    "naflexvit_base_patch16_gap": (64, {}),
    "nest_tiny": (64, FIXED),
    "pit_ti_224": (224, {}),
    "pvt_v2_b0": (64, {}),
    "samvit_base_patch16_224": (64, FIXED),
    "swin_tiny_patch4_window7_224": (224, {}),
    "swinv2_tiny_window8_256": (64, FIXED),
    "swinv2_cr_tiny_224": (224, {}),
    "tnt_s_patch16_224": (64, FIXED),
    "twins_pcpvt_small": (64, FIXED),
    "twins_svt_small": (64, FIXED),
    "vit_relpos_small_patch16_224": (64, FIXED),
    "volo_d1_224": (64, FIXED),
    "xcit_nano_12_p16_224": (64, {}),
    # convolution and attention
    "botnet26t_256": (256, {}),
    "halonet26t": (256, {}),
    "caformer_s18": (64, {}),
    "coat_tiny": (64, FIXED),
    "coat_lite_tiny": (64, FIXED),
    "coatnet_pico_rw_224": (224, {}),
    "maxvit_pico_rw_256": (256, {}),
    "edgenext_xx_small": (64, {}),
    "efficientformer_l1": (224, {}),
    "efficientformerv2_s0": (224, {}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (64, FIXED),
    "fastvit_t8": (64, {}),
    "iformer_t": (64, {}),
    "levit_128s": (224, {}),
    "lowformer_b0": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "nextvit_small": (64, {}),
    "repvit_m0_9": (64, {}),
    "shvit_s1": (64, {}),
    "swiftformer_xs": (64, {}),
    "tiny_vit_5m_224": (224, {}),
    "visformer_tiny": (64, FIXED),
    "vit_tiny_r_s16_p8_224": (64, FIXED),
    "vitamin_small_224": (64, FIXED),
    # multi-layer perceptrons
    "mixer_s32_224": (64, FIXED),
    "gmixer_12_224": (64, FIXED),
    "gmlp_ti16_224": (64, FIXED),
    "resmlp_12_224": (64, FIXED),
    # recurrent, and state spaces
    "sequencer2d_s": (64, FIXED),
    "efficientvim_m1": (64, {}),
}


def timm_entries() -> Iterator[Entry]:
    for name, (size, options) in TIMM.items():
        yield Entry("timm", name, _timm(name, size, options))


def _timm(name: str, size: int, options: Mapping[str, Any]) -> Callable[[], Built]:
    def build() -> Built:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10, **options), _picture(size)

    return build
