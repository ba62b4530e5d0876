"""Sources of models: one registered value each, own ones too; and models are not artifacts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from relprop import models
from relprop.errors import ArtifactError, ModelError
from relprop.models import LoadedModel, Preprocess, Source, Spec, load_model, parse, register_source
from relprop.models import sources as registry


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(registry, "_SOURCES", dict(registry._SOURCES))

    def read(text: str) -> Spec | None:
        head, colon, name = text.partition(":")
        return Spec("zoo", name) if head == "zoo" and colon and name else None

    def load(spec: Spec) -> LoadedModel:
        return LoadedModel(nn.Sequential(nn.Flatten(), nn.Linear(12, int(spec.name))), str(spec), None, Preprocess())

    source = Source("zoo", "zoo:CLASSES", read, load)
    register_source(source)
    return source


def test_a_source_of_ones_own(own: Source):
    loaded = load_model("zoo:7")
    assert loaded.name == "zoo:7"
    assert loaded.model(torch.rand(1, 3, 2, 2)).shape == (1, 7)
    assert not loaded.model.training
    assert str(parse(" zoo:7 ")) == "zoo:7"
    with pytest.raises(ModelError, match=r"one of: demo, .*, zoo:CLASSES"):
        parse("zoo:")


def test_each_source_reads_its_own_form_only():
    texts = {"demo": "demo", "torchvision": "torchvision:a@b", "timm": "timm:a", "hf": "hf:a@b", "python": "a.py:b@c"}
    texts |= {"demo-vit": "demo-vit"}
    assert texts.keys() == registry._SOURCES.keys()
    for name, text in texts.items():
        read_by = [source.name for source in registry._SOURCES.values() if source.read(text) is not None]
        assert read_by == [name]
        assert str(parse(text)) == text
        assert any(form.startswith(text[:3]) or name == "python" for form in registry.forms())


def test_models_and_artifacts_are_told_apart():
    assert relprop.load is relprop.load_artifact
    assert models.load is models.load_model
    for text in ("demo", "torchvision:vgg16@DEFAULT", "hf:a/b", "net.py:make"):
        with pytest.raises(ArtifactError, match=r"names a model, and not an artifact: relprop\.models\.load_model"):
            relprop.load_artifact(text)
    with pytest.raises(ModelError, match=r"is an artifact.*relprop\.load_artifact reads it"):
        load_model("folder/model.pt2")
