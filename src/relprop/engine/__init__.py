"""The machine: a captured graph, what its operators are, rewrites, and the program of two loops.

Inside, imports go one way: `graph` <- `ops` <- `rewrites`, `program`; `layers` on top.
"""
