"""Balanced targets, and a loss that trains the head alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scaling.models.clusters import ClusterHead, cluster_loss, sinkhorn


def effective(shares: Tensor) -> float:
    """exp of the entropy: how many clusters are used."""
    return float(torch.special.entr(shares / shares.sum()).sum().exp())


def skewed(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Features of which most point the same way."""
    common = 4 * torch.nn.functional.one_hot(torch.tensor(0), width)
    return common + torch.randn(count, width, generator=generator)


@pytest.mark.parametrize(("count", "clusters"), [(256, 16), (256, 64), (64, 64)])
def test_targets_share_a_skewed_batch_out_where_the_likeliest_collapse(count: int, clusters: int) -> None:
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    features = unit(skewed(count, 24, generator), dim=-1)
    prototypes = unit(torch.randn(clusters, 24, generator=generator), dim=-1)
    scores = features @ prototypes.mT
    targets = sinkhorn(scores)
    torch.testing.assert_close(targets.sum(1), torch.ones(count, dtype=torch.float64))
    torch.testing.assert_close(
        sinkhorn(scores, iterations=200).sum(0) * clusters / count,
        torch.ones(clusters).double(),
        rtol=1e-3,
        atol=1e-3,
    )
    plain = effective(torch.bincount(scores.argmax(1), minlength=clusters).double())
    assert effective(targets.sum(0)) > 0.9 * clusters
    assert plain < 0.5 * clusters


def test_targets_do_not_overflow_or_depend_on_the_order_of_texts() -> None:
    scores = torch.rand(32, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    targets = sinkhorn(scores, epsilon=1e-4)
    assert bool(targets.isfinite().all())
    order = torch.randperm(32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(sinkhorn(scores[order]), sinkhorn(scores)[order])


def test_a_score_does_not_depend_on_the_rest_of_the_batch() -> None:
    head = ClusterHead(12, 5)
    torch.nn.init.normal_(head.prototypes)
    features = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(head(features)[2:4], head(features[2:4]))
        assert float(head(features).abs().max()) <= 1 + 1e-6


def test_the_head_learns_to_tell_groups_apart() -> None:
    """Four groups of features, twelve clusters: after training hardly a cluster mixes groups."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 16, generator=generator)
    groups = torch.arange(256) % 4
    features = centres[groups] + torch.randn(256, 16, generator=generator)
    torch.manual_seed(0)
    head = ClusterHead(16, 12)
    torch.nn.init.normal_(head.prototypes)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(200):
        loss = cluster_loss(head(features))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    table = torch.zeros(12, 4)
    table.index_put_((head(features).argmax(1), groups), torch.ones(256), accumulate=True)
    assert float(table.max(dim=1).values.sum()) / 256 > 0.9  # a quarter by chance
    assert effective(table.sum(1)) > 6
