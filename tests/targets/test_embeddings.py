"""Targets for embeddings."""

from __future__ import annotations

import torch
from support.compare import assert_each_close

from relprop.targets import Similarity, embedding_length


def test_targets_for_embeddings_add_up_to_what_they_are_named_after():
    u, v = torch.randn(2, 8), torch.randn(1, 8)
    assert_each_close(Similarity(v).value(u).sum(1), torch.cosine_similarity(u, v))
    assert_each_close(Similarity(7 * v).value(u), Similarity(v).value(u))
    assert_each_close(embedding_length(u).sum(1), u.norm(dim=1))
    assert embedding_length(torch.zeros(1, 3)).isfinite().all()
