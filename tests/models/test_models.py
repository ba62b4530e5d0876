"""Models from every source."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support import torchvision_shim

from relprop.errors import MissingExtraError, ModelError
from relprop.models import Preprocess, load, open_picture, parse
from relprop.models.loaded import optional_import
from relprop.models.sources.from_hf import _geometry

needs_torchvision = pytest.mark.skipif(not torchvision_shim.install(), reason="torchvision is not installed")


@pytest.fixture
def photograph():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (300, 200), Image.Resampling.BICUBIC
    )


# --- specifications ---


@pytest.mark.parametrize(
    ("text", "source", "name", "weights", "function"),
    [
        ("demo", "demo", "demo", None, None),
        ("torchvision:vgg16", "torchvision", "vgg16", None, None),
        ("torchvision:vgg16@IMAGENET1K_V1", "torchvision", "vgg16", "IMAGENET1K_V1", None),
        ("timm:resnet18.a1_in1k@pretrained", "timm", "resnet18.a1_in1k", "pretrained", None),
        ("timm:resnet18@some/@dir/w.pth", "timm", "resnet18", "some/@dir/w.pth", None),
        ("hf:google/vit-base-patch16-224", "hf", "google/vit-base-patch16-224", None, None),
        ("nets/my.py:build", "python", "nets/my.py", None, "build"),
        ("odd@dir/my.py:build@w.safetensors", "python", "odd@dir/my.py", "w.safetensors", "build"),
        (r"C:\nets\my.py:build", "python", r"C:\nets\my.py", None, "build"),
    ],
)
def test_specifications(text, source, name, weights, function):
    spec = parse(text)
    assert (spec.source, spec.name, spec.weights, spec.function) == (source, name, weights, function)
    assert str(spec) == text


@pytest.mark.parametrize(
    "text", ["", "vgg16", "torchvision:", "torchvision:vgg16@", "keras:vgg16", "my.py", "demo@x", "my.py:1f"]
)
def test_what_is_no_specification(text):
    with pytest.raises(ModelError, match=r"is no model specification; it is one of: demo, torchvision:NAME"):
        parse(text)


# --- the demo ---


def test_demo():
    from relprop.models.demo import CLASSES, load_samples, to_input

    loaded = load("demo")
    sample = load_samples()[0]
    x = loaded.preprocess(open_picture(sample.path))
    torch.testing.assert_close(x, to_input(sample.image))
    assert loaded.classes == list(CLASSES)
    assert not loaded.model.training
    assert loaded.model(x).shape == (1, len(CLASSES))


# --- torchvision ---


@needs_torchvision
def test_torchvision_without_weights_is_random_and_says_so():
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"torchvision:squeezenet1_1 has random weights .*@DEFAULT"):
        first = load("torchvision:squeezenet1_1")
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(1)
    with pytest.warns(UserWarning, match="random weights"):
        second = load("torchvision:squeezenet1_1")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert first.classes is None
    assert first.preprocess.resize == 256


@needs_torchvision
def test_torchvision_weights_by_name_and_from_the_same_file(tmp_path, monkeypatch, recwarn):
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    # torchvision looks here before it downloads anything
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    official = SqueezeNet1_1_Weights.IMAGENET1K_V1
    file = folder / official.url.rpartition("/")[2]
    trained = squeezenet1_1()
    torch.save(trained.state_dict(), file)
    for weights in ("IMAGENET1K_V1", "DEFAULT", "SqueezeNet1_1_Weights.IMAGENET1K_V1", str(file)):
        loaded = load(f"torchvision:squeezenet1_1@{weights}")
        assert torch.equal(loaded.model.features[0].weight, trained.features[0].weight)
        assert loaded.classes == list(official.meta["categories"])
        assert not loaded.model.training
    assert not [warning for warning in recwarn if "random" in str(warning.message)]


@needs_torchvision
def test_official_files_bring_what_torchvision_builds_for_them():
    from torchvision.models import get_model_weights

    from relprop.models.sources.from_torchvision import _arguments, _official

    vit = get_model_weights("vit_b_16")
    large = vit.IMAGENET1K_SWAG_E2E_V1
    spec = parse(f"torchvision:vit_b_16@weights/{large.url.rpartition('/')[2]}")
    assert _official(vit, spec) is large
    assert _arguments(spec, large) == {"image_size": 384}
    assert _official(vit, parse("torchvision:vit_b_16@weights/mine.pth")) is None


@needs_torchvision
def test_torchvision_errors(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="'resnt18' does not exist; did you mean resnet18"):
        load("torchvision:resnt18")
    with pytest.raises(ModelError, match="fasterrcnn"):  # not a classifier
        load("torchvision:fasterrcnn_resnet50_fpn")
    with pytest.raises(ModelError, match="no weights named 'V9'; it has IMAGENET1K_V1"):
        load("torchvision:squeezenet1_1@V9")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"51 missing: .*\n  1 of another shape: features.0.weight"):
        load(f"torchvision:squeezenet1_1@{tmp_path / 'w.pth'}")

    def no_network(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(ModelError, match=r"could not be downloaded from https://.*no network.*@FILE"):
        load("torchvision:squeezenet1_1@DEFAULT")


# --- timm ---


@needs_torchvision  # timm imports torchvision
def test_timm(tmp_path):
    timm = pytest.importorskip("timm")
    with pytest.warns(UserWarning, match=r"timm:test_vit has random weights .*@pretrained"):
        loaded = load("timm:test_vit")
    # its configuration: 160 pixels, 95 % of the shorter side, bicubic
    assert loaded.preprocess == Preprocess(168, (160, 160), (0.5,) * 3, (0.5,) * 3, "bicubic")
    assert loaded.classes is None
    trained = timm.create_model("test_vit")
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    loaded = load(f"timm:test_vit@{tmp_path / 'w.safetensors'}")
    assert torch.equal(loaded.model.head.weight, trained.head.weight)
    assert len(loaded.classes) == 1000
    assert loaded.classes[0].startswith("tench")


@needs_torchvision
def test_timm_errors(monkeypatch):
    timm = pytest.importorskip("timm")
    with pytest.raises(ModelError, match="'test_vitt' does not exist; did you mean test_vit"):
        load("timm:test_vitt")
    with pytest.raises(ModelError, match="for test_vit, the pretrained tag 'nope' does not exist; known: r160_in1k"):
        load("timm:test_vit@nope")
    asked = []

    def offline(name, pretrained):
        asked.append((name, pretrained))
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    for spec in ("timm:test_vit@pretrained", "timm:test_vit@r160_in1k"):
        with pytest.raises(ModelError, match="could not be loaded: cannot reach the hub"):
            load(spec)
    assert asked == [("test_vit", True), ("test_vit.r160_in1k", True)]


# --- Hugging Face ---


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    torchvision_shim.install()
    folder = tmp_path_factory.mktemp("hf")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16,
        id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    size, mean = {"height": 32, "width": 32}, [0.1, 0.2, 0.3]
    transformers.ViTImageProcessor(size=size, image_mean=mean, resample=3).save_pretrained(folder)
    return folder


def test_hugging_face(hf_folder, photograph):
    transformers = pytest.importorskip("transformers")
    loaded = load(f"hf:{hf_folder}")
    assert loaded.classes == ["cat", "dog"]
    assert (loaded.preprocess.resize, loaded.preprocess.crop) == ((32, 32), None)
    assert loaded.preprocess.interpolation == "bicubic"
    image = photograph.resize((32, 32))  # so that only the numbers count, not how the processor resizes
    processor = transformers.AutoImageProcessor.from_pretrained(hf_folder)
    expected = processor(images=image, return_tensors="pt").pixel_values
    torch.testing.assert_close(loaded.preprocess(image), expected)
    model = transformers.AutoModelForImageClassification.from_pretrained(hf_folder)
    assert torch.equal(loaded.model(expected), model(expected).logits)


def test_hugging_face_errors(hf_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="could not be loaded"):
        load(f"hf:{tmp_path}")
    backbone = transformers.AutoModelForImageClassification.from_pretrained(hf_folder).vit
    backbone.save_pretrained(tmp_path)
    transformers.AutoImageProcessor.from_pretrained(hf_folder).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks 2 weights of an image classifier: classifier.bias, classifier.weight"):
        load(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"do_resize": True, "size": {"height": 8, "width": 9}}, ((8, 9), None)),
        (
            {
                "do_resize": True,
                "size": {"shortest_edge": 10},
                "do_center_crop": True,
                "crop_size": {"height": 8, "width": 8},
            },
            (10, (8, 8)),
        ),
        ({"do_resize": True, "size": {"shortest_edge": 224}, "crop_pct": 0.875}, (256, (224, 224))),  # ConvNeXt
        ({"do_resize": True, "size": {"shortest_edge": 384}, "crop_pct": 0.875}, ((384, 384), None)),
        ({"do_resize": False, "size": {"height": 8, "width": 8}}, (None, None)),
    ],
)
def test_geometry_of_hugging_face_processors(fields, expected):
    assert _geometry(SimpleNamespace(**fields), parse("hf:x")) == expected


def test_unknown_geometry_is_refused():
    processor = SimpleNamespace(do_resize=True, size={"longest_edge": 8})
    with pytest.raises(ModelError, match="longest_edge"):
        _geometry(processor, parse("hf:x"))


# --- a user's file ---

USERS_FILE = """
import torch
from torch import nn
from relprop.models import Preprocess
from neighbour_of_a_users_file import WIDTH

