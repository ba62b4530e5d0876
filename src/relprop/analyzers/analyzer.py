"""What all analyzers share: a model, checks, inputs, targets, `attribute`, explanations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.analyzers import checks as _checks
from relprop.analyzers.captured import explained_output, ledger_of
from relprop.analyzers.captures import Shared, captures_of
from relprop.analyzers.inputs import ambiguous_names, names_options, refuse_ambiguous
from relprop.engine.graph.graph import Graph, Node
from relprop.engine.graph.shadow import unwrapped
from relprop.engine.graph.signature import Inputs, batch_size, inputs_of, usable
from relprop.engine.ops.units import OwnRule
from relprop.engine.program.question import Answer
from relprop.engine.rewrites import Canonize, as_rewrites, canonical
from relprop.engine.rewrites.constants import hold_inputs
from relprop.engine.rewrites.modules import WithoutSoftmax
from relprop.engine.rewrites.registered import Taught
from relprop.engine.rewrites.samples import keep_batch, without_batch
from relprop.engine.rewrites.softmax import strip_graph
from relprop.errors import InputError
from relprop.explanations.explanation import Explanation
from relprop.explanations.origin import Origin, sample_of
from relprop.rules import Rule
from relprop.targets import Largest, Normalize, Target, TargetLike, as_target

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Call:
    """Inputs and targets that were checked.

    Attributes:
        shared: the captured graph that serves the inputs.
        inputs: flat, one for each of the graph's inputs.
        starts: the node that each target speaks of.
        targets: one for each explanation that is asked for.
        options: what else the method was asked.
    """

    shared: Shared
    inputs: list[Any]
    starts: list[Node]
    targets: list[Target]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The captured graph."""
        return self.shared.graph


