"""Layers: the rows of a table, and what composites assign rules to.

What may live here: which operators are one layer, of which kind it is, and how it is named.
"""
