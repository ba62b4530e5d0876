"""Where relevance starts: targets, each a value that says what of the output it explains.

What may live here: kinds of targets, and the names and embeddings that they speak of. No model, no graph.
"""

from relprop.targets.embeddings import embedding_length, similarity_to
from relprop.targets.output import Target

__all__ = ["Target", "embedding_length", "similarity_to"]
