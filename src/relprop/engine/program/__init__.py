"""What runs: a graph and a rule per node as two loops, values forward and relevance back.

What may live here: the loops, what they keep, and other ways to run them (compiled, flattened to one graph).
"""
