"""Groups among vectors that explain samples: spectral clustering and k-means, eigengaps, prototypes, outliers, planes.

Spectral relevance analysis (SpRAy, Lapuschkin et al. 2019): explanations that are near each other are linked, and a
group of them that hangs together with nothing else is a strategy of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relprop.errors import InputError
from relprop.jobs.datasets.extras import needed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Plane = Literal["tsne", "umap"]

DENSE = 1500
"""Samples up to which all eigenvalues are computed; beyond, the smallest."""
SEED = 0


@dataclass(frozen=True, eq=False)
class Clusters:
    """N vectors in k groups.

    Attributes:
        labels: the group of each vector, (N,); the largest group is number 0.
        eigenvalues: the smallest of the graph's Laplacian `I − D^(−1/2) A D^(−1/2)`, ascending. As many as are nearly
            0, so many groups hardly hang together.
        embedding: its eigenvectors, (N, number of eigenvalues).
        sameness: of each group the mean cosine of any two of its vectors, themselves included, (k,). 1 where all
            explanations are the same.
        distance: of each vector to the mean of its nearest neighbours' distances, (N,): large for outliers.
        order: the vectors of all groups, those next to their group's mean first, (N,).
    """

    labels: Ints
    eigenvalues: Floats
    embedding: Floats
    sameness: Floats
    distance: Floats
    order: Ints

    @property
    def k(self) -> int:
        """How many groups."""
        return len(self.sameness)

    @property
    def gap(self) -> float:
        """`1 − λ_k / λ_(k+1)`: 1 where the k groups hang together with nothing else, 0 where there might be more."""
        if self.k >= len(self.eigenvalues):
            return 0.0
        inside, outside = self.eigenvalues[self.k - 1 : self.k + 1]
        return float(1 - max(inside, 0.0) / outside) if outside > 1e-9 else 0.0

    def members(self, group: int) -> Ints:
        """The vectors of a group, those next to its mean first.

        Args:
            group: its number.
        """
        found: Ints = self.order[self.labels[self.order] == group]
        return found

    def outliers(self, n: int = 5) -> Ints:
        """The vectors that are farthest from their neighbours, the farthest first.

        Args:
            n: how many.
        """
        return np.argsort(-self.distance, kind="stable")[:n]


def cluster(
    vectors: NDArray[Any],
    k: int | None = None,
    *,
    method: Literal["spectral", "kmeans"] = "spectral",
    neighbours: int = 10,
    most: int = 8,
) -> Clusters:
    """Groups among vectors, by their directions. The same vectors give the same groups.

    Args:
        vectors: (N, d), N at least 3.
        k: how many groups. None: as many as lie in front of the largest difference among the first eigenvalues.
        method: k-means on the graph's eigenvectors, or on the vectors.
        neighbours: that each vector is linked with.
        most: groups that are looked for where k is None.

    Raises:
        InputError: too few vectors, vectors that are not finite, or no such method.
        MissingExtraError: scikit-learn is not installed.
    """
    learn = needed("sklearn.cluster", "looking for strategies")
    v = _units(vectors)
    n = len(v)
    if n < 3:
        raise InputError(f"{n} explanations: groups need at least 3")
    if method not in ("spectral", "kmeans"):
        raise InputError(f"method={method!r} is neither 'spectral' nor 'kmeans'")
    if k is not None and not 1 <= k <= n:
        raise InputError(f"k={k}: {n} explanations can be put into 1 to {n} groups")
    graph, distance = _graph(v, min(neighbours, n - 1))
    eigenvalues, embedding = _spectrum(graph, min(n, max(32, (k or most) + 1)))
    if k is None:
        gaps = np.diff(eigenvalues[: min(most, n - 1) + 1])
        k = int(gaps[1:].argmax()) + 2 if len(gaps) > 1 else 1
    points = _units(embedding[:, :k]) if method == "spectral" else v
    labels = learn.KMeans(k, n_init=10, random_state=SEED).fit_predict(points)
    labels = _by_size(labels, k)
    means = np.stack([v[labels == group].mean(0) for group in range(k)])
    away = np.linalg.norm(v - means[labels], axis=1)
    order = np.argsort(away, kind="stable")
    return Clusters(labels, eigenvalues, embedding, (means**2).sum(1), distance, order)


def tsne(vectors: NDArray[Any]) -> Floats:
    """Places in the plane where near vectors are near, (N, 2) (van der Maaten & Hinton 2008).

    Args:
        vectors: (N, d), N at least 3.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    manifold = needed("sklearn.manifold", "t-SNE")
    v = _units(vectors)
    perplexity = min(30.0, (len(v) - 1) / 3)
    places: Floats = manifold.TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(v)
    return places.astype(np.float64)


