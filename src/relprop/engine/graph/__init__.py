"""A model as data: capturing it, reading it, running it as it is.

What may live here: what knows `torch.export` and `torch.fx`, and nothing of rules.
"""
