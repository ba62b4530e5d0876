"""Composites by name: one table, of which every row makes a composite."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relprop.composites import AttnLRP, Composite, EpsilonGammaBox, recommended
from relprop.composites.names import (
    RECOMMENDED,
    TABLE,
    Given,
    check_composite,
    composite_names,
    make_composite,
    name_for,
)
from relprop.errors import CompositeError
from relprop.models import demo

BOUNDS = torch.full((1, 3, 1, 1), -2.0), torch.full((1, 3, 1, 1), 2.0)


def test_every_row_makes_a_composite_and_stands_once():
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
    for row in TABLE:
        assert row.kinds
        assert isinstance(row.make(Given(nn.Linear(1, 1), *BOUNDS)), Composite)


def test_the_box_gets_the_bounds():
    made = make_composite("epsilon-gamma-box", Given(nn.Linear(1, 1), *BOUNDS), "pictures")
    assert str(made) == str(EpsilonGammaBox(*BOUNDS))


@pytest.mark.parametrize("kind", ["pictures", "text"])
def test_names_of_the_other_kind_are_refused(kind):
    check_composite(RECOMMENDED, kind)
    for other in {row.name for row in TABLE} - set(composite_names(kind)) | {"", "plus"}:
        with pytest.raises(
            CompositeError, match=f"unknown composite '{other}'.*choose one of {composite_names(kind)[0]},"
        ):
            make_composite(other, Given(nn.Linear(1, 1)), kind)


LAYER = nn.TransformerEncoderLayer(4, 2, batch_first=True)
MODELS = {
    "epsilon-gamma-flat": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
    "epsilon-gamma": nn.Sequential(nn.Conv1d(1, 4, 9), nn.ReLU()),
    "reslrp-gamma": demo.load_vit(),
    "attnlrp": nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)),
    "reslrp-cp": nn.Sequential(nn.Embedding(5, 4), nn.TransformerEncoder(LAYER, 1)),
    "epsilon": nn.Sequential(nn.Linear(3, 2)),
}
RECURRENT = nn.Sequential(nn.LSTM(3, 2))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_recommended_has_a_name_of_its_own(name):
    model = MODELS[name]
    assert name_for("recommended", model) == name
    kind = "text" if isinstance(next(model.children()), nn.Embedding) else "pictures"
    made = make_composite(name, Given(model), kind)
    assert made == recommended(model) == make_composite("recommended", Given(model), kind)
    assert name_for("epsilon-plus", model) == "epsilon-plus"


def test_recurrent_networks_are_recommended_what_sequences_are():
    assert recommended(RECURRENT) == AttnLRP()
    assert "recurrence" in recommended(RECURRENT).reason


def test_only_what_reads_text_is_an_encoder_of_text():
    series = nn.Sequential(nn.Linear(3, 4), nn.TransformerEncoder(LAYER, 1))
    both = nn.Sequential(nn.Embedding(5, 4), nn.Conv2d(3, 4, 4), nn.TransformerEncoder(LAYER, 1))  # such as CLIP
    speaks = nn.Sequential(nn.Embedding(5, 4), nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 1), 1))
    assert recommended(series) == recommended(both) == recommended(speaks) == AttnLRP()
