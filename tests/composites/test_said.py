"""What prints tell of how something was made, and hints where something else was meant."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relprop import LRP, canonize, layer_indices
from relprop.composites import AttnLRP, EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat, GlobalMap
from relprop.errors import CompositeError, InputError
from relprop.rules import ZeroRule


def test_presets_print_their_name() -> None:
    assert str(EpsilonPlus()).startswith("Composite(  # EpsilonPlus()\n")
    assert str(EpsilonPlus(1e-6, bias="ignore")).startswith("Composite(  # EpsilonPlus(bias='ignore')\n")
    assert str(EpsilonGammaBox(-1.0, 2.0)).startswith("Composite(  # EpsilonGammaBox(low=-1.0, high=2.0)\n")
    bounds = torch.tensor([[[-1.0]], [[-2.0]], [[-3.0]]])
    assert "low=tensor[3, 1, 1]" in str(EpsilonGammaBox(bounds, 3.0))
    assert EpsilonPlus(0.1) == EpsilonPlus(0.1)


def test_an_analyzer_says_how_it_was_made() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    assert repr(LRP(model)).startswith("LRP(\n")
    assert repr(LRP(model, EpsilonPlus())).startswith("LRP(  # EpsilonPlus()\n")
    made = LRP(model, AttnLRP(), normalize_output=False, canonize="thresholds", checkpoint=3)
    head = "LRP(  # AttnLRP(), canonize='thresholds', normalize_output=False, checkpoint=3\n"
    assert repr(made).startswith(head)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (EpsilonPlusFlat, r"call it: EpsilonPlusFlat\(\)"),
        (ZeroRule, r"ZeroRule is a class; give one of its values, such as ZeroRule\(\)"),
        ([ZeroRule], "is a class"),
        ("epsilon-plus", r"composites\.EpsilonPlus\(\)"),
        ("attnlrp", r"composites\.AttnLRP\(\)"),
        (GlobalMap(ZeroRule()), r"Composite\(GlobalMap\(\.\.\.\)\)"),
        (7, "got 7"),
    ],
    ids=["function", "class", "classes", "name", "another name", "primitive", "number"],
)
def test_what_is_no_composite_gets_a_hint(given: object, says: str) -> None:
    with pytest.raises(CompositeError, match=says):
        LRP(nn.Linear(3, 2), given)  # type: ignore[arg-type]


def test_checkpoints_that_cannot_hold_are_said() -> None:
    lrp, x = LRP(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), checkpoint=True), torch.rand(2, 3)
    with pytest.warns(UserWarning, match="saves no memory in this call") as given:
        lrp(x, differentiable=True)
    assert given[0].filename == __file__


def test_example_inputs_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, *, picture: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(picture)).mean((2, 3))

    model, named = Net().eval(), {"picture": torch.rand(2, 3, 8, 8)}
    model.norm.running_mean.uniform_()
    layer_indices(model, named)
    assert "0: Conv2d" in capsys.readouterr().out
    torch.testing.assert_close(canonize(model, named)(**named), model(**named))
    assert len(LRP(model, example_inputs=named).layers) > 1
    with pytest.raises(InputError, match=r"positional inputs as a tuple: \(x,\)"):
        LRP(model, example_inputs=named["picture"])  # type: ignore[arg-type]
