"""Groups among vectors whose groups are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from relprop.errors import InputError, MissingExtraError
from relprop.jobs.strategies import cluster, clusters, umap

pytest.importorskip("sklearn")


def three_groups(sizes=(30, 20, 12), spread=0.1):
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], sizes)
    return np.eye(6)[truth] + spread * rng.normal(size=(len(truth), 6)), truth


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
def test_known_groups_are_found_and_counted(method):
    vectors, truth = three_groups()
    found = cluster(5 * vectors, method=method)
    assert found.k == 3
    assert found.labels.tolist() == truth.tolist()  # the largest is 0
    np.testing.assert_allclose(found.eigenvalues[:3], 0, atol=1e-12)
    assert found.gap == pytest.approx(1)
    for group in range(3):
        units = vectors[truth == group] / np.linalg.norm(vectors[truth == group], axis=1, keepdims=True)
        assert found.sameness[group] == pytest.approx((units @ units.T).mean())
        away = np.linalg.norm(units - units.mean(0), axis=1)
        assert found.members(group).tolist() == np.flatnonzero(truth == group)[np.argsort(away)].tolist()


def test_the_gap_is_of_the_eigenvalues():
    found = cluster(three_groups(spread=0.5)[0], 2)
    assert found.gap == pytest.approx(1 - found.eigenvalues[1] / found.eigenvalues[2])
    assert 0.05 < found.gap < 0.95
    assert (
        cluster(three_groups()[0], 2).gap == 0
    )  # of three groups that hang together with nothing, two are one too few


def test_the_order_of_samples_changes_nothing():
    vectors, truth = three_groups()
    turned = np.random.default_rng(1).permutation(len(truth))
    assert cluster(vectors[turned]).labels.tolist() == truth[turned].tolist()


def test_an_outlier_is_far_from_its_neighbours():
    vectors, _ = three_groups()
    vectors[7] = [0, 0, 0, 0, 0, 1]
    assert cluster(vectors).outliers(1).tolist() == [7]


def test_many_samples_go_another_way(monkeypatch):
    vectors, truth = three_groups((80, 60, 40))
    dense = cluster(vectors)
    monkeypatch.setattr(clusters, "DENSE", 10)
    sparse = cluster(vectors)
    assert sparse.labels.tolist() == dense.labels.tolist() == truth.tolist()
    np.testing.assert_allclose(sparse.eigenvalues, dense.eigenvalues, atol=1e-8)


@pytest.mark.parametrize("plane", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_a_plane_keeps_groups_together(plane):
    if plane == "umap":
        pytest.importorskip("umap")
    vectors, truth = three_groups()
    places = clusters.plane_by(plane)(vectors)
    np.testing.assert_array_equal(places, clusters.plane_by(plane)(vectors))
    assert places.shape == (62, 2)
    centres = np.stack([places[truth == g].mean(0) for g in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(1)
    assert (nearest == truth).mean() > 0.95


@pytest.mark.parametrize(
    ("vectors", "options", "told"),
    [
        (np.zeros((2, 3)), {}, "at least 3"),
        (np.full((5, 3), np.nan), {}, "finite numbers"),
        (np.ones((5, 3)), {"method": "hdbscan"}, "neither 'spectral' nor 'kmeans'"),
        (np.ones((5, 3)), {"k": 6}, "1 to 5 groups"),
    ],
)
def test_what_is_wrong_is_said(vectors, options, told):
    with pytest.raises(InputError, match=told):
        cluster(vectors, **options)


def test_planes_by_name(monkeypatch):
    with pytest.raises(InputError, match="plane='pca' is none of 'tsne', 'umap'"):
        clusters.plane_by("pca")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"UMAP needs umap: pip install 'relprop\[umap\]'"):
        umap(three_groups()[0])


def test_equal_vectors_are_no_error():
    assert cluster(np.ones((6, 3)), 1).sameness.tolist() == pytest.approx([1.0])
