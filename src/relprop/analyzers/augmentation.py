"""Analyzers around another one, which average its answers over changed inputs."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from relprop.analyzers.analyzer import Analyzer, Call
from relprop.analyzers.captures import Shared
from relprop.analyzers.gradient import masks
from relprop.analyzers.inputs import refuse_ambiguous
from relprop.analyzers.sampling import Reference, between, check_noise, check_steps, held, noisy, references
from relprop.engine.graph.graph import Node
from relprop.engine.graph.run import values_of
from relprop.engine.graph.signature import Inputs
from relprop.engine.ops.analysis import reached_by_relevance
from relprop.engine.program.question import Answer
from relprop.errors import InputError
from relprop.explanations.explanation import Explanation
from relprop.targets import Seed, Target, TargetLike

if TYPE_CHECKING:
    from typing_extensions import Self

Back = Callable[[Tensor], Tensor]
Variants = Iterator[tuple[Sequence[Tensor], Back]]
"""Inputs that were changed, and what takes relevance of theirs back to the inputs as they were."""

PASSED = frozenset({"start", "conditions", "paths"})
"""Options of a call that say what is explained. Others ask for more than relevance of inputs."""


class Augmentation(Analyzer):
    """Averages relevance of inputs, as another analyzer finds it, over changed inputs. Write `variants`.

    What is explained is fixed by the unchanged inputs: their largest output, their runner-up. Floating point inputs are
    changed, but for masks; token ids are not.

    Args:
        analyzer: any analyzer, this kind too.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        if not isinstance(analyzer, Analyzer):
            raise InputError(
                f"{type(self).__name__} takes an analyzer, such as LRP(model, composite) or Gradient(model), got "
                f"{type(analyzer).__name__}."
            )
        self.analyzer = analyzer
        self._source, self._classes = analyzer._source, analyzer._classes
        self._normalize_output, self._ambiguous = analyzer._normalize_output, analyzer._ambiguous
        self.multiplies_by_inputs = analyzer.multiplies_by_inputs

    def on(self, model: nn.Module) -> Self:
        twin = super().on(model)
        twin.analyzer = self.analyzer.on(model)
        return twin

    @property
    def explained(self) -> nn.Module:
        return self.analyzer.explained

    @abstractmethod
    def variants(self, inputs: Sequence[Tensor], batch: int) -> Variants:
        """The changed inputs.

        Args:
            inputs: the floating point inputs.
            batch: the number of samples.
        """

    def finish(self, inputs: Sequence[Tensor], relevance: Sequence[Tensor]) -> Sequence[Tensor]:
        """What becomes of the mean, for each of the floating point inputs."""
        return relevance

    def __call__(self, *args: Any, target: TargetLike = None, **kwargs: Any) -> Explanation:
        """Explain a batch, as the analyzer does.

        Args:
            *args: the model's inputs; their first dimension is the batch.
            **kwargs: those that have names, and of the analyzer's options `start`, `conditions` and `paths`.
            target: as in the analyzer's call.

        Raises:
            InputError, TargetError: before any work on the model.
        """
        options = {name: kwargs.pop(name) for name in self.analyzer.OPTIONS & kwargs.keys()}
        refuse_ambiguous((*options, *(() if target is None else ("target",))), self._ambiguous, self._source)
        for name in options.keys() - PASSED:
            raise InputError(
                f"{type(self).__name__} averages relevance of inputs. For {name}= ask its analyzer itself, "
                f"{type(self.analyzer).__name__}."
            )
        return self._explained((args, kwargs), [target], self.asked(**options))[0]

    def asked(self, **options: Any) -> Mapping[str, Any]:
        return self.analyzer.asked(**options)

    def start_of(self, shared: Shared, options: Mapping[str, Any], output: str | int | None) -> Node:
        return self.analyzer.start_of(shared, options, output)

    def answers(self, call: Call) -> Iterator[Answer]:
        """One answer for each target, each a mean over the analyzer's answers."""
        for start, target in zip(call.starts, call.targets, strict=True):
            with torch.inference_mode(False), torch.no_grad():
                values = values_of(call.graph, call.inputs)
                outputs = [values[o] if isinstance(o, Node) else o for o in call.graph.outputs]
                output, seed = values[start], Seed(target, self._normalize_output)
                changed = self._changed(call, start, values)
                del values
                asked = replace(call, starts=[start], targets=[held(seed, output).target])
                relevance = self._mean(asked, changed, output.shape[0])
                answer = Answer(partial(list, outputs), target.index(output), relevance)
                yield replace(answer, amount=partial(seed.amount, output))

    def _call(self, inputs: Inputs, targets: list[Target], options: Mapping[str, Any]) -> Call:
        return self.analyzer._call(inputs, targets, options or self.asked())

    def _changed(self, call: Call, start: Node, values: Mapping[Node, Any]) -> dict[str, int]:
        """Name -> number, of the inputs that are changed."""
        reached = reached_by_relevance(start)
        read = [(i, n) for i, n in enumerate(call.graph.inputs) if n in reached]
        changed = {n.name: i for i, n in read if values[n].dim() and not masks(n, values[n])}
        if not changed:
            raise InputError(
                f"{type(self).__name__} changes floating point inputs, and this model reads none but masks. "
                "SmoothGrad and IntegratedGradients change the embeddings of token ids."
            )
        return changed

    def _mean(self, call: Call, changed: Mapping[str, int], batch: int) -> dict[str, Tensor]:
        """Relevance by input, of a call with one target."""
        inputs = [call.inputs[i] for i in changed.values()]
        total: dict[str, Tensor] = {}
        count = 0
        for variant, back in self.variants(inputs, batch):
            leaves, count = list(call.inputs), count + 1
            for i, x in zip(changed.values(), variant, strict=True):
                leaves[i] = x
            (answer,) = self.analyzer.answers(replace(call, inputs=leaves))
            for name, r in answer.inputs.items():
                r = back(r) if name in changed else r
                total[name] = total[name] + r if name in total else r
        relevance = {name: r / count for name, r in total.items()}
        return relevance | dict(zip(changed, self.finish(inputs, [relevance[n] for n in changed]), strict=True))


