"""A source as inputs of a model: concepts collected over it, interrupted, are those collected at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.jobs import write_model, write_pictures

from relprop import LRP
from relprop.composites import EpsilonGammaFlat
from relprop.concepts import References
from relprop.errors import InputError
from relprop.jobs import Samples
from relprop.models import load_model, open_picture


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", 10, ("left", "up"))


@pytest.fixture
def loaded(tmp_path):
    return load_model(write_model(tmp_path))


def test_inputs_and_classes(pictures, loaded):
    samples = Samples(loaded, pictures)
    paths = sorted(pictures.rglob("*.png"))
    assert list(samples.keys) == [f"{path.parent.name}/{path.name}" for path in paths]
    x, label = samples[-1]
    torch.testing.assert_close(x, loaded.preprocess(open_picture(paths[-1]))[0], rtol=0, atol=0)
    assert (samples[0][1], label) == (0, -1)  # "up" is no class
    batches = list(samples.batches(4))
    assert [tuple(x.shape) for x, _ in batches] == [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 5 + [-1] * 5
    with pytest.raises(IndexError):
        samples[10]
    paths[3].write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"sample 3, left/006.png, cannot be read"):
        list(samples.batches(4))


def test_without_names_of_classes_labels_are_numbers(pictures, loaded):
    (pictures / "left").rename(pictures / "2")
    samples = Samples(replace(loaded, classes=None), pictures)
    assert [label for _, label in samples] == [2] * 5 + [-1] * 5


def test_references_over_a_source_go_on(pictures, loaded, tmp_path):
    samples, lrp = Samples(loaded, pictures), LRP(loaded.model, EpsilonGammaFlat())
    whole = References(lrp, "2", k=3, target=1).collect(samples.batches(2))
    first = list(samples.batches(2))[:2]
    path = tmp_path / "references.safetensors"
    References(lrp, "2", k=3, target=1, path=path).collect(first)
    rest = References(lrp, "2", k=3, target=1, path=path).collect(samples.batches(2))
    assert rest.store.count == 10
    assert torch.equal(rest.store.top.sample, whole.store.top.sample)
    assert len(rest.of(0, samples, 2)) == 2
