"""What comes back and how it looks: explanations, ledgers, heatmaps, text, pages, and files written whole.

What may live here: values that hold results, and their pictures. Nothing that computes relevance.
"""
