"""Quality of texts: generative perplexity with what tells whether it was gamed, and exact numbers where the
source is known.

The judge's perplexity rewards repetition, so entropy, distinct n-grams and repetition stand beside it,
always. All of them depend on the length of the texts: compare at equal lengths only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scaling.data import Dataset
from scaling.data.synthetic import Source
from scaling.evaluation.known_source import against_source
from scaling.evaluation.mauve import mauve_available, mauve_of_features
from scaling.evaluation.perplexity import Judge, Rule, Vocabulary, features_of, judge_texts

REPEATED = 4
"""n of the n-grams whose repetition is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Numbers of a set of texts, with the columns' names of the table of samples; NaN and "" where there is
    no judge or no known source."""

    texts: int
    length: int
    """Tokens of the longest text."""
    judge: str = ""
    judge_rule: str = ""
    """Which tokens count, see `scaling.evaluation.perplexity`."""
    own_tokenizer: bool = False
    """Whether the judge read the decoded texts with its own tokenizer."""
    judge_nats: float = math.nan
    """Nats per token of the judge, pooled over all texts."""
    gen_ppl: float = math.nan
    """Generative perplexity: exp(judge_nats)."""
    entropy: float
    """Unigram entropy of a text's own ids in nats, mean over texts; at most ln L."""
    distinct_1: float
    """Share of a text's tokens that are different, mean over texts."""
    distinct_2: float
    """Share of a text's bigrams that are different (arXiv 1510.03055), mean over texts."""
    repetition: float
    """Share of a text's 4-grams that stood in it before (seq-rep-4 of arXiv 1908.04319), mean over texts."""
    source_nats: float = math.nan
    """Cross-entropy under the known source, nats per token."""
    source_rate: float = math.nan
    """Nats per token of the source's own texts: `source_nats` of a perfect sampler."""
    source_kl_1: float = math.nan
    """KL(sampler || source) of single tokens, nats, bias corrected; then of bigrams and trigrams."""
    source_kl_2: float = math.nan
    source_kl_3: float = math.nan
    impossible_share: float = math.nan
    """Share of bigrams to which the source gives probability 0."""
    mauve: float = math.nan
    """See `scaling.evaluation.mauve`."""
    text_nats: tuple[float, ...] = ()
    """The judge's nats of each text, summed over its scored tokens."""
    text_tokens: tuple[int, ...] = ()
    """Scored tokens of each text."""
    text_entropy: tuple[float, ...]
    """Unigram entropy of each text."""
    text_source_nats: tuple[float, ...] = ()
    """-log p of each text under the known source, nats."""


def measure_quality(
    texts: Sequence[np.ndarray] | np.ndarray | Tensor,
    data: Dataset,
    *,
    judge: Judge | None = None,
    rule: Rule = "attention_mask",
    human: Sequence[np.ndarray] | np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> Quality:
    """Measure texts of ids, one array each or the rows of a tensor, made by a network trained on `data`.

    judge: see `scaling.evaluation.judges`; device: the judge's. human: held-out texts of the same number and
    length, for MAUVE, if the package `mauve-text` is there. UserError for a judge that cannot read the texts.
    """
    texts = list(texts.cpu().numpy() if isinstance(texts, Tensor) else texts)
    if not texts:
        raise ValueError("there are no texts to measure")
    entropies = [unigram_entropy(text) for text in texts]
    numbers: dict[str, object] = {}
    if judge is not None:
        words = Vocabulary.of(data)
        judged = judge_texts(texts, words, judge, rule=rule, device=device)
        numbers |= {
            "judge": judged.judge, "judge_rule": judged.judge_rule, "own_tokenizer": judged.own_tokenizer,
            "judge_nats": judged.judge_nats, "gen_ppl": judged.gen_ppl,
            "text_nats": judged.text_nats, "text_tokens": judged.text_tokens,
        }  # fmt: skip
        if human is not None and mauve_available():
            both = [features_of(part, words, judge, device) for part in (texts, list(human))]
            numbers["mauve"] = mauve_of_features(*both)
    if data.source is not None:
        numbers |= _source_numbers(texts, data.source)
    return Quality(
        texts=len(texts),
        length=max(map(len, texts)),
        entropy=float(np.mean(entropies)),
        distinct_1=float(np.mean([distinct(text, 1) for text in texts])),
        distinct_2=float(np.mean([distinct(text, 2) for text in texts])),
        repetition=1 - float(np.mean([distinct(text, REPEATED) for text in texts])),
        text_entropy=tuple(entropies),
        **numbers,  # type: ignore[arg-type]
    )


def _source_numbers(texts: Sequence[np.ndarray], source: Source) -> dict[str, object]:
    exact = against_source(texts, source)
    divergences = {f"source_kl_{n}": value for n, value in enumerate(exact.source_kl, start=1)}
    return divergences | {
        "source_nats": exact.source_nats, "source_rate": exact.source_rate,
        "impossible_share": exact.impossible_share, "text_source_nats": exact.text_source_nats,
    }  # fmt: skip


def unigram_entropy(ids: np.ndarray) -> float:
    """Entropy of a text's own histogram of ids, nats; at most ln of its length."""
    shares = np.unique(ids, return_counts=True)[1] / max(1, len(ids))
    return float(-(shares * np.log(shares)).sum()) + 0.0


def distinct(ids: np.ndarray, n: int) -> float:
    """Share of the n-grams of a text that are different; 1 if it is shorter than n."""
    if len(ids) < n:
        return 1.0
    grams = np.lib.stride_tricks.sliding_window_view(ids, n)
    return len(np.unique(grams, axis=0)) / len(grams)
