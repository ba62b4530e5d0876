"""Figures of explanations, for matplotlib: whatever the input was, in the form that suits it.

    figure = expl.plot()                        # the form that suits the input
    figure = figures.compare([expl, other])     # side by side, on one scale
    figures.series(axis, signal, relevance)     # one form, in a figure of your own

`relprop.heatmaps` makes pictures pixel by pixel, for files and other programs; figures have axes, titles and a colour
bar. Zero relevance is neutral, what speaks for the target red, and what speaks against it blue.
"""

from relprop.explanations.figures.axes import matrix, picture, row, series, tokens
from relprop.explanations.figures.kinds import KINDS, kind_of
from relprop.explanations.figures.plot import compare, plot
from relprop.explanations.figures.scale import Scale
from relprop.explanations.figures.view import View

__all__ = ["KINDS", "Scale", "View", "compare", "kind_of", "matrix", "picture", "plot", "row", "series", "tokens"]
