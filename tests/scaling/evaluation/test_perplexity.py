"""Generative perplexity: chunks, both rules of padding, pooled sums, judges that read other tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scaling.data.tokenizers import ByteTokenizer
from scaling.errors import UserError
from scaling.evaluation.perplexity import Vocabulary, judge_texts, nats_of_logits

IDS = Vocabulary("ids", None)
BYTES = Vocabulary("bytes", ByteTokenizer())


class Simple:
    """Every token costs its id, and a hundredth more for each token that is seen before it."""

    name, identity = "simple", "ids"
    end: int | None = 0

    def __init__(self, context: int = 4) -> None:
        self.context, self.shapes = context, []

    def encode(self, documents: list[str]) -> np.ndarray:
        """Lengths of words, ends between documents."""
        return np.array([0 if word == "|" else len(word) for word in " | ".join(documents).split()])

    def nats(self, ids: Tensor, mask: Tensor) -> Tensor:
        self.shapes.append(tuple(ids.shape))
        return ids[:, 1:] + torch.arange(1, ids.shape[1]) / 100

    def features(self, ids: Tensor) -> Tensor:
        return ids[:, -1:].float()


def test_the_first_token_of_each_chunk_is_not_scored():
    got = judge_texts([np.array([5, 1, 2, 3, 7, 4])], IDS, Simple())
    assert got.text_nats == pytest.approx([1.01 + 2.02 + 3.03 + 4.01])
    assert got.text_tokens == (4,)
    assert got.gen_ppl == pytest.approx(math.exp(10.07 / 4))


def test_nats_and_tokens_are_pooled_over_texts_of_different_lengths():
    texts = [np.array([9, 1]), np.array([9, 2, 2, 2]), np.array([9]), np.array([1, 1, 1, 1, 9])]
    got = judge_texts(texts, IDS, Simple())
    assert got.text_tokens == (1, 3, 0, 3)
    assert got.text_nats == pytest.approx([1.01, 6.06, 0, 3.06])
    assert got.judge_nats == pytest.approx(10.13 / 7)


def test_a_text_costs_the_same_alone_and_among_others(monkeypatch):
    generator = np.random.default_rng(0)
    texts = [generator.integers(1, 9, length) for length in (3, 11, 4, 8, 1, 5)]
    together = judge_texts(texts, IDS, Simple())
    monkeypatch.setattr("scaling.evaluation.perplexity.TOKENS_PER_BATCH", 8)
    judge = Simple()
    small = judge_texts(texts, IDS, judge)
    assert all(rows <= 2 for rows, _ in judge.shapes)
    alone = [judge_texts([text], IDS, Simple()).text_nats[0] for text in texts]
    assert together.text_nats == pytest.approx(alone)
    assert small == together


def test_first_eos_counts_the_first_end_of_each_chunk_and_pads_with_ends():
    texts = [np.array([5, 0, 2, 0, 3, 4]), np.array([5, 1, 2])]
    counted = judge_texts(texts, IDS, Simple(), rule="first_eos")
    # first text: chunk 5 0 2 0 counts 0 2, chunk 3 4 counts 4; second: 5 1 2 and one end of padding
    assert counted.text_tokens == (3, 3)
    assert counted.text_nats == pytest.approx([0.01 + 2.02 + 4.01, 1.01 + 2.02 + 0.03])
    assert judge_texts(texts, IDS, Simple()).text_tokens == (4, 2)


def test_another_vocabulary_is_decoded_and_said():
    ids = np.frombuffer(b"to be\0or not to be\0x", dtype=np.uint8)
    got = judge_texts([ids], BYTES, Simple(context=20))
    assert got.own_tokenizer
    assert got.text_tokens == (8,)  # 2 2 | 2 3 2 2 | 1
    assert not judge_texts([np.array([1, 2])], IDS, Simple()).own_tokenizer


def test_nats_of_logits_are_those_of_the_place_before():
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    ids = torch.tensor([[0, 1, 2], [4, 3, 2]])
    log_p = logits.log_softmax(-1)
    got = nats_of_logits(logits, ids)
    assert got[1].tolist() == pytest.approx([-float(log_p[1, 0, 3]), -float(log_p[1, 1, 2])])


def test_what_a_judge_cannot_do_is_refused_in_a_sentence():
    other = Vocabulary("ids of synthetic:hmm", None)
    with pytest.raises(
        UserError, match="cannot read ids of synthetic:hmm, which are no text: the judge must be"
    ):
        judge_texts([np.array([1, 2])], other, Simple())
    judge = Simple()
    judge.end = None
    with pytest.raises(UserError, match="rule first_eos needs an id that ends documents"):
        judge_texts([np.array([1, 2])], IDS, judge, rule="first_eos")
    with pytest.raises(UserError, match="unknown rule 'eos'"):
        judge_texts([np.array([1, 2])], IDS, judge, rule="eos")


def test_no_token_scored_is_no_number():
    assert math.isnan(judge_texts([np.array([1])], IDS, Simple()).judge_nats)
