"""Classifiers from where people keep them, with the preprocessing and the class names that belong to them.

    loaded = load_model("torchvision:vgg16@IMAGENET1K_V1")
    picture = loaded.preprocess.picture(open_picture("cat.jpg"))
    output = loaded.model(loaded.preprocess.tensor(picture))

`load_model` knows `demo`, `torchvision:NAME`, `timm:NAME`, `hf:ID_OR_FOLDER` and `path/to/file.py:function`, each
but `hf` and `demo` with an optional `@weights`, and what `register_source` was given. It imports torchvision, timm and
transformers when asked for them.

Language models come with their tokenizer:

    loaded = load_text("hf:path/to/folder")
    output = loaded.model(**loaded.encode("A cat sleeps."))

What may live here: sources of models, their weights, preprocessing and tokenizers, and the demo. Nothing that explains.
"""

from relprop.models.loaded import LoadedModel
from relprop.models.loading import load, load_model
from relprop.models.pictures import decode_picture, open_picture, picture_suffixes
from relprop.models.preprocess import Preprocess
from relprop.models.source import Source
from relprop.models.sources import parse, register_source
from relprop.models.spec import Spec
from relprop.models.text import TextModel, load_text
from relprop.targets.embeddings import embedding_length

__all__ = [
    "LoadedModel",
    "Preprocess",
    "Source",
    "Spec",
    "TextModel",
    "decode_picture",
    "embedding_length",
    "load",
    "load_model",
    "load_text",
    "open_picture",
    "parse",
    "picture_suffixes",
    "register_source",
]
