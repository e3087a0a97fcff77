"""Clusters of features, learned online: a projection, prototypes, and targets balanced by Sinkhorn.

Guided diffusion from self-supervised diffusion features (arXiv 2312.08825, released code): scores are cosines
of projected features and prototypes; targets share a batch out evenly among the prototypes, which keeps them
from collapsing into one; the loss is the cross-entropy of the scores with these targets. The features are
given: no gradient reaches the network that made them.

B texts, D feature width, W projected width, K clusters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SINKHORN_EPSILON = 0.05
SINKHORN_ITERATIONS = 3
TEMPERATURE = 0.1
"""Of the scores in the loss; all three as published."""


class ClusterHead(nn.Module):
    """Features (B, D) -> scores (B, K) in [-1, 1].

    The published projection normalises by the batch; here each text is normalised by itself, so that a score
    does not depend on how a batch is cut.
    """

    def __init__(self, hidden: int, clusters: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, hidden)
        self.outer = nn.Linear(hidden, hidden)
        self.prototypes = nn.Parameter(torch.empty(clusters, hidden))

    def forward(self, features: Tensor) -> Tensor:
        normed = F.layer_norm(features.float(), features.shape[-1:])
        projected = self.outer(F.relu(self.inner(normed)))
        return F.normalize(projected, dim=-1) @ F.normalize(self.prototypes, dim=-1).mT


@torch.no_grad()
def sinkhorn(
    scores: Tensor, epsilon: float = SINKHORN_EPSILON, iterations: int = SINKHORN_ITERATIONS
) -> Tensor:
    """Targets (B, K) in float64 of scores (B, K): each row sums to 1, each column to about B / K."""
    log_q = scores.double() / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)  # every cluster gets the same mass
        log_q = log_q - log_q.logsumexp(1, keepdim=True)  # every text is shared out whole
    return log_q.exp()


def cluster_loss(scores: Tensor) -> Tensor:
    """Cross-entropy of scores (B, K) with their balanced targets, a scalar in nats."""
    targets = sinkhorn(scores.detach()).to(scores.dtype)
    return -(targets * (scores / TEMPERATURE).log_softmax(-1)).sum(-1).mean()
