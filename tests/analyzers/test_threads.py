"""Calls from several threads: one capture per input signature, and nobody waits for what is not theirs."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.networks import small
from torch import Tensor

from relprop import LRP
from relprop.analyzers import captures, lrp
from relprop.composites import EpsilonPlusFlat
from relprop.errors import CaptureError

TIMEOUT = 60.0
"""Seconds after which a thread counts as one that hangs."""


class Counted:
    """A function that counts its calls, and does `first` at the beginning of each."""

    def __init__(self, function: Callable[..., Any], first: Callable[[int], None] = lambda call: None) -> None:
        self.function, self.first, self.calls = function, first, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        self.first(self.calls)
        return self.function(*args, **kwargs)


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *first: Callable[[int], None]) -> Counted:
    function = Counted(getattr(module, name), *first)
    monkeypatch.setattr(module, name, function)
    return function


def together(*works: Callable[[], Any]) -> list[Any]:
    """What each returns, or the error that it raises, in threads of their own that start at the same time."""
    start, results = threading.Barrier(len(works)), dict[int, Any]()

    def work(number: int) -> None:
        start.wait(TIMEOUT)
        try:
            results[number] = works[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(results) == len(works), "a thread hangs"
    return [results[i] for i in range(len(works))]


@pytest.mark.parametrize("analyzers", [1, 4])
def test_first_calls_of_one_signature_share_one_capture(monkeypatch: pytest.MonkeyPatch, analyzers: int) -> None:
    model, x = small(), torch.rand(2, 3, 12, 12)
    captured, compiled = counted(monkeypatch, captures, "capture"), counted(monkeypatch, lrp, "captured")
    several = [LRP(model, EpsilonPlusFlat()) for _ in range(analyzers)]
    found = together(*[lambda i=i: several[i % analyzers](x, target=1).relevance for i in range(4)])
    assert (captured.calls, compiled.calls) == (1, analyzers)
    for relevance in found:
        assert isinstance(relevance, Tensor), relevance
        assert torch.equal(relevance, several[0](x, target=1).relevance)


def test_after_a_capture_that_fails_the_next_thread_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_once(call: int) -> None:
        if call == 1:
            raise CaptureError("the first one fails")

    captured = counted(monkeypatch, captures, "capture", fail_once)
    analyzer, x = LRP(small()), torch.rand(2, 3, 12, 12)
    found = together(*[lambda: analyzer(x, target=1).relevance] * 4)
    assert captured.calls == 2
    assert sum(isinstance(one, CaptureError) for one in found) == 1
    assert sum(isinstance(one, Tensor) for one in found) == 3


def test_known_signatures_are_explained_while_another_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer, known, new = LRP(small()), torch.rand(2, 3, 12, 12), torch.rand(2, 3, 14, 14)
    analyzer(known, target=1)
    entered, go_on = threading.Event(), threading.Event()

    def hold(call: int) -> None:
        entered.set()
        assert go_on.wait(TIMEOUT)

    counted(monkeypatch, captures, "capture", hold)

    def explain_the_known() -> Tensor:
        assert entered.wait(TIMEOUT)
        for _ in range(4):  # the model itself is asked meanwhile, too
            relevance: Tensor = analyzer(known, target=1).relevance
        assert not go_on.is_set()
        go_on.set()
        return relevance

    first, second = together(lambda: analyzer(new, target=1).relevance, explain_the_known)
    assert isinstance(first, Tensor), first
    assert isinstance(second, Tensor), second
    assert (first.shape, second.shape) == (new.shape, known.shape)
    assert len(analyzer._known) == 2


def test_threads_of_several_signatures_and_composites_find_what_one_thread_finds() -> None:
    model, inputs = small(), [torch.rand(2, 3, size, size) for size in (12, 14)]
    several = [LRP(model, rules, memory=memory) for rules in (None, EpsilonPlusFlat()) for memory in ("keep", "low")]
    one = copy.deepcopy(model)
    alone = [[LRP(one, a.composite)(x, target=1).relevance for x in inputs] for a in several]

    def explain(first: int) -> list[tuple[int, int, Tensor]]:
        turns = [((first + k) % len(several), (first // 2 + k) % 2) for k in range(8)]
        return [(a, i, several[a](inputs[i], target=1).relevance) for a, i in turns]

    for found in together(*[lambda first=first: explain(first) for first in range(4)]):
        assert isinstance(found, list), found
        for a, i, relevance in found:
            assert torch.allclose(relevance, alone[a][i], rtol=1e-4, atol=1e-7)
