"""Analyzers: a model and a method, called like the model, returning explanations.

What may live here: the base that all of them share, each method, the checks before work, artifacts.
"""
