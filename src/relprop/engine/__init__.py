"""The machine: a captured graph, what its operators are, rewrites, and the program of two loops.

What may live here: what answers questions about a captured model. No names of models, no pictures, no printing.

Inside, imports go one way: `graph` <- `ops` <- `rewrites`, `program`; `layers` on top.
"""
