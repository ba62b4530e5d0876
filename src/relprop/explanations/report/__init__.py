"""A page about explanations, in one file: what was seen, for which class, in which layer, and whether to trust it.

    expl.report("page.html")

The page is one file without a request to anywhere. Its script and its style are those beside this file; whatever comes
from outside (names of files, classes, layers) is escaped.
"""

from relprop.explanations.report.checks import CHECKS, Curve, Finding, Trust, register_check
from relprop.explanations.report.collect import Item, collected, items_of
from relprop.explanations.report.page import page, save_report

__all__ = [
    "CHECKS",
    "Curve",
    "Finding",
    "Item",
    "Trust",
    "collected",
    "items_of",
    "page",
    "register_check",
    "save_report",
]
