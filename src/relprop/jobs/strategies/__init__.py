"""Strategies: what a model does with a whole dataset, read off the results of a job.

    found = relprop.jobs.strategies.find("found")
    relprop.jobs.strategies.save_page("found.html", found, pictures="pictures")

What may live here: groups among explanations, pages and files that show them. Nothing that explains.
"""

from relprop.jobs.strategies.clusters import Clusters, cluster, tsne, umap
from relprop.jobs.strategies.finding import OfClass, Strategies, Strategy, find
from relprop.jobs.strategies.page import page, save_page
from relprop.jobs.strategies.virelay import save_virelay

__all__ = [
    "Clusters",
    "OfClass",
    "Strategies",
    "Strategy",
    "cluster",
    "find",
    "page",
    "save_page",
    "save_virelay",
    "tsne",
    "umap",
]
