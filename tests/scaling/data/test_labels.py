"""Labels of windows: by the document they lie in most, by their number alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from scaling.data import Dataset, prepare
from scaling.data.labels import DOCUMENTS, DocumentLabels, kind_of, package_of, relative
from scaling.data.synthetic import TopicSource, parse_source
from scaling.errors import UserError
from scaling.labels import KINDS, Labels

KIND = Labels(of="kind")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("os.py", "source"),
        ("json/decoder.py", "source"),
        ("test/test_os.py", "test"),
        ("test/support/script_helper.py", "test"),
        ("lib/test_os.py", "test"),
        ("contest/a.py", "source"),
        ("docs/index.rst", "documentation"),
        ("README.md", "documentation"),
        ("testing/notes.md", "test"),
    ],
)
def test_the_kind_follows_from_the_path(path: str, kind: str) -> None:
    assert kind_of(path) == kind


def test_a_package_is_the_folder_below_the_one_that_all_share() -> None:
    names = ["/a/b/json/x.py:0", "/a/b/json/deep/y.py:16384", "/a/b/os.py:0"]
    assert [package_of(path) for path in relative(names)] == ["json", "json", "top"]
    assert [package_of(path) for path in relative(["json/x.py", "os.py"])] == ["json", "top"]


def test_a_window_has_the_label_of_most_of_its_tokens() -> None:
    """Against counting token by token, over documents shorter and longer than a window."""
    rng = np.random.default_rng(0)
    paths = [f"{rng.choice(['a', 'b', 'test', 'c'])}/{n}.py" for n in range(200)]
    sizes = rng.integers(1, 40, size=200)
    documents = {"train": list(zip(sizes.cumsum().tolist(), paths, strict=True)), "heldout": []}
    labels = DocumentLabels(documents, "package", 3)
    assert labels.names[-1] == "other"
    numbers = {name: n for n, name in enumerate(labels.names)}
    tokens = np.repeat([numbers.get(package_of(path), 2) for path in paths], sizes)
    windows = np.arange(len(tokens) // 16)
    counts = [np.bincount(tokens[16 * w : 16 * w + 16], minlength=3).argmax() for w in windows]
    np.testing.assert_array_equal(labels.of_windows("train", windows, 16), counts)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for folder, letter in (("lib", "s"), ("tests", "t"), ("docs", "d")):
        for number in range(40):
            path = tmp_path / "corpus" / folder / f"{number}{'.md' if folder == 'docs' else '.py'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(letter * (300 + 7 * number) + str(number))
    return prepare(f"text:{tmp_path}/corpus/**/*", "bytes", tmp_path / "cache")


def test_labels_go_with_their_windows(dataset: Dataset) -> None:
    """Each text is made of the letter of its kind."""
    names = dataset.label_names(KIND)
    assert names == KINDS
    letters = {"source": "s", "test": "t", "documentation": "d"}
    ids = dataset.train_batch(5, 60, 16, seed=3)
    labels = dataset.train_labels(5, 60, 16, 3, KIND)
    assert set(labels.tolist()) == {0, 1, 2}
    for row, label in zip(ids, labels.tolist(), strict=True):
        counts = {name: (row == ord(letter)).sum() for name, letter in letters.items()}
        assert counts[names[label]] == max(counts.values())
    heldout = dataset.heldout(20, 16)
    for row, label in zip(heldout, dataset.heldout_labels(20, 16, KIND).tolist(), strict=True):
        assert (row == ord(letters[names[label]])).sum() >= 8


def test_a_label_depends_on_seed_and_number_alone(dataset: Dataset) -> None:
    whole = dataset.train_labels(0, 500, 16, 1, KIND)
    for first, count in ((0, 1), (17, 40), (499, 1)):
        np.testing.assert_array_equal(
            dataset.train_labels(first, count, 16, 1, KIND), whole[first : first + count]
        )
    assert (dataset.train_labels(0, 500, 16, 2, KIND) != whole).any()


def test_a_folder_without_names_of_documents_says_so(dataset: Dataset) -> None:
    (dataset.folder / DOCUMENTS).unlink()
    with pytest.raises(UserError, match="no labels of documents"):
        dataset.label_names(KIND)


def test_documents_have_no_topics(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="documents have kind and package"):
        dataset.label_names(Labels(of="topic"))


def test_topics_are_those_that_the_windows_came_from(tmp_path: Path) -> None:
    data = prepare("synthetic:topics?topics=3&vocab=16&sharpness=3", "bytes", tmp_path)
    labels = Labels(of="topic", classes=3)
    ids, topics = data.train_batch(0, 3000, 32, 7), data.train_labels(0, 3000, 32, 7, labels)
    np.testing.assert_array_equal(data.train_labels(100, 9, 32, 7, labels), topics[100:109])
    assert isinstance(data.source, TopicSource)
    log_probs = data.source.topic_log_probs(ids)
    # each topic a third of the windows, within 5 standard errors; the likeliest topic is the true one
    assert np.abs(np.bincount(topics) / 3000 - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 3000)
    assert (log_probs.argmax(1) == topics).mean() > 0.99
    # and the probability of a window is the mean over topics
    np.testing.assert_allclose(
        data.source.log_prob(ids[:50]), np.log(np.exp(log_probs[:50]).mean(1)), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("corpus", "labels", "named"),
    [
        ("synthetic:markov", Labels(of="topic"), "has no labels 'topic'"),
        ("synthetic:topics", Labels(of="kind"), "has no labels 'kind'"),
        ("synthetic:topics?topics=5", Labels(of="topic", classes=4), "has 5 topics"),
    ],
)
def test_a_corpus_without_such_labels_says_so(
    tmp_path: Path, corpus: str, labels: Labels, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        prepare(corpus, "bytes", tmp_path).label_names(labels)


def test_topics_know_their_entropy() -> None:
    source = parse_source("synthetic:topics?topics=2&vocab=4&sharpness=2")
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 5, indexing="ij"), -1).reshape(-1, 5)
    log_probs = source.log_prob(grid)
    exact = float(-(np.exp(log_probs) * log_probs).sum()) / 5
    assert abs(source.entropy_per_token(5) - exact) < 4 * source.entropy_se(5)
