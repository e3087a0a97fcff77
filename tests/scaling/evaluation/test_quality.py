"""Measures of texts by hand, and all of them together on a corpus and on a known source."""

from __future__ import annotations

import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from scaling.data import Dataset, prepare
from scaling.evaluation.mauve import mauve_of_features, mauve_of_histograms
from scaling.evaluation.quality import distinct, measure_quality, unigram_entropy
from tests.scaling.evaluation.test_judges import run_judge


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"{number} quick brown foxes jump over the lazy dog. " * 20)
    return prepare(f"text:{folder}/*.txt", "bytes", folder / "data")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Dataset:
    return prepare("synthetic:markov?vocab=8", "ids", tmp_path_factory.mktemp("source"))


def test_measures_by_hand():
    ids = np.array([1, 1, 2, 2, 1, 1, 2, 2])
    assert unigram_entropy(ids) == pytest.approx(math.log(2))
    assert unigram_entropy(np.zeros(5)) == 0
    assert distinct(ids, 1) == 2 / 8
    assert distinct(ids, 2) == 4 / 7
    assert distinct(ids, 4) == 4 / 5
    assert distinct(ids[:3], 4) == 1


def test_all_measures_of_a_text_corpus(text):
    texts = text.heldout(6, 32)
    got = measure_quality(texts, text, judge=run_judge(context=16))
    assert (got.texts, got.length) == (6, 32)
    assert got.judge == "run 12ab"
    assert not got.own_tokenizer
    assert got.gen_ppl == pytest.approx(math.exp(sum(got.text_nats) / sum(got.text_tokens)))
    assert sum(got.text_tokens) == 6 * 30
    assert got.entropy == pytest.approx(np.mean(got.text_entropy))
    assert 0 <= got.repetition < 0.5
    assert math.isnan(got.source_nats)
    again = measure_quality(torch.from_numpy(texts), text, judge=run_judge(context=16))
    assert repr(again) == repr(got)


def test_a_repeated_text_is_seen_to_repeat(text):
    looping = [np.tile(np.arange(1, 5), 8)] * 3
    got = measure_quality(looping, text)
    assert got.repetition == pytest.approx(1 - 4 / 29)
    assert got.distinct_1 == 4 / 32
    assert got.judge == ""
    assert math.isnan(got.gen_ppl)


def test_a_known_source_is_the_perfect_judge(source):
    got = measure_quality(source.heldout(200, 24), source)
    assert got.source_rate == pytest.approx(source.entropy_per_token(24))
    assert abs(got.source_nats - got.source_rate) < 0.05
    assert abs(got.source_kl_2) < 0.05
    assert got.impossible_share == 0
    assert len(got.text_source_nats) == 200
    worse = measure_quality(np.random.default_rng(0).integers(0, 8, (200, 24)), source)
    assert worse.source_nats > got.source_nats + 0.3
    assert worse.source_kl_3 > worse.source_kl_2 > worse.source_kl_1 > 0.05


def test_no_texts_are_refused(text):
    with pytest.raises(ValueError, match="no texts"):
        measure_quality([], text)


def test_mauve_is_of_the_judge_features_where_its_package_is(text, monkeypatch):
    texts = text.heldout(6, 16)
    monkeypatch.setitem(sys.modules, "mauve", None)
    assert mauve_of_features(np.zeros((2, 3)), np.zeros((2, 3))) is None
    package, shapes = ModuleType("mauve"), []
    package.__spec__ = ModuleSpec("mauve", None)

    def compute_mauve(p_features, q_features, **options):
        shapes.append((p_features.shape, q_features.shape))
        return SimpleNamespace(p_hist=np.array([0.5, 0.5]), q_hist=np.array([0.25, 0.75]))

    package.compute_mauve = compute_mauve
    monkeypatch.setitem(sys.modules, "mauve", package)
    got = measure_quality(texts, text, judge=run_judge(), human=text.heldout(5, 16))
    assert got.mauve == mauve_of_histograms([1, 1], [1, 3]) < 1
    assert shapes == [((5, 16), (6, 16))]
    assert math.isnan(measure_quality(texts, text, judge=run_judge()).mauve)


def test_mauve_falls_from_one_as_histograms_part():
    p = np.array([5, 3, 2, 0])
    values = [mauve_of_histograms(p, p + shift * np.array([0, -1, 0, 1])) for shift in range(4)]
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)
