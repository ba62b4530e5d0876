"""Whether an explanation is right: numbers that say how good it is.

What may live here: metrics, and what they need. Nothing that computes relevance.
"""
