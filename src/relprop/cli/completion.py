"""What a shell offers behind options: composites, sources of models, and models that a source lists."""

from __future__ import annotations

from relprop.composites.names import composite_names
from relprop.errors import RelpropError
from relprop.models.sources import sources


def composite_completion(incomplete: str) -> list[str]:
    """Composites that begin with what was typed."""
    names = dict.fromkeys(composite_names("pictures") + composite_names("text"))
    return [name for name in names if name.startswith(incomplete)]


def model_completion(incomplete: str) -> list[str]:
    """Sources, and behind a source's colon the models that it lists."""
    head, colon, _ = incomplete.partition(":")
    if not colon:
        heads = [source.form.partition(":")[0] for source in sources()]
        known = ["demo" if head == "demo" else f"{head}:" for head in heads if "/" not in head]
        return [name for name in known if name.startswith(incomplete)]
    try:
        listed = [name for source in sources() if source.name == head and source.names for name in source.names()]
    except RelpropError:  # the source's library is not installed
        return []
    return [name for name in listed if name.startswith(incomplete)]
