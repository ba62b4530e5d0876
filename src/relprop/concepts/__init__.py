"""What a hidden layer's features explain: concepts, and relevance under the condition that it passes them.

What may live here: what a concept is (groups), which are looked at (features), analyzers by concept, and what collects
concepts over data. Nothing that a reverse pass does: a concept says itself as a condition to the engine.
"""

from relprop.concepts.atlas import atlas, cropped
from relprop.concepts.crp import CRP
from relprop.concepts.explanation import ConceptExplanation
from relprop.concepts.features import Features, IndexedFeatures, TopNFeatures
from relprop.concepts.flow import attribution_graph
from relprop.concepts.graph import AttributionGraph
from relprop.concepts.groups import (
    Blocks,
    Channels,
    Concepts,
    Directions,
    Entries,
    Group,
    Heads,
    Neurons,
    PerToken,
    Tokens,
)
from relprop.concepts.nodes import Concept, Prompt
from relprop.concepts.patching import Patching, relevance_patching
from relprop.concepts.prototypes import Comparison, Prototypes
from relprop.concepts.references import References, ReferenceSample, collect
from relprop.concepts.vectors import ProjectOut, pattern_vector

__all__ = [
    "CRP",
    "AttributionGraph",
    "Blocks",
    "Channels",
    "Comparison",
    "Concept",
    "ConceptExplanation",
    "Concepts",
    "Directions",
    "Entries",
    "Features",
    "Group",
    "Heads",
    "IndexedFeatures",
    "Neurons",
    "Patching",
    "PerToken",
    "ProjectOut",
    "Prompt",
    "Prototypes",
    "ReferenceSample",
    "References",
    "Tokens",
    "TopNFeatures",
    "atlas",
    "attribution_graph",
    "collect",
    "cropped",
    "pattern_vector",
    "relevance_patching",
]
