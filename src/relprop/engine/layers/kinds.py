"""Kinds of layers that rules can be assigned to: module classes, operator names, or the groups defined here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from relprop.engine.ops import known_operators
from relprop.errors import CompositeError

ModuleType = type[nn.Module] | None


@dataclass(frozen=True)
class TypeGroup:
    """Module classes and operators that belong together, so that `nn.ReLU` and `F.relu` are one kind."""

    name: str
    modules: tuple[type[nn.Module], ...]
    operators: frozenset[str]

    def matches(self, module_type: ModuleType, operators: frozenset[str]) -> bool:
        """Whether a module of this class (None: a functional operator) that runs these operators belongs here.

        A user's own module that does one thing is what its operator is.
        """
        if module_type is not None and issubclass(module_type, self.modules):
            return True
        by_operator = module_type is None or not module_type.__module__.startswith("torch.nn.")
        return by_operator and bool(operators & self.operators)

    def __repr__(self) -> str:
        return self.name

    def __or__(self, other: TypeGroup) -> TypeGroup:
        return TypeGroup(f"{self.name} | {other.name}", self.modules + other.modules, self.operators | other.operators)


def _group(name: str, modules: tuple[type[nn.Module], ...], rewritten: str = "") -> TypeGroup:
    """The operators whose row says so, and those that have none, as they are rewritten."""
    stated = {op.name for op in known_operators().values() if name in op.layers}
    return TypeGroup(name, modules, frozenset(stated.union(rewritten.split())))


ConvLayer = _group("ConvLayer", (nn.modules.conv._ConvNd,))
"""Convolutions, the transposed ones too."""
LinearLayer = _group("LinearLayer", (nn.Linear,), "addmm")
"""`nn.Linear`, and products with a weight."""
PoolingLayer = _group(
    "PoolingLayer",
    (
        nn.modules.pooling._MaxPoolNd,
        nn.modules.pooling._AvgPoolNd,
        nn.modules.pooling._AdaptiveAvgPoolNd,
        nn.modules.pooling._AdaptiveMaxPoolNd,
    ),
)
"""Average, maximum and adaptive pools, means and maxima."""
DropoutLayer = _group("DropoutLayer", (nn.modules.dropout._DropoutNd,))
"""Dropout of every kind."""
_PADDINGS = tuple(getattr(nn.modules.padding, f"_{kind}PadNd") for kind in ("Constant", "Reflection", "Replication"))
ReshapingLayer = _group(
    "ReshapingLayer",
    (nn.Flatten, nn.Unflatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, *_PADDINGS),
)
"""What moves values: flattening, views, permutations, padding, shuffles."""
NormalizationLayer = _group(
    "NormalizationLayer",
    (
        nn.modules.batchnorm._NormBase,
        nn.LayerNorm,
        nn.GroupNorm,
        *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
    ),
    "batch_norm layer_norm group_norm instance_norm rms_norm",
)
"""Batch, layer, group, instance and RMS norms."""
BatchNormLayer = _group("BatchNormLayer", (nn.modules.batchnorm._BatchNorm,), "batch_norm")
"""Batch norms; a rule for them holds where they are not fused."""
ActivationLayer = _group(
    "ActivationLayer",
    tuple(
        getattr(nn, name)
        for name in [
            "ReLU",
            "ReLU6",
            "LeakyReLU",
            "PReLU",
            "RReLU",
            "ELU",
            "SELU",
            "CELU",
            "GELU",
            "SiLU",
            "Mish",
            "Hardswish",
            "Hardsigmoid",
            "Hardtanh",
            "Tanh",
            "Sigmoid",
            "LogSigmoid",
            "Softplus",
            "Softsign",
            "Softshrink",
            "Hardshrink",
            "Tanhshrink",
            "Threshold",
        ]
    ),
)
"""Elementwise nonlinearities."""

ProductLayer = _group("ProductLayer", (), "mul mul_ baddbmm")
"""Products of data with data, such as gates."""
SoftmaxLayer = _group("SoftmaxLayer", (nn.Softmax, nn.LogSoftmax))
"""Softmax and log-softmax, as in attention that is spelled out."""
AttentionLayer = _group("AttentionLayer", ())
"""Fused attention."""
JOINED = "joined"
"""What a layer is said to consist of besides its operators, where it adds up several values of data."""
ResidualLayer = _group("ResidualLayer", (), JOINED)
"""Sums of data with data, such as residual connections; not those of data with position embeddings and the like."""

PASSING = DropoutLayer | ReshapingLayer | ActivationLayer

LayerType = type[nn.Module] | str | TypeGroup


def type_matches(kind: LayerType, module_type: ModuleType, operators: frozenset[str]) -> bool:
    """Whether a layer is of a module class (or a subclass), consists of an operator, or belongs to a group."""
    if isinstance(kind, TypeGroup):
        return kind.matches(module_type, operators)
    if isinstance(kind, str):
        return kind in operators or (module_type is not None and _names(kind, module_type))
    return module_type is not None and issubclass(module_type, kind)


def _names(kind: str, module_type: type[nn.Module]) -> bool:
    """`"Conv2d"`, and also `"conv2d"` or `"batch_norm"`, the operators that such modules leave when captured."""
    plain, name = kind.replace("_", "").lower(), module_type.__name__.lower()
    return kind == module_type.__name__ or plain == name or plain == name.rstrip("d").rstrip("123")


def check_type(kind: object) -> None:
    """Raise `CompositeError` unless composites can assign rules by this type."""
    known = isinstance(kind, (str, TypeGroup)) or (isinstance(kind, type) and issubclass(kind, nn.Module))
    if not known:
        raise CompositeError(
            f"{kind!r} is no layer type. Give a module class such as nn.Linear, the name of an operator such as "
            "'conv2d', or a group such as relprop.composites.ConvLayer."
        )


def show_type(kind: LayerType) -> str:
    """A type as composites print it: `nn.Linear`, `'conv2d'`, `ConvLayer`."""
    if isinstance(kind, str):
        return repr(kind)
    if isinstance(kind, TypeGroup):
        return kind.name
    module = kind.__module__
    return f"nn.{kind.__name__}" if module.startswith("torch.nn.") else kind.__name__