CLASSES = ["left", "right"]
PREPROCESS = Preprocess(resize=4, crop=(4, 4))

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, WIDTH))

def number():
    return 3

def fails():
    raise ValueError("out of coffee")

def needs(size):
    return nn.Identity()
"""


@pytest.fixture
def users_file(tmp_path):
    (tmp_path / "neighbour_of_a_users_file.py").write_text("WIDTH = 2\n")
    (tmp_path / "net.py").write_text(USERS_FILE)
    return tmp_path / "net.py"


def test_a_users_file(users_file, photograph):
    path = list(sys.path)
    loaded = load(f"{users_file}:build")
    assert sys.path == path
    assert loaded.classes == ["left", "right"]
    assert loaded.model(loaded.preprocess(photograph)).shape == (1, 2)
    assert not loaded.model.training
    again = load(f"{users_file}:build", size=4, mean=[0.5], std=[0.25])
    assert torch.equal(again.model[1].weight, loaded.model[1].weight)
    assert again.preprocess == Preprocess(4, (4, 4), (0.5,) * 3, (0.25,) * 3)
    state = {name: value + 1 for name, value in loaded.model.state_dict().items()}
    torch.save(state, users_file.with_suffix(".pt"))
    trained = load(f"{users_file}:build@{users_file.with_suffix('.pt')}")
    assert torch.equal(trained.model[1].weight, loaded.model[1].weight + 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "no function 'nothing'; it has build, number, fails, needs"),
        ("number", "must return a torch.nn.Module, not int"),
        ("fails", r"failed with ValueError: out of coffee \(line 17\)"),
        ("needs", "must work without arguments: missing a required argument: 'size'"),
        ("build@weights.txt", "ending in .safetensors, .pt, .pth"),
    ],
)
def test_errors_in_a_users_file(users_file, function, message):
    with pytest.raises(ModelError, match=message):
        load(f"{users_file}:{function}")


def test_files_that_do_not_run(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ndef (:\n")
    with pytest.raises(ModelError, match=r"cannot be run: SyntaxError: .*\(line 2\)"):
        load(f"{tmp_path / 'broken.py'}:f")
    (tmp_path / "wrong.py").write_text("from torch import nn\nPREPROCESS = 3\nf = nn.Identity\n")
    with pytest.raises(ModelError, match="PREPROCESS must be"):
        load(f"{tmp_path / 'wrong.py'}:f")
    with pytest.raises(ModelError, match="no such file"):
        load(f"{tmp_path / 'none.py'}:f")


# --- optional libraries ---


def test_a_missing_library_says_how_to_get_it():
    with pytest.raises(MissingExtraError, match=r"pip install 'relprop\[models\]'"):
        optional_import("no_such_library_anywhere")


def test_a_library_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    Path(tmp_path / "broken_library.py").write_text("raise RuntimeError('operator broken::nms does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"broken_library is installed but .*operator broken::nms does not exist"):
        optional_import("broken_library")
