"""`LRP`, the analyzer: a model, a composite, and the programs that explain it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from relprop.analyzers.analyzer import Call, in_one
from relprop.analyzers.captured import Captured, Layers, captured
from relprop.analyzers.captures import Shared, captures_of
from relprop.analyzers.doubts import Doubts
from relprop.analyzers.exporting import Exporting
from relprop.analyzers.inputs import refuse_ambiguous
from relprop.analyzers.options import Conditions, Edges, Options, Paths, asked_again, by_output, check_masks, paired
from relprop.composites import Composite
from relprop.composites.assign import rules_of_layers
from relprop.composites.composite import as_composite, name_of
from relprop.composites.table import Line, Printed, table_of_layers
from relprop.engine.graph.graph import Node
from relprop.engine.graph.signature import Inputs, batch_size, inputs_of
from relprop.engine.layers.layers import Layer, layers_of_modules
from relprop.engine.ops.units import OwnRule
from relprop.engine.program.question import Answer
from relprop.engine.rewrites import Canonize, FuseBatchNorm
from relprop.engine.rewrites.chains import is_sequential
from relprop.engine.rewrites.modules import flatten_model
from relprop.errors import InputError
from relprop.explanations.explanation import Explanation
from relprop.rules import Rule
from relprop.targets import Normalize, Target, TargetLike


class LRP(Printed, Exporting):
    """Layer-wise Relevance Propagation for a PyTorch model (Bach et al. 2015).

    The model is read as a graph by `torch.export`, when an input of a new signature comes (dtype, device, and shape but
    for the batch), and is never changed. Its parameters are not copied: training on, loading, moving it are followed,
    and so are changes of modules, hooks and attributes (docs/performance.md says how).

    Args:
        model: any module that `torch.export` can capture.
        composite: which rule goes to which layer: a `Composite`, one rule for every layer, or a list with a rule for
            each row of the printed table that takes one (a fused batch norm takes none). None: the 0-rule everywhere.
        example_inputs: positional inputs as a tuple, or keyword inputs as a dict; captures the model now, so that
            problems show now.
        canonize: fuse batch norms into the layers before or behind them, and hold constant what selective scans select
            (MambaLRP). `"thresholds"`: also where a ReLU is between a batch norm and the layer behind it (DenseNet).
            Or which rewrites, in order: `(HoldSelections(), FuseBatchNorm(thresholds=True))` of `relprop.rewrites`.
        flatten: number layers through; `False`: index them per container of the model, and let `layers=True` mean
            the outermost containers.
        output: which of several outputs is explained, by name or number. None: the one called `logits` or `out` if
            there is one, else the first that depends on the inputs.
        normalize_output: `"magnitude"`: relevance starts with the target's amount by its magnitude, so that what is
            positive speaks for it whatever its sign; `True`: with 1; `False`: with the amount (docs/targets.md).
        checks: refuse inputs that are not finite and models that end in a softmax, and warn of relevance that has
            exploded or vanished (docs/accounting.md).
        classes: names of the classes, so that they can be targets. None: those of a Hugging Face config.
        operators: what `register_op` says, for this analyzer alone: operator -> the name of one that is like it, or
            a subclass of `relprop.engine.ops.Step`.
        modules: what `register_module` says, for this analyzer alone: class of modules -> rule.
        constant: names of inputs that count as constants, such as a graph's adjacency: what they would get stays in the
            ledger under their name, and their relevance is 0.
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
        LRP(  # EpsilonPlus()
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

    OPTIONS: ClassVar[frozenset[str]] = Options.names() | {"target"}

    def __init__(
        self,
        model: nn.Module,
        composite: Composite | Rule | Sequence[Rule] | None = None,
        *,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        canonize: Canonize = True,
        flatten: bool = True,
        output: str | int | None = None,
        normalize_output: Normalize = "magnitude",
        checks: bool = True,
        classes: Sequence[str] | None = None,
        operators: Mapping[Any, Any] | None = None,
        modules: Mapping[type[nn.Module], OwnRule] | None = None,
        constant: str | Sequence[str] = (),
        memory: Literal["keep", "low"] = "keep",
        checkpoint: bool | int = False,
    ) -> None:
        if memory not in ("keep", "low"):
            raise InputError(f"memory={memory!r} is neither 'keep' nor 'low'.")
        if not isinstance(checkpoint, int) or checkpoint < 0:
            raise InputError(f"checkpoint={checkpoint!r}: give True, or into how many parts to cut the forward pass.")
        made: dict[str, Any] = {"canonize": canonize, "output": output, "constant": constant, "checks": checks}
        made["normalize_output"] = normalize_output
        super().__init__(model, classes=classes, operators=operators, modules=modules, **made)
        self._flatten, self._keep_weights, self._checkpoint = flatten, memory == "keep", checkpoint
        made |= {"flatten": flatten, "memory": memory, "checkpoint": checkpoint}
        defaults = LRP.__init__.__kwdefaults__ or {}
        self._changed = [f"{name}={value!r}" for name, value in made.items() if value != defaults.get(name)]
        self.composite = as_composite(composite)
        self._known: weakref.WeakKeyDictionary[Shared, dict[Any, Captured]] = weakref.WeakKeyDictionary()
        self._shared: Shared | None = None
        self._compiler = None
        self._doubts = Doubts()
        if is_sequential(self._source):
            self._assign(self.layers)
        if example_inputs is not None:
            self._captured(self._started(*inputs_of(example_inputs), explains=False))

    @property
    def model(self) -> nn.Module:
        """The model as its layers are numbered: flattened, unless `flatten=False`."""
        return flatten_model(self._source) if self._flatten else self._source

    @property
    def layers(self) -> list[Layer]:
        """The table's rows: in order of execution once the model was captured, else in that of registration."""
        if self._latest is not None:
            return self._latest.layers
        fuses = any(isinstance(rewrite, FuseBatchNorm) for rewrite in self._rewrites)
        return layers_of_modules(self._source, flatten=self._flatten, fuse=fuses)

    @property
    def rules(self) -> list[Rule]:
        """The rule of each of them."""
        return self._latest.row_rules if self._latest is not None else self._assign(self.layers)

    def __call__(
        self,
        *args: Any,
        target: TargetLike = None,
        layers: Layers = None,
        audit: bool = False,
        start: str | None = None,
        conditions: Conditions = None,
        activations: Layers = None,
        parameters: bool = False,
        differentiable: bool = False,
        paths: Paths = "all",
        coefficients: Layers = None,
        edges: Edges = (),
        positions: bool = False,
        **kwargs: Any,
    ) -> Explanation:
        """Explain a batch.

        Args:
            *args: the model's inputs; their first dimension is the batch.
            **kwargs: those that have names.
            target: None for the largest output of each sample, an int or the name of a class, integers of shape (B,), a
                tuple that indexes one sample's output, a function from the output (B, ...) to its relevance, or one of
                `relprop.targets`.
            layers: also return relevance at the output of these modules: True for every layer, or names and globs.
                `NAME:input` is the input of a module that has one.
            audit: also return the books.
            start: relevance starts at the output of this module instead of the model's; the target speaks of it then.
            conditions: module -> what becomes of the relevance at its output: a mask that broadcasts to it, a concept
                of `relprop.concepts` such as `Channels(3, 7)`, a function that is linear and takes each entry by
                itself, or `"stop"`. On several modules they hold together.
            activations: also return values at the output of these modules.
            parameters: also return relevance of parameters: of a weight's entries what went through them, of biases and
                other constants what they kept.
            differentiable: keep relevance differentiable in inputs and parameters.
            paths: what becomes of relevance on ways that pass by the modules with conditions, such as skip connections:
                `"all"` keeps it, `"through"` takes it away.
            coefficients: also return `c` of `R = a · c` at the output of these modules.
            edges: also return the relevance that one module sends to another which it reads: (read, reader) by names.
            positions: also return relevance that positions keep, see `Explanation.positions`.

        Raises:
            InputError, TargetError: before any work on the model.
        """
        asked = layers, audit, start, conditions, activations, parameters
        options = Options(*asked, differentiable, paths, coefficients, edges, positions)
        given = options.given() + (() if target is None else ("target",))
        refuse_ambiguous(given, self._ambiguous, self._source)
        return next(self.ask((args, kwargs), [target], options))

    def explain(
        self, inputs: Tensor | Sequence[Any] | Mapping[str, Any], target: TargetLike = None, **options: Any
    ) -> Explanation:
        """The call, with the model's inputs in one object: a tensor, a tuple, or a dict of keyword inputs.

        Args:
            inputs: the model's inputs.
            target: as in a call.
            **options: as in a call.
        """
        return next(self.ask(in_one(inputs), [target], Options(**options)))

    def each(
        self,
        *args: Any,
        targets: Sequence[TargetLike] | TargetLike = None,
        conditions: Sequence[Conditions] | None = None,
        layers: Layers = None,
        audit: bool = False,
        start: str | None = None,
        activations: Layers = None,
        paths: Paths = "all",
        chunk: int | None = None,
        **kwargs: Any,
    ) -> list[Explanation]:
        """Explain several targets of a batch with one forward pass: `[lrp(x, target=t) for t in targets]`, faster.

        Denominators, which depend on neither targets nor conditions, are computed once and kept meanwhile. Relevance
        of several targets may travel together, which takes as much more memory.

        Args:
            *args: as in a call.
            **kwargs: as in a call.
            layers: as in a call.
            audit: as in a call.
            start: as in a call.
            activations: as in a call.
            paths: as in a call.
            targets: what `target` may be in a call, one for each explanation, in a list.
            conditions: what `conditions` may be in a call, one for each explanation, in a list. Where only one of
                `targets` and `conditions` is a list of several, the other is the same for all.
            chunk: targets at a time. None: on a GPU as many as its memory has room for; on a CPU one, where more bring
                nothing, and as many of short texts as are faster together.

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
        if "target" in kwargs and "target" not in self._ambiguous:
            raise InputError(
                f"each() takes several targets, targets=[{kwargs['target']!r}, ...]; a call takes target=."
            )
        several, under = paired(targets, conditions, chunk)
        options = Options(layers, audit, start, None, activations, paths=paths)
        named = {"targets": targets, "conditions": conditions, "chunk": chunk}
        given = (*options.given(), *(name for name, value in named.items() if value is not None))
        refuse_ambiguous(given, self._ambiguous, self._source)
        return list(self.ask((args, kwargs), several, options, under, chunk=chunk))

    def ask(
        self,
        inputs: Inputs,
        targets: Sequence[TargetLike],
        options: Options,
        conditions: Sequence[Conditions] | None = None,
        *,
        chunk: int | None = None,
    ) -> Iterator[Explanation]:
        """What `each` does, one explanation after the other, for analyzers that are made of this one.

        Args:
            inputs: positional and keyword inputs.
            targets: one for each explanation.
            options: the same for all.
            conditions: those of each explanation; None: those of the options.
            chunk: as in `each`.
        """
        under = [options.conditions] * len(targets) if conditions is None else conditions
        asked = {"options": options, "conditions": under, "chunk": chunk}
        return self._explanations(inputs, targets, asked)

    def nodes(self, inputs: Inputs, names: Sequence[str]) -> list[Node]:
        """Where modules are in the graph that serves some inputs, for analyzers that are made of this one."""
        known = self._captured(self._started(*inputs))
        return [known.node(name, "layers") for name in names]

    @property
    def settings(self) -> str:
        """The options that change relevance and are not what they are by default, as `repr` prints them."""
        return ", ".join(given for given in self._changed if given.split("=")[0] not in ("memory", "checkpoint"))

    def described(self) -> dict[str, str]:
        return {"composite": name_of(self.composite), **super().described(), "options": self.settings}

    def asked(self, **options: Any) -> Mapping[str, Any]:
        given = Options(**options)
        return {"options": given, "conditions": [given.conditions], "chunk": None}

    def start_of(self, shared: Shared, options: Mapping[str, Any], output: str | int | None) -> Node:
        start: Node = options["options"].start_of(self._captured(shared, output))
        return start

    def detaches(self, options: Mapping[str, Any]) -> bool:
        return not options["options"].differentiable

    def rules_of(self, call: Call, target: Target) -> Mapping[Node, Rule]:
        return self._captured(call.shared, target.output).rules

    def again(self, call: Call, number: int, options: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        return asked_again(call.options, number, options)

    def _explanation(self, call: Call, number: int, answer: Answer) -> Explanation:
        found, options = super()._explanation(call, number, answer), call.options["options"]
        if self._checks and options.asks_the_whole and not any(call.options["conditions"]):
            self._doubts.look(found, self._normalize_output, audits=not self._checkpoint)
        return found

    def answers(self, call: Call) -> Iterable[Answer]:
        """One answer per target, on one forward pass for each output that they speak of."""
        found: dict[str | int | None, Iterator[Answer]] = {}
        for output, rows in by_output(call.targets).items():
            found[output] = iter(self._answers(call, self._captured(call.shared, output), rows))
        return (next(found[target.output]) for target in call.targets)

    def _answers(self, call: Call, known: Captured, rows: Sequence[int]) -> Iterable[Answer]:
        """Of the targets of those numbers, which speak of one output."""
        options, under, normalize = call.options["options"], call.options["conditions"], self._normalize_output
        questions = [options.question(known, call.targets[i], normalize, under[i]) for i in rows]
        for question in questions:
            if question.conditions:
                check_masks(question.conditions, batch_size(call.inputs, {}) or 1)
        options.warn_of_memory(self._checkpoint)
        program, inputs, questions = known.fit(call.inputs, questions)
        chunk, segments = call.options["chunk"], known.segments(program)
        return self._run(known, program, inputs, questions, chunk=chunk, segments=segments)

    def _lines(self) -> list[Line]:
        layers, named = self.layers, getattr(self.composite, "name", "")
        made = ", ".join([*([named] if named else []), *self._changed])
        known = self._latest is not None or is_sequential(self._source)
        if not known and not isinstance(self.composite, Composite):  # rules by position, which is not known yet
            return table_of_layers("LRP", made, layers, ["known after the first call"] * len(layers))
        note = "" if known else "modules as registered; order and functional operators show after the first call"
        return table_of_layers("LRP", "; ".join(part for part in (made, note) if part), layers, self.rules)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave captured programs behind: they are made anew at the next call."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_known", "_shared")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_known": weakref.WeakKeyDictionary(), "_shared": None}

    @property
    def _latest(self) -> Captured | None:
        """What the latest call used, if it still fits the model."""
        shared = self._shared
        fits = shared is not None and captures_of(self._source).holds(self._source, shared)
        return self._known.get(shared, {}).get(None) if shared is not None and fits else None

    def _assign(self, layers: list[Layer]) -> list[Rule]:
        """The rule of each row."""
        return rules_of_layers(self.composite, layers)

    def _captured(self, shared: Shared, output: str | int | None = None) -> Captured:
        """A captured graph with this analyzer's rules, for the output that a target names or else the analyzer's."""
        with shared.lock:
            known = self._known.setdefault(shared, {})
            if output not in known:
                constants, named = shared.constants(keep=self._keep_weights), self._output if output is None else output
                how: Any = {"output": named, "flatten": self._flatten, "checkpoint": self._checkpoint}
                how["checks"] = self._checks
                known[output] = captured(shared.graph, constants, self._source, self._assign, **how)
        self._shared = shared
        return known[output]
