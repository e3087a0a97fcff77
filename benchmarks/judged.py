"""Texts of finished runs under a judge, and two sets of them compared in pairs: what benchmarks of samplers
on real text share.

Perplexity alone is gamed by dull text, so entropy and distinct bigrams stand beside it, and a sampler is also
compared with another one whose temperature (or nucleus) was moved until its texts have the same entropy.
Intervals: 95%, over texts, of one seed for all sets: text i of one set and text i of another are drawn
together.

N texts of L ids, V ids in all.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data import Dataset, prepare
from scaling.evaluation.judges import RunJudge
from scaling.evaluation.perplexity import Judge, Vocabulary
from scaling.evaluation.quality import distinct, measure_quality
from scaling.sampling import generate
from scaling.sampling.filters import Filters
from scaling.training import load_run
from scaling.training.finished import FinishedRun

RESAMPLES = 2000
BATCH = 500
"""Texts made at once; a text does not depend on it."""
LINES = 4
"""Straight lines drawn to find the value of a filter whose texts have a given entropy."""
RANGES = {"temperature": (0.6, 1.1), "top_p": (0.6, 1.0)}
"""Where the values of filters are looked for."""

Interval = tuple[float, float, float]
"""Value, low and high end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Texts with what a judge and their own ids say of them."""

    nats: np.ndarray
    """(N,) of the judge, summed over the scored tokens of a text."""
    tokens: np.ndarray
    """(N,) scored tokens."""
    entropy: np.ndarray
    """(N,) unigram entropy of a text's own ids."""
    counts: np.ndarray
    """(N, V) how often a text has an id."""
    distinct_2: np.ndarray
    """(N,) share of a text's bigrams that are different."""
    passes: float = 0.0
    """Times that the network read a text, mean over texts."""

    def summary(self) -> dict[str, Interval]:
        """Each measure with its interval."""
        return {name: interval(measure(self, draws(len(self.nats)))) for name, measure in MEASURES.items()}


@dataclass(frozen=True, slots=True)
class Desk:
    """A corpus, a judge, and how many texts to make."""

    data: Dataset
    judge: Judge
    texts: int

    @classmethod
    def of(cls, judge: Path, texts: int) -> Desk:
        """From the folder OUT/SWEEP/ar/runs/KEY of a finished run, whose corpus lies in OUT/data."""
        spec, family, model = load_run(judge)
        data = prepare(spec.data.corpus, spec.data.tokenizer, judge.resolve().parents[3] / "data")
        name = f"{spec.family} {spec.size.name} at {spec.budget:.0e} FLOPs ({spec.key[:8]})"
        reader = RunJudge(name, family, model, spec.data.context_length, Vocabulary.of(data))
        return cls(data, reader, texts)

    def read(self, texts: np.ndarray, passes: float = 0.0) -> Judged:
        """Texts (N, L) of the corpus's ids."""
        quality = measure_quality(texts, self.data, judge=self.judge)
        size = self.data.num_token_ids
        return Judged(
            nats=np.array(quality.text_nats),
            tokens=np.array(quality.text_tokens),
            entropy=np.array(quality.text_entropy),
            counts=np.stack([np.bincount(text, minlength=size) for text in texts]).astype(float),
            distinct_2=np.array([distinct(text, 2) for text in texts]),
            passes=passes,
        )

    def heldout(self, length: int) -> Judged:
        return self.read(np.asarray(self.data.heldout(self.texts, length), dtype=np.int64))

    def sample(self, run: FinishedRun, **about: Any) -> Judged:
        """Texts of a run, made as `generate` is told, of the length of its training."""
        length, parts, tokens = run.spec.data.context_length, [], 0
        for first in range(0, self.texts, BATCH):
            seeds = range(first, min(first + BATCH, self.texts))
            made = generate(run.model, run.family, seeds, length, **about)
            parts.append(made.ids.numpy())
            tokens += made.tokens
        return self.read(np.concatenate(parts), tokens / (self.texts * length))

    def filtered(self, run: FinishedRun, filter_name: str, value: float, **about: Any) -> Judged:
        """Texts of a run with "temperature" or "top_p" at a value."""
        filters = Filters(temperature=value) if filter_name == "temperature" else Filters(top_p=value)
        return self.sample(run, filters=filters, **about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Texts with about a given entropy."""

    value: float
    """Of the filter that gives it."""
    texts: Judged
    slope: float
    """d ln(perplexity) / d entropy of a text around them, by which what the entropies are apart is allowed
    for."""


def matching(sample: Callable[[float], Judged], entropy: float, low: float, high: float) -> Match:
    """The value between low and high, and its texts, whose mean entropy, which rises with the value, is
    nearest to a given one: by straight lines between the values around it, or an end where it lies beyond."""
    ends = [(value, sample(value)) for value in (low, high)]
    tried = list(ends)
    for _ in range(LINES):
        (left, less), (right, more) = ends
        below, above = (float(texts.entropy.mean()) - entropy for texts in (less, more))
        if below >= 0 or above <= 0:
            break
        value = left - below * (right - left) / (above - below)
        tried.append((value, sample(value)))
        ends[int(tried[-1][1].entropy.mean() > entropy)] = tried[-1]
    value, texts = min(tried, key=lambda pair: abs(float(pair[1].entropy.mean()) - entropy))
    less, more = (texts for _, texts in ends)
    rise = math.log(_pooled(more) / _pooled(less)) / float(more.entropy.mean() - less.entropy.mean())
    return Match(value=value, texts=texts, slope=rise)


def _pooled(texts: Judged) -> float:
    return math.exp(texts.nats.sum() / texts.tokens.sum())


def at_equal_entropy(one: Judged, match: Match) -> Interval:
    """The ratio of the perplexity of one to that of its match, at the entropy of one: in each resample what
    the entropies are apart is allowed for along the match's slope."""
    weights = draws(len(one.nats))
    apart = _entropy(one, weights) - _entropy(match.texts, weights)
    there = _perplexity(match.texts, weights) * np.exp(match.slope * apart)
    return interval(_perplexity(one, weights) / there)


Measure = Callable[[Judged, np.ndarray], np.ndarray]
"""(texts, weights (R, N) of each text in each resample) -> (R,)."""


def _perplexity(texts: Judged, weights: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(weights @ texts.nats / (weights @ texts.tokens)))


def _entropy(texts: Judged, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ texts.entropy / weights.sum(1))


def _entropy_of_all(texts: Judged, weights: np.ndarray) -> np.ndarray:
    counts = weights @ texts.counts
    shares = counts / counts.sum(1, keepdims=True)
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1))


