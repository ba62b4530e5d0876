"""Classifiers from where people keep them, with the preprocessing and the class names that belong to them.

    loaded = load("torchvision:vgg16@IMAGENET1K_V1")
    picture = loaded.preprocess.picture(open_picture("cat.jpg"))
    output = loaded.model(loaded.preprocess.tensor(picture))

`load` knows `demo`, `torchvision:NAME`, `timm:NAME`, `hf:ID_OR_FOLDER` and `path/to/file.py:function`, each
but `hf` and `demo` with an optional `@weights`. It imports torchvision, timm and transformers when asked for
them.
"""

from relprop.models.loaded import LoadedModel
from relprop.models.loading import load
from relprop.models.preprocess import Preprocess, open_picture
from relprop.models.spec import Spec, parse

__all__ = ["LoadedModel", "Preprocess", "Spec", "load", "open_picture", "parse"]
