"""`LRP`, the analyzer: a model, a composite, and the programs that explain it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.analyzers import checks as _checks
from relprop.analyzers.captured import Layers, Prepared, ledger_of, prepare
from relprop.composites import Composite
from relprop.composites.composite import as_composite
from relprop.composites.table import entries, printed
from relprop.engine.graph.capture import capture
from relprop.engine.graph.graph import Node, shape_of
from relprop.engine.graph.signature import batch_size, signature_of, usable
from relprop.engine.layers.layers import Layer, layers_of_modules
from relprop.engine.program.answer import Explained
from relprop.engine.program.compiled import Compiler
from relprop.engine.rewrites import Canonize, FuseBatchNorm, as_rewrites, canonical
from relprop.engine.rewrites.chains import is_sequential
from relprop.engine.rewrites.modules import WithoutSoftmax, flatten_model
from relprop.engine.rewrites.registered import collapse_registered
from relprop.engine.rewrites.softmax import strip_graph
from relprop.errors import CompositeError, InputError
from relprop.explanations.explanation import Explanation
from relprop.rules import PassRule, Rule
from relprop.targets import Target
from relprop.targets.output import check_target

NO_TUPLE = "example_inputs is a tensor; give the model's positional inputs as a tuple: (x,)."


class LRP:
    """Layer-wise Relevance Propagation for a PyTorch model (Bach et al. 2015).

    The model is read as a graph by `torch.export`, when an input of a new signature comes (dtype, device, and shape but
    for the batch), and is never changed. Its parameters are not copied: training on, loading, moving it are followed.
    (What is written through `.data` behind autograd's back goes unnoticed.)

    Args:
        model: any module that `torch.export` can capture.
        composite: which rule goes to which layer: a `Composite`, one rule for every layer, or a list with a rule for
            each row of the printed table that takes one (a fused batch norm takes none). None: the 0-rule everywhere.
        example_inputs: positional inputs, as a tuple; captures the model now, so that problems show now.
        canonize: fuse batch norms into the layers before or behind them, and hold constant what selective scans select
            (MambaLRP). `"thresholds"`: also where a ReLU is between a batch norm and the layer behind it (DenseNet).
            Or which rewrites, in order: `(HoldSelections(), FuseBatchNorm(thresholds=True))` of `relprop.rewrites`.
        flatten: number layers through; `False`: index them per container of the model, and let `layers=True` mean
            the outermost containers.
        normalize_output: relevance starts with 1 at the target; `False`: with the output's value.
        checks: refuse inputs that are not finite and models that end in a softmax.
        memory: `"keep"`: weights that rules have modified are kept between calls, a second copy for rules such as
            `ZPlusRule`; `"low"`: they are made on the fly, layer by layer, in every call.
        checkpoint: keep only the activations at the borders of √n parts of n operators (an int: of so many parts), and
            run each part again when relevance comes by (Chen et al. 2016): less memory, one more forward pass.

    Raises:
        SoftmaxOutputError, UnexplainedError, CompositeError, RuleError, CaptureError, InputError: with the next step.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop import LRP
        >>> from relprop.composites import EpsilonPlus
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3, bias=False))
        >>> lrp = LRP(model, EpsilonPlus())
        >>> print(lrp)
        LRP(
          0: Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), bias=False) => ZPlusRule(),
          1: ReLU()                                                      => PassRule(),
          2: Flatten(start_dim=1, end_dim=-1)                            => PassRule(),
          3: Linear(in_features=8, out_features=3, bias=False)           => EpsilonRule(epsilon=1e-06),
        )
        >>> expl = lrp(torch.rand(5, 1, 4, 4), target=2, audit=True)
        >>> expl.relevance.shape
        torch.Size([5, 1, 4, 4])
        >>> expl.ledger.imbalance < 1e-4
        True
    """

    def __init__(
        self,
        model: nn.Module,
        composite: Composite | Rule | Sequence[Rule] | None = None,
        *,
        example_inputs: Sequence[Any] | None = None,
        canonize: Canonize = True,
        flatten: bool = True,
        normalize_output: bool = True,
        checks: bool = True,
        memory: Literal["keep", "low"] = "keep",
        checkpoint: bool | int = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"LRP takes a torch.nn.Module, got {type(model).__name__}.")
        if memory not in ("keep", "low"):
            raise InputError(f"memory={memory!r} is neither 'keep' nor 'low'.")
        if not isinstance(checkpoint, int) or checkpoint < 0:
            raise InputError(f"checkpoint={checkpoint!r}: give True, or into how many parts to cut the forward pass.")
        if isinstance(example_inputs, Tensor):
            raise InputError(NO_TUPLE)
        model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
        self._strip = isinstance(model, WithoutSoftmax)
        self._source: nn.Module = model.model if isinstance(model, WithoutSoftmax) else model
        self._rewrites, self._flatten = as_rewrites(canonize), flatten
        self._keep_weights, self._checkpoint = memory == "keep", checkpoint
        self._normalize_output, self._checks = normalize_output, checks
        self.composite = as_composite(composite)
        self._prepared: dict[Any, list[Prepared]] = {}
        self._latest: Prepared | None = None
        self._parameters: list[int] | None = None
        self._warned = False
        self._compiler: Compiler | None = None
        if checks:
            _checks.check_last_module(self._source)
        if is_sequential(self._source):
            self._assign(self.layers)
        if example_inputs is not None:
            self._prepare(tuple(example_inputs), {})

    @property
    def model(self) -> nn.Module:
        """The model as its layers are numbered: flattened, unless `flatten=False`."""
        return flatten_model(self._source) if self._flatten else self._source

    @property
    def layers(self) -> list[Layer]:
        """The table's rows: in order of execution once the model was captured, else in that of registration."""
        if self._latest is not None:
            return self._latest.layers
        return layers_of_modules(
            self._source, flatten=self._flatten, fuse=any(isinstance(r, FuseBatchNorm) for r in self._rewrites)
        )

    def __call__(
        self, *args: Any, target: Target = None, layers: Layers = None, audit: bool = False, **kwargs: Any
    ) -> Explanation:
        """Explain a batch.

        Args:
            *args: the model's inputs; their first dimension is the batch.
            **kwargs: those that have names.
            target: None for the largest output of each sample, an int, integers of shape (B,), a tuple that indexes one
                sample's output, or a function from the output (B, ...) to its relevance.
            layers: also return relevance at the output of these modules: True for every layer, or names and globs.
            audit: also return the books.

        Raises:
            InputError, TargetError: before any work on the model.
        """
        prepared, leaves, wanted = self._start(args, kwargs, [target], layers)
        call = prepared.call(leaves, target, wanted, audit)
        run = partial(prepared.explain, call, self._normalize_output, audit)
        if self._compiler is None or audit:
            found = run()
        else:
            found = self._compiler.explain(prepared.compiled, call, self._normalize_output, run)
        return _explanation(prepared, found, audit)

    def each(
        self,
        *args: Any,
        targets: Sequence[Target],
        layers: Layers = None,
        chunk: int | None = None,
        **kwargs: Any,
    ) -> list[Explanation]:
        """Explain several targets of a batch with one forward pass: `[lrp(x, target=t) for t in targets]`, faster.

        Denominators, which do not depend on the target, are computed once and kept meanwhile. Relevance of several
        targets may travel together, which takes as much more memory.

        Args:
            *args: the model's inputs, as in a call.
            **kwargs: those that have names.
            targets: what `target` may be in a call, one for each explanation.
            layers: as in a call.
            chunk: targets at a time. None: one on a CPU, where more bring nothing, and all on other devices.

        Raises:
            InputError, TargetError: before any work on the model.

        Examples:
            >>> import torch
            >>> from torch import nn
            >>> from relprop import LRP
            >>> lrp = LRP(nn.Linear(3, 2, bias=False))
            >>> [tuple(expl.relevance.shape) for expl in lrp.each(torch.rand(4, 3), targets=[0, 1])]
            [(4, 3), (4, 3)]
        """
        several = list(targets) if isinstance(targets, Iterable) else []
        if not several or not (chunk is None or (isinstance(chunk, int) and chunk > 0)):
            raise InputError(
                f"each() takes at least one target, in a list, and a chunk of at least 1; got targets={targets!r}, "
                f"chunk={chunk!r}."
            )
        prepared, leaves, wanted = self._start(args, kwargs, several, layers)
        found = prepared.explain_each(leaves, several, self._normalize_output, wanted, chunk)
        return [_explanation(prepared, one, audit=False) for one in found]

    def _start(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], targets: Sequence[Target], layers: Layers
    ) -> tuple[Prepared, list[Any], dict[str, Node]]:
        """What a call does before it runs the model: checks, the program, flat inputs, nodes to record."""
        if self._checks or not args:
            _checks.check_inputs(self._source, args, kwargs, finite=self._checks)
        self._warn_once()
        prepared = self._prepare(args, kwargs)
        shape = shape_of(prepared.program.explained)
        for target in targets:
            check_target(target, batch_size(args, kwargs) or 1, shape[1:] if shape else ())
        leaves = [usable(leaf) for leaf in pytree.tree_leaves((list(args), dict(kwargs)))]
        return prepared, leaves, prepared.wanted(layers, self._flatten)

    def attribute(self, inputs: Any, target: Target = None, **kwargs: Any) -> Any:
        """Captum's signature: relevance of `inputs`, a tensor for a tensor and a tuple for a tuple.

        Raises:
            InputError, TargetError: as the call does.
        """
        several = isinstance(inputs, tuple)
        relevance = self(*inputs if several else (inputs,), target=target, **kwargs).relevance
        return (relevance if isinstance(relevance, tuple) else (relevance,)) if several else relevance

    def export(
        self,
        path: str | os.PathLike[str],
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        target: Target | Literal["input"] = None,
        layers: Layers = None,
    ) -> Path:
        """Write a program that takes the model's inputs and returns output and relevance, and that needs only torch.

        `torch.export.load(path).module()(x)` returns a dict: `output`, `relevance` (a tuple for several inputs),
        `target`, and `layers` if they were asked for. Batches of any size fit if they do here. `relprop.load(path)`
        checks inputs and returns an `Explanation`.

        Args:
            path: a file that ends in `.pt2`, or in `.onnx` for what ONNX has operators for. One that exists is
                replaced, once the new one is complete.
            example_inputs: positional inputs as a tuple, or keyword inputs as a dict; the program is tried on them.
                None: zeros in the shapes of the last call.
            target: as in a call, fixed in the program; `"input"` makes it an input `target` of the program, a
                LongTensor (B,) of classes (for outputs of other shapes, of indices into a sample's flattened output).
            layers: as in a call.

        Raises:
            ArtifactError: the file cannot be written, or ONNX lacks an operator. MissingExtraError: onnx is not
                installed. InputError, TargetError: as the call does.
        """
        from relprop.analyzers.artifact import write

        file = write.check_path(path)
        args, kwargs = self._examples(example_inputs)
        prepared = self._prepare(args, kwargs)
        wanted = prepared.wanted(layers, self._flatten)
        job = write.Job(
            program=prepared.with_outputs(wanted),
            wanted=wanted,
            target=target,
            normalize_output=self._normalize_output,
            checks=self._checks,
            model=type(self._source).__name__,
            table=str(self),
        )
        write.write(job, file, args, kwargs)
        return file

    def compile(self, **options: Any) -> LRP:
        """Run forward and relevance as one graph that `torch.compile` made, from the next call on.

        Compiling takes time at the first call of each kind: with and without a target, for each set of layers and each
        new input signature. Batches may vary. Audited calls and target functions run as they are. Where `torch.compile`
        fails, one warning says so, and everything runs as it is.

        Args:
            options: for `torch.compile`, such as `backend` and `mode`.

        Returns:
            This analyzer, which has changed: `lrp = LRP(model, composite).compile()`.
        """
        self._compiler = Compiler(options)
        for prepared in (p for several in self._prepared.values() for p in several):
            prepared.compiled.clear()
        return self

    def __repr__(self) -> str:
        return "\n".join(line for line, _ in self._lines())

    def __str__(self) -> str:
        return printed(self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        layers = self.layers
        known = self._latest is not None or is_sequential(self._source)
        if not known and not isinstance(
            self.composite, Composite
        ):  # rules by position, and positions are not known yet
            waiting = [(layer.row, "known after the first call") for layer in layers]
            return [("LRP(", "plain"), *entries(waiting, indent=2), (")", "plain")]
        rules = self._latest.row_rules if self._latest is not None else self._assign(layers)
        note = "" if known else "  # modules as registered; order and functional operators show after the first call"
        rows = [
            (layer.row, f"fused into {layer.fused_into}" if layer.fused_into is not None else rule)
            for layer, rule in zip(layers, rules, strict=True)
        ]
        return [("LRP(" + note, "plain"), *entries(rows, indent=2), (")", "plain")]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave captured programs behind: they are made anew at the next call."""
        return self.__dict__ | {"_prepared": {}, "_latest": None, "_parameters": None}

    def _examples(self, given: Sequence[Any] | Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs; where none are given, zeros in the shapes of the latest call."""
        if isinstance(given, Tensor):
            raise InputError(NO_TUPLE)
        if given is None:
            if self._latest is None:
                raise InputError("Nothing was explained yet, so give example inputs: export(path, (x,)).")
            return self._latest.program.graph.examples()
        args = () if isinstance(given, Mapping) else tuple(given)
        kwargs = dict(given) if isinstance(given, Mapping) else {}
        _checks.check_inputs(self._source, args, kwargs, finite=self._checks)
        return args, kwargs

    def _warn_once(self) -> None:
        if not self._warned and self._source.training:
            self._warned = True
            _checks.warn_if_training(self._source)

    def _assign(self, layers: list[Layer]) -> list[Rule]:
        """The rule of each row; a row that was fused away has none of its own."""
        if isinstance(self.composite, Composite):
            return self.composite.assign(layers)
        own = [layer for layer in layers if layer.fused_into is None]
        if len(self.composite) != len(own):
            table = "\n".join(f"  {layer.row}" for layer in own)
            raise CompositeError(
                f"There are {len(self.composite)} rules, but the model has {len(own)} layers that take one:\n{table}"
            )
        given = iter(self.composite)
        return [next(given) if layer.fused_into is None else PassRule() for layer in layers]

    def _prepare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Prepared:
        self._forget_if_replaced()
        key, leaves = signature_of(args, kwargs), pytree.tree_leaves((list(args), dict(kwargs)))
        for known in self._prepared.get(key, []):
            if known.program.graph.serves(leaves):
                self._latest = known
                return known
        graph = capture(self._source, args, kwargs)
        if self._strip:
            graph = strip_graph(graph)
        graph = canonical(collapse_registered(graph), self._rewrites)
        prepared = prepare(
            graph,
            self._source,
            self._assign,
            flatten=self._flatten,
            checks=self._checks,
            keep_weights=self._keep_weights,
            checkpoint=self._checkpoint,
        )
        self._prepared.setdefault(key, []).append(prepared)
        self._latest = prepared
        return prepared

    def _forget_if_replaced(self) -> None:
        """Captured programs hold the parameters themselves: where others took their place, capture anew."""
        parameters = [id(t) for t in (*self._source.parameters(), *self._source.buffers())]
        if parameters != self._parameters:
            self._prepared.clear()
        self._parameters = parameters


def _explanation(prepared: Prepared, found: Explained, audit: bool) -> Explanation:
    several = tuple(found.inputs.values())
    return Explanation(
        relevance=several[0] if len(several) == 1 else several,
        inputs=found.inputs,
        outputs=lambda: pytree.tree_unflatten(found.outputs(), prepared.program.graph.out_spec),
        target=found.target,
        layers=found.layers,
        ledger=ledger_of(found.result, prepared.rules) if audit else None,
    )
