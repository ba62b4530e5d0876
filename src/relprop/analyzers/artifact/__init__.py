"""An artifact: a program in a file that takes a model's inputs and returns output and relevance.

The file is what `torch.export.save` writes, so `torch.export.load(path).module()(x)` runs it where relprop is not
installed. `load_artifact` adds the checks of inputs and returns an `Explanation`. The same program goes into ONNX.
"""

from relprop.analyzers.artifact.loaded import Artifact, load, load_artifact

__all__ = ["Artifact", "load", "load_artifact"]