class Analyzer(ABC):
    """A model and a method that explains it, called like the model. Subclass it and write `answers`.

    The model is captured by `torch.export`, when an input of a new signature comes (dtype, device, and shape but for
    the batch), and is never changed. All analyzers of a model share what was captured.

    Args:
        model: any module that `torch.export` can capture.
        example_inputs: positional inputs as a tuple, or keyword inputs as a dict; captures the model now.
        canonize: see `LRP`.
        output: which of several outputs is explained, by name or number. None: the one called `logits` or `out` if
            there is one, else the first that depends on the inputs.
        normalize_output: see `LRP`; of derivatives, `False` multiplies by the explained amount.
        checks: refuse inputs that are not finite and models that end in a softmax.
        classes: names of the classes, so that they can be targets. None: those of a Hugging Face config.
        operators: what `register_op` says, for this analyzer alone: operator -> the name of one that is like it, or
            a subclass of `relprop.engine.ops.Step`.
        modules: what `register_module` says, for this analyzer alone: class of modules -> rule.
        constant: names of inputs that count as constants, such as a graph's adjacency: what they would get stays in the
            ledger under their name, and their relevance is 0.

    Raises:
        SoftmaxOutputError, CaptureError, InputError: with the next step.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"target"})
    multiplies_by_inputs: bool = True
    """Relevance is a share of the output. A derivative is none, before it is multiplied by the input."""

    def __init__(
        self,
        model: nn.Module,
        *,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        canonize: Canonize = True,
        output: str | int | None = None,
        normalize_output: Normalize = "magnitude",
        checks: bool = True,
        classes: Sequence[str] | None = None,
        operators: Mapping[Any, Any] | None = None,
        modules: Mapping[type[nn.Module], OwnRule] | None = None,
        constant: str | Sequence[str] = (),
    ) -> None:
        if not isinstance(model, nn.Module):
            made = isinstance(model, type) and issubclass(model, nn.Module)
            helps = f" {model.__name__} is a class of modules: give one of them, {model.__name__}(...)." if made else ""
            raise InputError(f"{type(self).__name__} takes a torch.nn.Module, got {type(model).__name__}.{helps}")
        if not (output is None or isinstance(output, (str, int))):
            raise InputError(f"output={output!r}: give the name or the number of one of the model's outputs.")
        if normalize_output not in (True, False, "magnitude"):
            raise InputError(f"normalize_output={normalize_output!r}: give 'magnitude', True or False.")
        model = unwrapped(model)
        self._strip = isinstance(model, WithoutSoftmax)
        self._source: nn.Module = model.model if isinstance(model, WithoutSoftmax) else model
        self._rewrites, self._output = as_rewrites(canonize), output
        self._normalize_output, self._checks = normalize_output, checks
        self._classes = list(classes) if classes is not None else _names_of_classes(self._source)
        self._ambiguous = ambiguous_names(self._source, self.OPTIONS)
        Taught.now(operators, modules)  # refuses what is wrong before there is work
        self._own, self._taught = (operators, modules), cast("Taught | None", None)
        self._constant = (constant,) if isinstance(constant, str) else tuple(constant)
        self._warned = False
        examples = None if example_inputs is None else inputs_of(example_inputs)
        if checks:
            _checks.check_last_module(self._source)
        if examples is not None:
            self._started(*examples, explains=False)

    def in_units_of_the_amount(
        self, explanation: Explanation, scores: Float[Tensor, "B *any"]
    ) -> Float[Tensor, "B *any"]:
        """Scores of relevance as `normalize_output=False` gives them, so that they compare between samples.

        A share of an output that is near 0 is large whatever the sample shows.

        Args:
            explanation: that they are of.
            scores: sums of its relevance, a row for each sample.
        """
        amount = explanation.amount
        if self._normalize_output is False or amount is None:
            return scores
        by = amount if self._normalize_output is True else amount.abs()
        by = torch.where(by == 0, 1, by).to(device=scores.device, dtype=scores.dtype)
        return scores * by.reshape(-1, *[1] * (scores.dim() - 1))

    @abstractmethod
    def answers(self, call: Call) -> Iterable[Answer]:
        """One answer for each of the call's targets."""

    def __call__(self, *args: Any, target: TargetLike = None, **kwargs: Any) -> Explanation:
        """Explain a batch.

        Args:
            *args: the model's inputs; their first dimension is the batch.
            **kwargs: those that have names.
            target: None for the largest output of each sample, an int or the name of a class, integers of shape (B,), a
                tuple that indexes one sample's output, a function from the output (B, ...) to its relevance, or one of
                `relprop.targets`.

        Raises:
            InputError, TargetError: before any work on the model.
        """
        refuse_ambiguous(() if target is None else ("target",), self._ambiguous, self._source)
        return self._explained((args, kwargs), [target])[0]

    def explain(self, inputs: Tensor | Sequence[Any] | Mapping[str, Any], target: TargetLike = None) -> Explanation:
        """The call, with the model's inputs in one object: a tensor, a tuple, or a dict of keyword inputs."""
        return self._explained(in_one(inputs), [target])[0]

    def attribute(self, inputs: Any, target: TargetLike = None, **kwargs: Any) -> Any:
        """The call's relevance alone: a tensor for a tensor, a tuple for a tuple, a dict for a dict.

        For the arguments and the forms of targets that Captum's methods take, see `relprop.analyzers.adapters.captum`.

        Args:
            inputs: the model's inputs in one object.
            target: as in a call.
            **kwargs: options of the call, and further inputs by name.

        Raises:
            InputError, TargetError: as the call does.
        """
        args, named = in_one(inputs)
        found = self(*args, target=target, **named, **kwargs)
        if isinstance(inputs, Mapping):
            return dict(found.by_input)
        several = isinstance(inputs, (tuple, list))
        relevance = found.relevance
        return (relevance if isinstance(relevance, tuple) else (relevance,)) if several else relevance

    def on(self, model: nn.Module) -> Self:
        """The same method with the same options on another model that is built alike, such as one with other weights.

        Args:
            model: in the place of the analyzer's.
        """
        twin = copy(self)
        model = unwrapped(model)
        twin._source = model.model if isinstance(model, WithoutSoftmax) else model
        twin._warned = False
        return twin

    @property
    def explained(self) -> nn.Module:
        """The model whose output is explained: without the softmax that it was given without."""
        return WithoutSoftmax(self._source) if self._strip else self._source

    # What a call does.

    def asked(self, **options: Any) -> Mapping[str, Any]:
        """A call's keywords, but for `target`, as `answers` finds them in `Call.options`."""
        return options

    def _explained(
        self, inputs: Inputs, targets: Sequence[TargetLike], options: Mapping[str, Any] | None = None
    ) -> list[Explanation]:
        return list(self._explanations(inputs, targets, options))

    def _explanations(
        self, inputs: Inputs, targets: Sequence[TargetLike], options: Mapping[str, Any] | None = None
    ) -> Iterator[Explanation]:
        known = {id(target): as_target(target, self._classes) for target in targets}  # the same one stays the same one
        call = self._call(inputs, [known[id(target)] for target in targets], options or {})
        for number, answer in zip(range(len(call.targets)), self.answers(call), strict=True):
            yield self._explanation(call, number, answer)

    def _call(self, inputs: Inputs, targets: list[Target], options: Mapping[str, Any]) -> Call:
        """What comes before any work: checks, the captured graph, flat inputs."""
        args, kwargs = inputs
        masks = False
        if self._checks or not args:
            masks = _checks.check_inputs(self._source, args, kwargs, finite=self._checks)
        self._warn_once()
        try:
            shared = self._started(args, kwargs)
        except InputError as error:
            raise names_options(error, kwargs, self._source, self.OPTIONS) from error
        starts = [self.start_of(shared, options, target.output) for target in targets]
        detach = self.detaches(options)
        leaves = [usable(leaf, detach=detach) for leaf in pytree.tree_leaves((list(args), dict(kwargs)))]
        if masks:
            _checks.check_masks(shared.graph, leaves)
        for start, target in zip(starts, targets, strict=True):
            shape = shared.graph.shape_at(start, leaves)
            target.check(_checks.check_samples(shape, batch_size(args, kwargs) or 1), shape[1:])
        return Call(shared, leaves, starts, targets, options)

    def detaches(self, options: Mapping[str, Any]) -> bool:
        """Inputs lose their autograd history, so that an explanation holds on to nothing."""
        return True

    def start_of(self, shared: Shared, options: Mapping[str, Any], output: str | int | None) -> Node:
        """The node that a target speaks of: an output of the model, the one that it names or else the analyzer's."""
        return explained_output(shared.graph, self._output if output is None else output)

    def _started(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, explains: bool = True) -> Shared:
        """The captured graph that serves some inputs."""
        taught = self._taught or Taught.now(*self._own)
        rewrites = tuple(r if isinstance(r, Hashable) else id(r) for r in self._rewrites)
        recipe, rewrite = (self._strip, rewrites, taught, self._constant), partial(self._canonical, taught)
        find = partial(captures_of(self._source).find, self._source, args, kwargs)
        shared = find(recipe, rewrite, explains=explains)
        if batch_size(args, kwargs) == 1 and any(map(without_batch, shared.graph.outputs)):
            shared = find(("sample", *recipe), lambda graph: keep_batch(rewrite(graph)), explains=False)
        self._taught = taught  # what is registered or taken back later is for analyzers that come later
        return shared

    def _canonical(self, taught: Taught, graph: Graph) -> Graph:
        if self._strip:
            graph = strip_graph(graph)
        graph = hold_inputs(graph, self._constant)
        return canonical(taught.into(graph), self._rewrites)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = _checks.warn_if_training(self._source)

    def rules_of(self, call: Call, target: Target) -> Mapping[Node, Rule]:
        """The rule of each operator that a target's relevance reaches, for the books."""
        return {}

    def _explanation(self, call: Call, number: int, answer: Answer) -> Explanation:
        several, target = tuple(answer.inputs.values()), call.targets[number]
        books = answer.books
        ledger = None if books is None else ledger_of(books, several, self.rules_of(call, target))
        return Explanation(
            relevance=several[0] if len(several) == 1 else several,
            _outputs=lambda: pytree.tree_unflatten(answer.outputs(), call.graph.out_spec),
            target=answer.index,
            by_input=answer.inputs,
            layers=answer.relevance,
            activations=answer.activations,
            parameters=answer.parameters,
            coefficients=answer.coefficients,
            edges=answer.edges,
            places=answer.positions,
            ledger=ledger,
            _explains=target.__str__,
            _amount=answer.amount,
            origin=self._origin(call, number),
        )

    def again(self, call: Call, number: int, options: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        """A call's options for one of its targets, with others beside them; and whether that asks for a part.

        Args:
            call: that was made.
            number: of the target.
            options: keywords of a call that are new, or take the place of earlier ones.
        """
        return {**call.options, **options}, False

    def _origin(self, call: Call, number: int) -> Origin:
        """What an explanation knows of its call."""
        target = call.targets[number]

        def inputs() -> Inputs:
            args, kwargs = pytree.tree_unflatten(call.inputs, call.graph.in_spec)
            return tuple(args), dict(kwargs)

        def given() -> dict[str, Tensor]:
            named = zip((node.name for node in call.graph.inputs), call.inputs, strict=True)
            return {name: leaf for name, leaf in named if isinstance(leaf, Tensor)}

        def ask(target: TargetLike, sample: int | None = None, **options: Any) -> Explanation:
            asked, count = inputs(), batch_size(*inputs())
            if sample is not None:
                asked = pytree.tree_map(lambda leaf: sample_of(leaf, sample, count), asked)
            known = self.again(call, number, options)[0]
            if sample is not None and count != 1 and any(map(_for_each, pytree.tree_leaves(known.get("conditions")))):
                raise InputError(
                    "Conditions with a mask for each sample are asked of the whole batch, not of one sample."
                )
            return self._explained(asked, [target], known)[0]

        def settings() -> dict[str, str]:
            return self.described() | {"target": "None" if isinstance(target, Largest) else repr(target)}

        def part() -> bool:
            return self.again(call, number, {})[1]

        return Origin(self, target, inputs, given, settings, ask, part, self._classes)

    def described(self) -> dict[str, str]:
        """The method and its options in words, with the model's class and versions: what pages and files say."""
        plain = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        options = [f"{name}={value!r}" for name, value in plain.items() if isinstance(value, (str, int, float))]
        known = {"analyzer": type(self).__name__, "options": ", ".join(options), "model": type(self._source).__name__}
        return known | {"relprop": version("relprop"), "torch": torch.__version__}


def _for_each(mask: Any) -> bool:
    """It may have a row for each sample: nobody knows how many dimensions the relevance has."""
    return isinstance(mask, Tensor) and mask.dim() > 1 and len(mask) > 1


def in_one(inputs: Tensor | Sequence[Any] | Mapping[str, Any]) -> Inputs:
    """Inputs that came as one object: a tensor, a tuple, or a dict."""
    return ((inputs,), {}) if isinstance(inputs, Tensor) else inputs_of(inputs, "inputs")


def _names_of_classes(model: nn.Module) -> list[str] | None:
    """Those in the config of a Hugging Face classifier, which come in the order of its outputs."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, Mapping) or sorted(names) != list(range(len(names))):
        return None
    return [str(names[i]) for i in range(len(names))]
