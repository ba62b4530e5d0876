"""Graph rewrites: what a captured model goes through before rules are assigned. Each is an equivalence.

What may live here: functions from a graph to an equivalent one, and the same for chains of modules.
"""