class NoiseAugmentation(Augmentation):
    """`R = 1/n Σ_k R(x + ε_k)` with `ε_k ~ N(0, (noise · (max x − min x))²)`; of `Gradient` it is `SmoothGrad`.

    Args:
        analyzer: any analyzer.
        samples: n. noise: the standard deviation, as a share of each sample's range.
        seed: of the random numbers, so that answers repeat. All samples of a batch get the same.

    Examples:
        >>> import torch
        >>> from relprop import LRP
        >>> from relprop.analyzers import NoiseAugmentation
        >>> smooth = NoiseAugmentation(LRP(torch.nn.Linear(3, 2)), samples=4)
        >>> smooth(torch.rand(2, 3), target=1).relevance.shape
        torch.Size([2, 3])
    """

    def __init__(self, analyzer: Analyzer, *, samples: int = 25, noise: float = 0.15, seed: int = 0) -> None:
        check_noise(type(self).__name__, samples, noise)
        super().__init__(analyzer)
        self.samples, self.noise, self.seed = samples, noise, seed

    def variants(self, inputs: Sequence[Tensor], batch: int) -> Variants:
        return ((x, _as_it_is) for x in noisy(inputs, batch, self.samples, self.noise, self.seed))


class InterpolationAugmentation(Augmentation):
    """`R = 1/n Σ_k R(r + t_k (x − r))` at the middles t_k of n equal steps from 0 to 1.

    Derivatives are multiplied by `x − r` in the end: of `Gradient` it is `IntegratedGradients`.

    Args:
        analyzer: any analyzer.
        reference: r, a number or a tensor that broadcasts to the inputs, or one for each of several inputs.
        steps: n.
    """

    def __init__(self, analyzer: Analyzer, *, reference: Reference = 0.0, steps: int = 50) -> None:
        check_steps(type(self).__name__, steps)
        super().__init__(analyzer)
        self.reference, self.steps = reference, steps
        self.multiplies_by_inputs = True

    def variants(self, inputs: Sequence[Tensor], batch: int) -> Variants:
        return ((x, _as_it_is) for x in between(inputs, references(self.reference, inputs), self.steps))

    def finish(self, inputs: Sequence[Tensor], relevance: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.analyzer.multiplies_by_inputs:
            return relevance
        starts = references(self.reference, inputs)
        return [(x - r) * g for x, r, g in zip(inputs, starts, relevance, strict=True)]


class TranslationAugmentation(Augmentation):
    """Relevance of inputs that were shifted, shifted back, and averaged over all shifts.

    What leaves on one side comes back on the other. Inputs (B, C, ...) are shifted in all dimensions from the third on,
    each by the same; others stay where they are.

    Args:
        analyzer: any analyzer.
        shift: the most pixels by which an input is shifted, in each direction.
        step: pixels from one shift to the next.
    """

    def __init__(self, analyzer: Analyzer, *, shift: int = 2, step: int = 1) -> None:
        if shift < 0 or step < 1:
            raise InputError(f"TranslationAugmentation takes shift >= 0 and step >= 1, got {shift} and {step}.")
        super().__init__(analyzer)
        self.shift, self.step = shift, step

    def variants(self, inputs: Sequence[Tensor], batch: int) -> Variants:
        dimensions = max(x.dim() for x in inputs) - 2
        if dimensions < 1:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise InputError(f"Nothing can be shifted in inputs of shape {shapes}: it takes (B, C, ...).")
        reach = self.shift // self.step * self.step
        shifts = range(-reach, reach + 1, self.step)
        for by in itertools.product(shifts, repeat=dimensions):
            yield [_rolled(x, by) for x in inputs], partial(_rolled, by=[-n for n in by])


def _as_it_is(relevance: Tensor) -> Tensor:
    return relevance


def _rolled(x: Tensor, by: Sequence[int]) -> Tensor:
    dims = range(2, x.dim())
    return x.roll(tuple(by[: len(dims)]), tuple(dims)) if dims else x
