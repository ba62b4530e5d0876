"""Models hold more than tensors: locks, files, records, kept activations, wrappers. The model stays as it was."""

from __future__ import annotations

import copy
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.versions import export_refuses
from torch import Tensor, nn
from torch.nn.utils import prune

from relprop import LRP
from relprop.engine.graph.capture import capture
from relprop.engine.graph.shadow import copy_modules, shadow_of, trial_of, unwrapped
from relprop.errors import CaptureError


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def explained(model: nn.Module, x: Tensor) -> Tensor:
    relevance: Tensor = LRP(model, normalize_output=False)(x, target=1).relevance
    return relevance


def input_times_gradient(model: nn.Module, x: Tensor) -> Tensor:
    a = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(a)[:, 1].sum(), a)
    return x * gradient


class Store:
    """What a tool keeps beside a model."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Tensor]] = {"outputs": []}

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept["outputs"].append(output)


def with_lock(model: nn.Sequential) -> None:
    model.lock = threading.Lock()


def with_file(model: nn.Sequential) -> None:
    model[0].log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the model lives)


def with_generator(model: nn.Sequential) -> None:
    model.batches = (i for i in range(3))


def with_kept_activation(model: nn.Sequential) -> None:
    model.last = model(torch.ones(1, 4))


def with_recorder(model: nn.Sequential) -> None:
    model[1].register_forward_hook(Store())


def with_pruned_weight(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[0], "weight", amount=0.3)


def with_weight_norm(model: nn.Sequential) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[2])


def with_spectral_norm(model: nn.Sequential) -> None:
    nn.utils.spectral_norm(model[0])


def with_itself(model: nn.Sequential) -> None:
    model.parts = [model, {"first": model[0]}]


HOLDING = [
    with_lock,
    with_file,
    with_generator,
    with_kept_activation,
    with_recorder,
    with_pruned_weight,
    with_weight_norm,
    with_spectral_norm,
    with_itself,
]


@pytest.mark.parametrize("hold", HOLDING)
def test_what_a_model_holds_is_no_hindrance(hold: Callable[[nn.Sequential], None]) -> None:
    model, x = chain(), torch.randn(3, 4)
    hold(model)
    model(x)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    torch.testing.assert_close(explained(model, x), input_times_gradient(model, x))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class Stateful(nn.Module):
    """Writes into all that a module can hold, in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.store, self.calls = nn.Linear(4, 3), Store(), []
        self.register_buffer("seen", torch.zeros(3))
        self.nested: dict[str, list[Any]] = {"shapes": []}

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.seen += 1
        self.calls.append(y)
        self.nested["shapes"].append(1)
        self.store(self, x, y)
        self.latest = y
        return y


@export_refuses
def test_forward_writes_into_a_copy() -> None:
    model = Stateful().eval()
    capture(model, (torch.randn(2, 4),))
    assert not model.seen.any()
    assert model.calls == []
    assert model.nested == {"shapes": []}
    assert model.store.kept == {"outputs": []}
    assert not hasattr(model, "latest")


class Renormalized(nn.Linear):
    """A max-norm constraint, as EEGNet has it: the weight is replaced in forward."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.1)
        return super().forward(x)


def test_a_trial_replaces_its_own_weights_only() -> None:
    model = Renormalized(4, 3).eval()
    before = model.weight.detach().clone()
    trial_of(model)(torch.randn(2, 4))
    assert torch.equal(model.weight, before)


def test_shared_parts_stay_shared_and_tensors_are_the_originals() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.append(model[0])
    model.also = model[0]
    shadow = shadow_of(model)
    assert shadow[0] is shadow[2] is shadow.also
    assert shadow[0] is not model[0]
    assert shadow[0].weight is model[0].weight
    twin = trial_of(model)
    assert twin[0].weight is twin[2].weight
    assert twin[0].weight is not model[0].weight
    assert twin[0].weight.data_ptr() == model[0].weight.data_ptr()


def test_a_method_that_a_module_holds_is_its_copy_s() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.run = self.straight

        def straight(self, x: Tensor) -> Tensor:
            assert not self.training
            return self.linear(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.run(x)

    model, x = Chooses(), torch.randn(2, 4)
    assert model.training
    torch.testing.assert_close(explained(model, x), x * model.linear.weight[1].detach())


def test_long_lists_cost_nothing() -> None:
    model, x = chain(), torch.randn(2, 4)
    explained(model, x)
    model[0].records = [{"a": i, "b": [i] * 5} for i in range(100_000)]
    model[1].vocabulary = {str(i): i for i in range(100_000)}
    begin = time.process_time()
    copied = shadow_of(model)
    assert time.process_time() - begin < 0.2
    assert copied[0].records == model[0].records
    assert copied[0].records[0] is model[0].records[0]
    begin = time.process_time()
    explained(model, x)
    assert time.process_time() - begin < 2


def test_a_copy_keeps_wrappers_and_training_mode() -> None:
    model = nn.DataParallel(chain())
    model.module.train()
    copied = copy_modules(model)
    assert type(copied) is nn.DataParallel
    assert copied.module.training
    assert copied.module[0].weight is model.module[0].weight
    assert unwrapped(model) is model.module
    assert unwrapped(torch.compile(model)) is model.module


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda m: nn.Sequential(torch.compile(m))])
def test_wrappers_hand_on(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, x = chain(), torch.randn(3, 4)
    torch.testing.assert_close(explained(wrap(model), x), input_times_gradient(model, x))


def quantized(model: nn.Module, x: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})


REFUSED = {
    "quantized.*float model": quantized,
    "has no shape yet": lambda model, x: nn.LazyLinear(3),
    "'meta' device": lambda model, x: copy.deepcopy(model).to("meta"),
}


@pytest.mark.parametrize("said", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_modules_without_python_code_are_refused_by_name(said: str) -> None:
    model, x = chain(), torch.randn(2, 4)
    with pytest.raises(CaptureError, match=said):
        LRP(REFUSED[said](model, x))(x, target=1)


def test_a_config_is_changed_in_the_copy() -> None:
    class Config:
        use_cache = True

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.linear = Config(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            y = F.relu(self.linear(x))
            return {"cache": y * 0, "logits": y} if self.config.use_cache else {"logits": y}

    model = Decoder()
    assert capture(model, (torch.randn(2, 4),)).out_spec.context == ["logits"]
    assert model.config.use_cache
