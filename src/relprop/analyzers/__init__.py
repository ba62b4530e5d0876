"""Analyzers: a model and a method, called like the model, returning explanations.

What may live here: the base that all of them share, each method, the checks before work, artifacts.
"""

from relprop.analyzers.analyzer import Analyzer, Call
from relprop.analyzers.answers import AnswerExplainer
from relprop.analyzers.augmentation import (
    Augmentation,
    InterpolationAugmentation,
    NoiseAugmentation,
    TranslationAugmentation,
)
from relprop.analyzers.bilrp import BiLRP
from relprop.analyzers.block_sum import BlockSum
from relprop.analyzers.gradcam import GradCAM
from relprop.analyzers.gradient import FunctionAnalyzer, Gradient, InputTimesGradient, gradient
from relprop.analyzers.lrp import LRP
from relprop.analyzers.occlusion import Occlusion
from relprop.analyzers.sampling import IntegratedGradients, SmoothGrad

__all__ = [
    "LRP",
    "Analyzer",
    "AnswerExplainer",
    "Augmentation",
    "BiLRP",
    "BlockSum",
    "Call",
    "FunctionAnalyzer",
    "GradCAM",
    "Gradient",
    "InputTimesGradient",
    "IntegratedGradients",
    "InterpolationAugmentation",
    "NoiseAugmentation",
    "Occlusion",
    "SmoothGrad",
    "TranslationAugmentation",
    "gradient",
]
