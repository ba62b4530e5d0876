"""Explanations in notebooks, in windows, and in the terminal."""

from __future__ import annotations

import base64
import importlib
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from relprop.errors import RelpropError
from relprop.explanations.drawable import Drawable
from relprop.explanations.pages import rendered
from relprop.explanations.shown import visible

DPI = 110
COLUMNS = 48  # of a picture in the terminal
SAID = ("analyzer", "composite", "options", "model", "relprop")
"""Settings that are written below a figure."""


def png(explanation: Drawable, samples: int | Sequence[int] | None = None, **options: Any) -> bytes | None:
    """The figure as a PNG file; None where there is none, so that a notebook prints the explanation instead."""
    from relprop.explanations.figures import plot

    try:
        from matplotlib.figure import Figure

        figure = plot(explanation, samples, figure=Figure, **options)
    except (RelpropError, ImportError):
        return None
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI)
    return data.getvalue()


def explanation_html(explanation: Drawable, picture: bytes | None) -> str | None:
    """The figure with what it says in words, for notebooks; None where there is no figure."""
    from relprop.explanations.figures.plot import SAMPLES
    from relprop.explanations.figures.view import caption

    if picture is None:
        return None
    relevance = explanation.relevance if isinstance(explanation.relevance, Tensor) else explanation.relevance[0]
    shown = range(min(SAMPLES, len(relevance)))
    settings = {name: explanation.settings[name] for name in SAID if explanation.settings.get(name)}
    return rendered(
        "explanation.html",
        png=base64.b64encode(picture).decode(),
        alt="Relevance: " + "; ".join(caption(explanation, i) for i in shown),
        shown=len(shown),
        count=len(relevance),
        settings={name: " ".join(value.split()) for name, value in settings.items()},
        trouble="" if explanation.ledger is None else explanation.ledger.trouble,
    )


def show(explanation: Drawable, samples: int | Sequence[int] | None, options: Mapping[str, Any]) -> None:
    """Where people look: see `Explanation.show`."""
    from relprop.explanations.figures import plot

    if _in_notebook():
        from IPython.display import Image, display  # type: ignore[import-not-found]

        data = png(explanation, samples, **options)
        display(explanation if data is None or not (samples or options) else Image(data))
        return
    figure = plot(explanation, samples, **options)
    import matplotlib
    import matplotlib.pyplot as plt

    if matplotlib.get_backend().lower() in {name.lower() for name in _windows()}:
        figure.show()
        plt.show()
        return
    plt.close(figure)
    _print(explanation, samples, options)


def _in_notebook() -> bool:
    """A kernel runs this; a terminal's IPython shows no pictures."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _windows() -> Sequence[str]:
    backends: Any = importlib.import_module("matplotlib.backends")
    if hasattr(backends, "backend_registry"):
        return list(backends.backend_registry.list_builtin(backends.BackendFilter.INTERACTIVE))
    known: Any = importlib.import_module("matplotlib.rcsetup")  # matplotlib 3.8
    return list(known.interactive_bk)


def _print(explanation: Drawable, samples: int | Sequence[int] | None, options: Mapping[str, Any]) -> None:
    """Pictures as blocks of colour, all else as coloured words with numbers."""
    from rich.console import Console
    from rich.text import Text

    from relprop.explanations.figures.plot import chosen
    from relprop.explanations.figures.view import views_of
    from relprop.explanations.heatmaps import terminal
    from relprop.explanations.text import ExplainedText

    known = {name: options[name] for name in ("kind", "layer", "of", "names") if name in options}
    console = Console()
    for view in views_of(explanation, chosen(explanation, samples), **known):
        console.print(Text(visible(view.title), style="bold"))
        if view.kind in ("picture", "matrix"):
            console.print(terminal(view.relevance, width=COLUMNS))
        elif view.kind in ("volume", "channels"):
            console.print(terminal(view.relevance.sum(0), width=COLUMNS))
        elif view.kind == "series":
            console.print(terminal(view.relevance, width=min(console.width, view.relevance.shape[-1])))
        else:
            names = list(view.names) if view.names is not None else [f"{i}" for i in range(len(view.relevance))]
            shown = [f"▁{name}" for name in names]
            console.print(ExplainedText.of_tokens(shown, view.relevance).rich())
