"""Datasets: windows, their order, held-out windows, tokenizers, and what is refused."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data import Dataset, build, open_dataset, prepare, shards
from scaling.data.corpora import digest_of, heldout_limit, parse_corpus
from scaling.data.tokenizers import END_SHOWN, ByteTokenizer
from scaling.errors import UserError


def write_corpus(folder: Path, documents: int = 200, words: int = 30) -> str:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    with open(folder / "docs.jsonl", "w", encoding="utf-8") as file:
        for number in range(documents):
            text = " ".join(f"wörd{word}" for word in rng.integers(0, 50, words))
            file.write(json.dumps({"text": f"{number}: {text}\n"}) + "\n")
    return f"jsonl:{folder}/docs.jsonl"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def dataset(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(corpus, "bytes", tmp_path_factory.mktemp("cache"))


def stream(dataset: Dataset, split: str) -> np.ndarray:
    files = sorted(dataset.folder.glob(f"{split}-*.bin"))
    return np.concatenate([np.fromfile(file, dataset.meta["dtype"]) for file in files])


def test_documents_are_packed_and_split_by_their_hash(corpus: str, dataset: Dataset) -> None:
    texts = [text for _, text in parse_corpus(corpus).documents()]
    held_out = [text for text in texts if digest_of(text) < heldout_limit()]
    trained = [text for text in texts if digest_of(text) >= heldout_limit()]
    assert held_out
    assert stream(dataset, "heldout").tobytes() == b"".join(text + b"\0" for text in held_out)
    assert stream(dataset, "train").tobytes() == b"".join(text + b"\0" for text in trained)
    assert dataset.num_tokens("train") == sum(len(text) + 1 for text in trained)
    assert dataset.meta["splits"]["train"]["documents"] == len(trained)
    assert (dataset.num_token_ids, dataset.bytes_per_token) == (256, 1.0)
    assert (dataset.entropy_rate, dataset.source, dataset.entropy_per_token(8)) == (None, None, None)


@settings(max_examples=15, deadline=None)
@given(context_length=st.integers(4, 400), seed=st.integers(-5, 2**64), epoch=st.integers(0, 3))
def test_an_epoch_has_every_window_once(dataset: Dataset, context_length: int, seed: int, epoch: int) -> None:
    count = dataset.num_windows("train", context_length)
    assert count is not None
    batch = dataset.train_batch(epoch * count, count, context_length, seed)
    tokens = stream(dataset, "train")[: count * context_length].reshape(count, context_length)
    assert sorted(map(bytes, batch.astype(np.uint8))) == sorted(map(bytes, tokens))


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 10**12),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    context_length=st.sampled_from([1, 7, 64, 5000]),
)
def test_the_order_does_not_depend_on_how_it_is_cut(
    dataset: Dataset, first: int, sizes: list[int], context_length: int
) -> None:
    whole = dataset.train_batch(first, sum(sizes), context_length, 3)
    starts = np.cumsum([0, *sizes[:-1]])
    parts = [
        dataset.train_batch(first + int(start), size, context_length, 3)
        for start, size in zip(starts, sizes, strict=True)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert whole.dtype == np.int64


def test_numpy_integers_are_as_good_as_plain_ones(dataset: Dataset) -> None:
    np.testing.assert_array_equal(
        dataset.train_batch(np.int64(5), 4, 16, np.int64(9)),  # type: ignore[arg-type]
        dataset.train_batch(5, 4, 16, 9),
    )


def test_seeds_and_epochs_have_their_own_order(dataset: Dataset) -> None:
    count = dataset.num_windows("train", 64)
    assert count is not None
    first = dataset.train_batch(0, count, 64, 0)
    assert not np.array_equal(first, dataset.train_batch(count, count, 64, 0))
    assert not np.array_equal(first, dataset.train_batch(0, count, 64, 1))
    np.testing.assert_array_equal(first, dataset.train_batch(0, count, 64, 0))


def test_heldout_windows_are_fixed_distinct_and_spread(dataset: Dataset) -> None:
    available = dataset.num_windows("heldout", 16)
    assert available is not None
    every = dataset.heldout(10**6, 16)
    np.testing.assert_array_equal(every.ravel(), stream(dataset, "heldout")[: available * 16])
    some = dataset.heldout(10, 16)
    positions = [next(n for n in range(available) if np.array_equal(every[n], row)) for row in some]
    gaps = np.diff(positions)
    assert gaps.min() >= available // 10
    assert gaps.max() <= available // 10 + 1
    np.testing.assert_array_equal(some, dataset.heldout(10, 16))


def test_windows_across_shards_equal_those_of_one_shard(
    corpus: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shards.SplitWriter.__init__

    def small(self: shards.SplitWriter, folder: Path, split: str, dtype: np.dtype) -> None:
        original(self, folder, split, dtype, shard_bytes=1000)

    monkeypatch.setattr(shards.SplitWriter, "__init__", small)
    many = prepare(corpus, "bytes", tmp_path)
    assert len(many.meta["splits"]["train"]["shards"]) > 30
    assert max(file.stat().st_size for file in many.folder.glob("*.bin")) == 1000
    assert many.fingerprint == dataset.fingerprint
    for length in (16, 999, 3500):
        np.testing.assert_array_equal(
            many.train_batch(3, 20, length, 1), dataset.train_batch(3, 20, length, 1)
        )
        np.testing.assert_array_equal(many.heldout(5, 300), dataset.heldout(5, 300))


def test_a_dataset_travels_as_its_folder(dataset: Dataset) -> None:
    twin = pickle.loads(pickle.dumps(dataset))
    assert twin.folder == dataset.folder
    np.testing.assert_array_equal(twin.train_batch(0, 3, 16, 0), dataset.train_batch(0, 3, 16, 0))
    assert dataset.fingerprint[:16] in repr(twin)


def test_bytes_decode_to_readable_text(dataset: Dataset) -> None:
    text = dataset.decode(stream(dataset, "heldout")[:400])
    assert "wörd" in text
    assert END_SHOWN in text
    assert ByteTokenizer().decode(np.array([104, 105, 256, 0])) == f"hi\ufffd{END_SHOWN}"


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("heldout", "held-out")])
def test_a_context_longer_than_the_data_is_refused(dataset: Dataset, split: str, name: str) -> None:
    length = dataset.num_tokens(split)
    assert length is not None
    assert dataset.num_windows(split, length) == 1
    with pytest.raises(UserError, match=f"context_length={length + 1} is longer than the {name} text"):
        dataset.num_windows(split, length + 1)
    read = {
        "train": lambda: dataset.train_batch(0, 1, length + 1, 0),
        "heldout": lambda: dataset.heldout(1, length + 1),
    }
    with pytest.raises(UserError, match=f"longer than the {name} text"):
        read[split]()


def test_nonsense_sizes_are_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="context_length=0 should be at least 1"):
        dataset.train_batch(0, 1, 0, 0)
    with pytest.raises(UserError, match="count=0 should be at least 1"):
        dataset.heldout(0, 8)
    with pytest.raises(UserError, match="split='test' should be one of train, heldout"):
        dataset.num_tokens("test")


def test_bits_per_byte_compare_between_tokenizers(corpus: str, tmp_path: Path) -> None:
    """Tokens times bytes per token is the same text, whichever tokenizer cut it."""
    small = prepare(corpus, "bpe:300", tmp_path)
    plain = prepare(corpus, "bytes", tmp_path)
    assert small.num_token_ids == 300
    assert small.bytes_per_token is not None
    assert small.bytes_per_token > 1.5
    total = small.bytes_per_token * small.meta["splits"]["heldout"]["tokens"]
    assert total == pytest.approx(plain.num_tokens("heldout"))
    assert small.fingerprint != plain.fingerprint


def test_bpe_gives_the_text_back_and_is_reproducible(corpus: str, tmp_path: Path) -> None:
    plain = prepare(corpus, "bytes", tmp_path / "a")
    one, two = (prepare(corpus, "bpe:400", tmp_path / name) for name in "ab")
    assert one.fingerprint == two.fingerprint
    assert one.meta["dtype"] == "<u2"
    assert one.decode(stream(one, "train")) == plain.decode(stream(plain, "train"))
    assert one.decode(stream(one, "train")[:0]) == ""


def test_a_tokenizer_file(corpus: str, tmp_path: Path) -> None:
    trained = prepare(corpus, "bpe:400", tmp_path)
    file = trained.folder / "tokenizer.json"
    loaded = prepare(corpus, f"hf:{file}", tmp_path)
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.tokenizer == f"hf:{file}"
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be loaded from .*broken\.json"):
        prepare(corpus, f"hf:{tmp_path / 'broken.json'}", tmp_path)


def test_a_vocabulary_without_end_of_document_gets_one(corpus: str, tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"wörd1": 0, "?": 7}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    dataset = prepare(corpus, f"hf:{tmp_path / 'words.json'}", tmp_path)
    assert (dataset.num_token_ids, dataset.meta["end_of_document"]) == (9, 8)
    assert set(np.unique(stream(dataset, "train"))) == {0, 7, 8}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("byte", "unknown tokenizer 'byte'; did you mean 'bytes'?"),
        ("bpe", "should be 257 to 1048576 ids"),
        ("bpe:100", "should be 257 to 1048576 ids"),
        ("bpe:4k", "should be 257 to 1048576 ids"),
        ("hf:", "unknown tokenizer 'hf:'"),
    ],
)
def test_unknown_tokenizers(corpus: str, tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare(corpus, name, tmp_path / "cache")
    assert why in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_synthetic_datasets(tmp_path: Path) -> None:
    dataset = prepare("synthetic:markov?vocab=16", "bytes", tmp_path)
    assert dataset.corpus == "synthetic:markov?order=1&vocab=16&zipf=1.0&sharpness=1.5&seed=0"
    assert dataset.tokenizer == "ids"
    assert dataset.num_token_ids == 16
    assert dataset.num_tokens("train") is dataset.num_tokens("heldout") is None
    assert dataset.num_windows("train", 10**9) is None
    assert dataset.bytes_per_token is None
    batch = dataset.train_batch(10**15, 6, 32, 4)
    assert (batch.shape, batch.dtype) == ((6, 32), np.int64)
    np.testing.assert_array_equal(open_dataset(dataset.folder).train_batch(10**15 + 2, 1, 32, 4)[0], batch[2])
    assert not np.array_equal(dataset.heldout(6, 32), dataset.train_batch(0, 6, 32, 0))
    assert dataset.decode(np.array([3, 15, 0])) == "3 15 0"
    same = prepare(dataset.corpus, "ids", tmp_path)
    assert same.folder == dataset.folder
    other = prepare("synthetic:markov?vocab=16&seed=1", "bytes", tmp_path)
    assert other.fingerprint != dataset.fingerprint
    with pytest.raises(UserError, match="makes token ids, not text"):
        prepare("synthetic:markov", "bpe:300", tmp_path)


def test_synthetic_entropy_bounds_the_held_out_windows(tmp_path: Path) -> None:
    dataset = prepare("synthetic:hmm?vocab=16", "bytes", tmp_path)
    source = dataset.source
    assert source is not None
    nats = -source.log_prob(dataset.heldout(2000, 32)) / 32
    floor = dataset.entropy_per_token(32)
    assert floor is not None
    assert dataset.entropy_rate is not None
    assert floor > dataset.entropy_rate
    assert abs(nats.mean() - floor) < 4 * math.hypot(nats.std() / math.sqrt(2000), source.entropy_se(32))
    assert dataset.entropy_rate == pytest.approx(source.entropy_rate, abs=1e-12)


def test_progress_is_told(corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_REPORT_S", 0.0)
    records: list[dict[str, object]] = []
    prepare(corpus, "bytes", tmp_path, report=records.append)
    assert {record["stage"] for record in records} == {"tokens"}
    done = [record["done_bytes"] for record in records]
    assert done == sorted(done)  # type: ignore[type-var]
    assert records[-1]["documents"] == 200
    assert records[-1]["total_bytes"] == parse_corpus(corpus).total_bytes()
    records.clear()
    prepare(corpus, "bytes", tmp_path, report=records.append)
    assert records == []
