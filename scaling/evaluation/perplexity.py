"""Generative perplexity: how surprising texts are to a judge, a causal language model.

Text is cut into chunks of the judge's context and the first token of each is not scored; nats and tokens are
pooled over all texts, not perplexities averaged. Two rules say which tokens count (they give different
numbers for the same texts): "attention_mask" leaves out padding (the scaling study's code), "first_eos"
counts every token that is no end of document and the first end in each chunk, with padding made of ends (the
code of MDLM, Duo and Eso-LMs). A low value alone is no sign of quality: repetitive text has it too.

B chunks, n tokens of a chunk, V vocabulary of the judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.data import Dataset
from scaling.data.tokenizers import Tokenizer, open_tokenizer
from scaling.errors import UserError, unknown

Rule = Literal["attention_mask", "first_eos"]
TOKENS_PER_BATCH = 8192


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What ids mean: the tokenizer, None for a source of ids without text."""

    identity: str
    """Equal for vocabularies whose ids mean the same."""
    tokenizer: Tokenizer | None

    @classmethod
    def of(cls, data: Dataset) -> Vocabulary:
        """Of a prepared corpus."""
        if data.source is not None:
            return cls(f"ids of {data.corpus}", None)
        tokenizer = open_tokenizer(data.tokenizer, data.folder)
        return cls(tokenizer.identity, tokenizer)

    def documents(self, ids: np.ndarray) -> list[str]:
        """The text between the ends of documents; bytes that are no UTF-8 read �."""
        assert self.tokenizer is not None, "a vocabulary with text"
        bounds = [-1, *np.flatnonzero(ids == self.tokenizer.end).tolist(), len(ids)]
        return [self.tokenizer.decode(ids[low + 1 : high]) for low, high in pairwise(bounds)]


class Judge(Protocol):
    """A causal language model that scores texts."""

    name: str
    context: int
    """Tokens that it reads at once."""
    identity: str
    """Of its vocabulary, see `Vocabulary`."""
    end: int | None
    """Its id of the end of a document."""

    def encode(self, documents: Sequence[str]) -> np.ndarray:
        """Ids of documents in a row, an end between two of them; UserError if it reads no text."""

    def nats(self, ids: Tensor, mask: Tensor) -> Tensor:
        """-log p of ids (B, n) from the second on, given those before: (B, n - 1). mask: False at padding,
        which stands at the end."""

    def features(self, ids: Tensor) -> Tensor:
        """What the network makes of the last of ids (B, n), before its head: (B, D)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """What a judge says of texts."""

    judge: str
    judge_rule: Rule
    own_tokenizer: bool
    """Whether the texts were decoded and judged with the judge's own tokenizer; nats are per token of it."""
    judge_nats: float
    """Nats per token of the judge, pooled."""
    text_nats: tuple[float, ...]
    """Nats of each text, summed over its scored tokens."""
    text_tokens: tuple[int, ...]
    """Scored tokens of each text."""

    @property
    def gen_ppl(self) -> float:
        """exp(nats / tokens)."""
        return math.exp(self.judge_nats)


