"""Analyzers in the forms that other libraries call: Captum's class form, Quantus' function.

What may live here: translations of arguments and results, one file for each library. Nothing here imports the library.
"""

from relprop.analyzers.adapters.class_form import CaptumAttribution, captum
from relprop.analyzers.adapters.explain_func import quantus_explain_func

__all__ = ["CaptumAttribution", "captum", "quantus_explain_func"]
