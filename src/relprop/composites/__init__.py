"""Composites: which rule goes to which layer.

What may live here: statements about layers, presets that are made of them, and how both are printed.
"""

from relprop.composites.composite import Composite
from relprop.composites.depth import GammaByDepth
from relprop.composites.presets import (
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGamma,
    EpsilonGammaBox,
    EpsilonGammaFlat,
    EpsilonPlus,
    EpsilonPlusFlat,
)
from relprop.composites.primitives import (
    FirstLayerMap,
    FirstLayerTypeMap,
    FirstNTypeMap,
    GlobalMap,
    GlobalTypeMap,
    LastLayerMap,
    LastLayerTypeMap,
    LayerMap,
    NameMap,
    Primitive,
    RangeMap,
    RangeTypeMap,
)
from relprop.composites.transformers import CPLRP, AttnLRP, ResLRP, recommended
from relprop.engine.layers.kinds import (
    ActivationLayer,
    AttentionLayer,
    BatchNormLayer,
    ConvLayer,
    DropoutLayer,
    LinearLayer,
    NormalizationLayer,
    PoolingLayer,
    ProductLayer,
    ReshapingLayer,
    ResidualLayer,
    SoftmaxLayer,
    TypeGroup,
)

__all__ = [
    "CPLRP",
    "ActivationLayer",
    "AttentionLayer",
    "AttnLRP",
    "BatchNormLayer",
    "Composite",
    "ConvLayer",
    "DropoutLayer",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGamma",
    "EpsilonGammaBox",
    "EpsilonGammaFlat",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "FirstLayerMap",
    "FirstLayerTypeMap",
    "FirstNTypeMap",
    "GammaByDepth",
    "GlobalMap",
    "GlobalTypeMap",
    "LastLayerMap",
    "LastLayerTypeMap",
    "LayerMap",
    "LinearLayer",
    "NameMap",
    "NormalizationLayer",
    "PoolingLayer",
    "Primitive",
    "ProductLayer",
    "RangeMap",
    "RangeTypeMap",
    "ResLRP",
    "ReshapingLayer",
    "ResidualLayer",
    "SoftmaxLayer",
    "TypeGroup",
    "recommended",
]