def umap(vectors: NDArray[Any]) -> Floats:
    """Places in the plane where near vectors are near, (N, 2) (McInnes, Healy & Melville 2018).

    Args:
        vectors: (N, d), N at least 3.

    Raises:
        MissingExtraError: umap-learn is not installed.
    """
    library = needed("umap", "UMAP")
    v = _units(vectors)
    neighbours = max(2, min(15, len(v) - 1))
    options = {"init": "pca", "random_state": SEED, "n_jobs": 1}  # one thread, so that places repeat
    places: Floats = library.UMAP(n_neighbors=neighbours, **options).fit_transform(v)
    return places.astype(np.float64)


PLANES: Mapping[str, Callable[[NDArray[Any]], Floats]] = {"tsne": tsne, "umap": umap}


def plane_by(name: Plane) -> Callable[[NDArray[Any]], Floats]:
    """What lays vectors into the plane.

    Raises:
        InputError: nothing has that name.
    """
    if name not in PLANES:
        raise InputError(f"plane={name!r} is none of {', '.join(map(repr, PLANES))}")
    return PLANES[name]


def _units(vectors: NDArray[Any]) -> Floats:
    v = np.asarray(vectors, np.float64)
    if v.ndim != 2 or not np.isfinite(v).all():
        raise InputError(f"vectors of shape {v.shape}: give finite numbers, a row for each sample")
    units: Floats = v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    return units


def _graph(v: Floats, neighbours: int) -> tuple[Any, Floats]:
    """Which vectors are linked, (N, N) sparse, and the mean distance of each to its neighbours, (N,)."""
    library = needed("sklearn.neighbors", "looking for strategies")
    found = library.NearestNeighbors(n_neighbors=neighbours).fit(v)
    links = found.kneighbors_graph(mode="connectivity")
    return links.maximum(links.T), found.kneighbors()[0].mean(1)


def _spectrum(graph: Any, count: int) -> tuple[Floats, Floats]:
    """The smallest eigenvalues of the Laplacian, ascending, and their vectors."""
    csgraph = needed("scipy.sparse.csgraph", "looking for strategies")
    laplacian = csgraph.laplacian(graph, normed=True)
    n = laplacian.shape[0]
    if n <= DENSE:
        values, vectors = np.linalg.eigh(laplacian.toarray())
        return values[:count], vectors[:, :count]
    sparse, linalg = needed("scipy.sparse", "looking for strategies"), needed("scipy.sparse.linalg", "eigenvalues")
    turned = 2 * sparse.identity(n) - laplacian  # whose largest converge, as the smallest of L do not
    values, vectors = linalg.eigsh(turned, k=count, which="LA", v0=np.ones(n))
    order = np.argsort(-values)
    return 2 - values[order], vectors[:, order]


def _by_size(labels: NDArray[Any], k: int) -> Ints:
    """The same groups, the largest first; of equal ones that with the earlier member."""
    counts = np.bincount(labels, minlength=k)
    first = [int(np.argmax(labels == group)) if counts[group] else len(labels) for group in range(k)]
    rank = {group: i for i, group in enumerate(sorted(range(k), key=lambda g: (-counts[g], first[g])))}
    return np.array([rank[label] for label in labels.tolist()], np.int64)
