"""Samples of a network that learned a source of known entropy, measured exactly against the source.

A perfect judge: the source itself gives log p(x) of every text. Its mean is fooled by texts of low entropy as
any judge is, so the n-gram laws of sampler and source are compared beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

from scaling.data.synthetic import Source

LONGEST = 3
"""n of the longest n-grams."""
OWN_DRAWS = 8
"""How often the source draws as many texts as there are samples, to measure the bias of the estimate."""
BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceQuality:
    """Samples against their source; NaN where a sample has an n-gram that the source cannot make."""

    source_nats: float
    """Cross-entropy of the samples under the source, nats per token."""
    source_rate: float
    """Nats per token of the source's own texts of these lengths: `source_nats` of a perfect sampler."""
    source_kl: tuple[float, ...]
    """KL(sampler || source) of the laws of n-grams, n = 1, 2, 3, in nats; bias corrected, so it may lie
    a little below 0."""
    source_kl_spread: tuple[float, ...]
    """Standard deviation of these numbers for samples that are the source's own texts."""
    impossible_share: float
    """Share of bigrams to which the source gives probability 0."""
    text_source_nats: tuple[float, ...]
    """-log p of each text, nats."""


def against_source(texts: Sequence[np.ndarray], source: Source) -> SourceQuality:
    """Texts of ids, one array each, against the source that their network was trained on.

    The KL of n-grams is their cross-entropy under the source, which is unbiased, less their entropy, which is
    estimated (Grassberger, arXiv physics/0307138); what is left of the bias is measured on texts of the
    source itself, as many and as long, and subtracted.
    """
    nats = text_nats(texts, source)
    tokens = sum(map(len, texts))
    grams = [_grams(texts, n) for n in range(1, LONGEST + 1)]
    log_p = [_log_prob(rows, source) for rows in grams]
    own = _divergences_of_own_texts(source, tuple(map(len, texts)))
    kl = np.array([_divergence(*pair) for pair in zip(grams, log_p, strict=True)]) - own.mean(axis=0)
    spread = own.std(axis=0, ddof=1) * (1 + 1 / OWN_DRAWS) ** 0.5
    rate = sum(len(text) * source.entropy_per_token(len(text)) for text in texts) / max(1, tokens)
    mean = float(nats.sum()) / max(1, tokens)
    return SourceQuality(
        source_nats=mean if np.isfinite(mean) else float("nan"),
        source_rate=rate,
        source_kl=tuple(kl.tolist()),
        source_kl_spread=tuple(spread.tolist()),
        impossible_share=float(np.isneginf(log_p[1]).mean()) if len(log_p[1]) else 0.0,
        text_source_nats=tuple(nats.tolist()),
    )


def text_nats(texts: Sequence[np.ndarray], source: Source) -> np.ndarray:
    """-log p of each text under the source, in nats, inf for an impossible one: (number of texts,)."""
    out = np.empty(len(texts))
    lengths = np.array([len(text) for text in texts])
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        out[rows] = -_log_prob(np.stack([texts[row] for row in rows.tolist()]), source)
    return out


@functools.lru_cache(maxsize=8)
def _divergences_of_own_texts(source: Source, lengths: tuple[int, ...]) -> np.ndarray:
    """The estimates for texts of the source itself, which should be 0: (draws, n)."""
    out = np.empty((OWN_DRAWS, LONGEST))
    for number in range(OWN_DRAWS):
        rows = source.windows(("bias", number), 0, len(lengths), max(lengths))
        texts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        for n in range(1, LONGEST + 1):
            out[number, n - 1] = _divergence(grams := _grams(texts, n), _log_prob(grams, source))
    return out


def _grams(texts: Sequence[np.ndarray], n: int) -> np.ndarray:
    """All n-grams of the texts: (number, n)."""
    parts = [np.lib.stride_tricks.sliding_window_view(text, n) for text in texts if len(text) >= n]
    return np.concatenate(parts) if parts else np.empty((0, n), dtype=np.int64)


def _log_prob(rows: np.ndarray, source: Source) -> np.ndarray:
    """log p of windows that start anywhere in the source, for it is stationary: (number,), -inf for ids that
    it does not have."""
    different, which = np.unique(rows, axis=0, return_inverse=True)
    out = np.full(len(different), -np.inf)
    fine = np.flatnonzero(((different >= 0) & (different < source.num_token_ids)).all(axis=1))
    batch = max(1, BATCH * LONGEST // max(1, rows.shape[1]))
    for start in range(0, len(fine), batch):
        part = fine[start : start + batch]
        with np.errstate(divide="ignore"):  # the logarithm of an impossible token
            out[part] = source.log_prob(different[part])
    return np.asarray(out[which.reshape(-1)])


def _divergence(grams: np.ndarray, log_p: np.ndarray) -> float:
    """KL of the law behind the n-grams from the source, before its bias is subtracted; NaN if impossible."""
    if not len(grams) or not np.isfinite(log_p).all():
        return float("nan")
    counts = np.unique(grams, axis=0, return_counts=True)[1].astype(np.float64)
    sign = np.where(counts % 2 == 0, 0.5, -0.5)
    terms = digamma(counts) + sign * (digamma((counts + 1) / 2) - digamma(counts / 2))
    entropy = np.log(len(grams)) - float((counts * terms).sum()) / len(grams)
    return float(-log_p.mean() - entropy)
