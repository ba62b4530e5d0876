"""An artifact: a program in a file that takes a model's inputs and returns output and relevance.

The file is what `torch.export.save` writes, so `torch.export.load(path).module()(x)` runs it where relprop is not
installed. `load` adds the checks of inputs and returns an `Explanation`. The same program goes into ONNX files.
"""

from relprop.analyzers.artifact.loaded import Artifact, load

__all__ = ["Artifact", "load"]