@torch.no_grad()
def judge_texts(
    texts: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    judge: Judge,
    *,
    rule: Rule = "attention_mask",
    device: torch.device | str = "cpu",
) -> Perplexity:
    """Score texts of ids, one array each.

    Texts of another vocabulary than the judge's are decoded and read with the judge's own tokenizer. With
    "first_eos" texts are padded to the longest of them. UserError for a judge that cannot read them.
    """
    if rule not in get_args(Rule):
        raise unknown("rule", rule, get_args(Rule))
    if rule == "first_eos" and judge.end is None:
        raise UserError(f"judge {judge.name}: rule first_eos needs an id that ends documents; it has none")
    own = vocabulary.identity != judge.identity
    read = read_by(judge, texts, vocabulary)
    chunks = _chunks(read, judge, pad=rule == "first_eos")
    batch = max(1, TOKENS_PER_BATCH // max((len(chunk.ids) for chunk in chunks), default=1))
    nats, tokens = np.zeros(len(read)), np.zeros(len(read), dtype=np.int64)
    for first in range(0, len(chunks), batch):
        part = chunks[first : first + batch]
        ids = torch.full((len(part), len(part[0].ids)), judge.end or 0)
        mask, inside = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
        for row, chunk in enumerate(part):
            ids[row, : len(chunk.ids)] = torch.from_numpy(chunk.ids)
            inside[row, : len(chunk.ids)] = True
            mask[row, : chunk.real] = True
        scored = counted(ids, mask, rule, judge.end) & inside[:, 1:]
        costs = judge.nats(ids.to(device), mask.to(device)).double().cpu().where(scored, 0.0)
        owners = np.array([chunk.text for chunk in part])
        np.add.at(nats, owners, costs.sum(1).numpy())
        np.add.at(tokens, owners, scored.sum(1).numpy())
    return Perplexity(
        judge=judge.name,
        judge_rule=rule,
        own_tokenizer=own,
        judge_nats=float(nats.sum() / tokens.sum()) if tokens.sum() else math.nan,
        text_nats=tuple(nats.tolist()),
        text_tokens=tuple(tokens.tolist()),
    )


def read_by(judge: Judge, texts: Sequence[np.ndarray], vocabulary: Vocabulary) -> list[np.ndarray]:
    """The judge's ids of texts, which are decoded if its vocabulary is another; UserError if they are no
    text."""
    if vocabulary.identity == judge.identity:
        return list(map(np.asarray, texts))
    if vocabulary.tokenizer is None:
        raise UserError(
            f"judge {judge.name} cannot read {vocabulary.identity}, which are no text: the judge must be a "
            "run of family ar on the same corpus"
        )
    return [judge.encode(vocabulary.documents(text)) for text in texts]


@torch.no_grad()
def features_of(
    texts: Sequence[np.ndarray], vocabulary: Vocabulary, judge: Judge, device: torch.device | str = "cpu"
) -> np.ndarray:
    """The judge's features of texts, of their first `context` tokens: (texts, D), for MAUVE."""
    read = [ids[: judge.context].astype(np.int64) for ids in read_by(judge, texts, vocabulary)]
    lengths = np.array(list(map(len, read)))
    out: dict[int, Tensor] = {}
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        batch = max(1, TOKENS_PER_BATCH // int(length))
        for part in np.split(rows, range(batch, len(rows), batch)):
            ids = torch.from_numpy(np.stack([read[row] for row in part.tolist()])).to(device)
            out |= dict(zip(part.tolist(), judge.features(ids).float().cpu(), strict=True))
    return torch.stack([out[row] for row in range(len(read))]).numpy()


class _Chunk(NamedTuple):
    """A part of a text that the judge reads at once."""

    text: int
    """Number of the text."""
    ids: np.ndarray
    real: int
    """How many of the ids are no padding."""


def _chunks(texts: Sequence[np.ndarray], judge: Judge, *, pad: bool) -> list[_Chunk]:
    """The parts with something to score, the longest first. pad: to the longest text, with ends."""
    longest = max(map(len, texts), default=0)
    out = []
    for number, text in enumerate(texts):
        whole = longest if pad else len(text)
        for start in range(0, len(text), judge.context):
            real = min(judge.context, len(text) - start)
            ids = np.full(min(judge.context, whole - start), judge.end or 0, dtype=np.int64)
            ids[:real] = text[start : start + real]
            if len(ids) > 1:
                out.append(_Chunk(number, ids, real))
    return sorted(out, key=lambda chunk: -len(chunk.ids))


def counted(ids: Tensor, mask: Tensor, rule: Rule, end: int | None) -> Tensor:
    """(B, n - 1) True at the tokens of chunks (B, n), from the second on, that the rule scores."""
    if rule == "attention_mask":
        return mask[:, 1:].bool()
    assert end is not None, "the rule needs an end"
    ends = ids.eq(end)
    return (~ends | (ends.cumsum(1) == 1))[:, 1:]


def nats_of_logits(logits: Tensor, ids: Tensor) -> Tensor:
    """(B, n - 1): -log p of ids (B, n) from the second on, by the logits (B, n, V) at the place before."""
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return flat.view(len(ids), -1)