def _distinct(texts: Judged, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ texts.distinct_2 / weights.sum(1))


MEASURES: dict[str, Measure] = {
    "gen_ppl": _perplexity,
    "entropy": _entropy,
    "entropy_of_all": _entropy_of_all,
    "distinct_2": _distinct,
}


def draws(texts: int) -> np.ndarray:
    """(1 + RESAMPLES, N) weights: all texts once, then resamples, the same for every set of so many texts."""
    random = np.random.default_rng(0)
    resamples = random.multinomial(texts, np.full(texts, 1 / texts), size=RESAMPLES)
    return np.concatenate([np.ones((1, texts)), resamples])


def interval(values: np.ndarray) -> Interval:
    """From the value of the sample itself and those of the resamples after it."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def compare(one: Judged, other: Judged) -> dict[str, Interval]:
    """The ratio of the perplexities of one to other, and the differences of the other measures, in pairs."""
    weights = draws(len(one.nats))
    out = {}
    for name, measure in MEASURES.items():
        first, second = measure(one, weights), measure(other, weights)
        out[name] = interval(first / second if name == "gen_ppl" else first - second)
    return out


def row(label: str, texts: Judged, plain: Judged | None = None, *matches: Match) -> str:
    """A line of a table: the measures, and beside plain texts the ratio of perplexities and the difference of
    the entropies of a text, and the ratio to each match at equal entropy."""
    own = texts.summary()
    cells = [label, f"{texts.passes:.1f}", f"{own['gen_ppl'][0]:.1f}", f"{own['entropy'][0]:.3f}",
             f"{own['entropy_of_all'][0]:.3f}", f"{own['distinct_2'][0]:.3f}"]  # fmt: skip
    if plain is not None:
        apart = compare(texts, plain)
        cells += [_cell(apart["gen_ppl"]), _cell(apart["entropy"])]
    cells += [_cell(at_equal_entropy(texts, match)) + f" at {match.value:.2f}" for match in matches]
    return "| " + " | ".join(cells) + " |"


def _cell(values: Interval) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"


def head(plain: str, *matches: str) -> str:
    """The head of a table of `row`s."""
    names = ["texts", "passes", "gen-PPL", "entropy of a text", "of all", "distinct-2"]
    names += [f"gen-PPL / {plain}", f"entropy - {plain}"]
    names += [f"at equal entropy, by {match}" for match in matches]
    return "| " + " | ".join(names) + " |\n|" + "---|" * len(names)


def add_options(parser: ArgumentParser, *, needed: bool) -> None:
    parser.add_argument("--run", type=Path, required=needed, help="folder of a finished run")
    parser.add_argument("--judge", type=Path, required=needed, help="folder of a finished run of ar")
