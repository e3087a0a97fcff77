"""`Dataset`: windows of token ids by number, for training and evaluation."""

import bisect
import functools
import itertools
import os
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.labels import DocumentLabels, read_documents
from scaling.data.permutation import permute
from scaling.data.shards import BLOCK_BYTES, SPLITS, away, damaged, read_meta, shard_name
from scaling.data.synthetic import Source, TopicSource, parse_source
from scaling.data.tokenizers import Tokenizer, open_tokenizer
from scaling.errors import UserError
from scaling.labels import Labels

_OPEN_SHARDS = 256
_ORDER_BLOCK = 4096  # window numbers permuted at a time: one by one costs more than a small batch's reading


class Dataset(ABC):
    """A prepared corpus. Cheap to open, read by many processes at once, pickled as the name of its folder.

    Windows are `context_length` tokens each. Which window is number n of the training order depends on
    (seed, n) alone.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.meta = folder, meta
        self.corpus = str(meta["corpus"])
        """The corpus as it was named; synthetic ones with all their options."""
        self.tokenizer = str(meta["tokenizer"])
        """The tokenizer as it was named; "ids" for synthetic sources."""
        self.fingerprint = str(meta["fingerprint"])
        """SHA-256, in hex, over tokens, tokenizer and split rule; not over names or times of files."""
        self.num_token_ids = int(meta["num_token_ids"])
        """Ids run from 0 to this, exclusive. A mask id comes on top, if a family needs one."""
        self.bytes_per_token: float | None = meta.get("bytes_per_token")
        """UTF-8 bytes per token of the held-out text, one byte more per document; None without text.

        Bits per byte = nats per token / ln 2 / this.
        """
        self.entropy_rate: float | None = meta.get("entropy_rate")
        """Nats per token of a synthetic source in the limit of long contexts; None for text."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (self.folder,)

    def __repr__(self) -> str:
        return f"Dataset({self.corpus!r}, {self.tokenizer!r}, fingerprint={self.fingerprint[:16]!r})"

    @property
    def source(self) -> Source | None:
        """The synthetic source, with its exact probabilities; None for text."""
        return None

    def entropy_per_token(self, context_length: int) -> float | None:
        """Nats per token of a whole window of a synthetic source: the lowest loss on windows of that length.

        H(X_1..X_L) / L, above `entropy_rate` because a window's first tokens have little to go by. None for
        text.
        """
        return None if self.source is None else self.source.entropy_per_token(context_length)

    @abstractmethod
    def num_tokens(self, split: str) -> int | None:
        """Tokens of "train" or "heldout"; None if endless."""

    @abstractmethod
    def num_windows(self, split: str, context_length: int) -> int | None:
        """Windows of a split; None if endless. Raises UserError if the split is shorter than one window."""

    @abstractmethod
    def train_batch(self, first_sequence: int, count: int, context_length: int, seed: int) -> np.ndarray:
        """Training windows first_sequence, ..., first_sequence + count - 1: (count, context_length) int64.

        Each epoch passes once over every window of the training tokens in an order drawn from (seed, epoch).
        Raises UserError if the corpus is shorter than one window.
        """

    @abstractmethod
    def heldout(self, count: int, context_length: int) -> np.ndarray:
        """Held-out windows, always the same for equal arguments: (count or fewer, context_length) int64.

        Spread evenly over the held-out text; all its windows if it has fewer than `count`.
        Raises UserError if the held-out text is shorter than one window.
        """

    def label_names(self, labels: Labels) -> tuple[str, ...]:
        """What each label of that kind is called, at most `labels.classes` of them.

        UserError if the corpus has none of that kind, as for the two methods below.
        """
        raise UserError(f"corpus {self.corpus!r} has no labels {labels.of!r}")

    def train_labels(
        self, first_sequence: int, count: int, context_length: int, seed: int, labels: Labels
    ) -> np.ndarray:
        """The label (count,) of each window of `train_batch`, int64."""
        raise UserError(f"corpus {self.corpus!r} has no labels {labels.of!r}")

    def heldout_labels(self, count: int, context_length: int, labels: Labels) -> np.ndarray:
        """The label of each window of `heldout`, int64."""
        raise UserError(f"corpus {self.corpus!r} has no labels {labels.of!r}")

    @abstractmethod
    def decode(self, ids: np.ndarray) -> str:
        """Ids as text for people to read."""


def open_dataset(folder: Path | str) -> Dataset:
    """The dataset of a folder made by `prepare`: reads meta.json, opens shards when they are first used.

    Raises UserError if the folder is not such a folder, or a shard is missing or has the wrong size; reading
    from it raises DataDamagedError for a block of tokens that changed since it was written.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    return ShardDataset(folder, meta) if meta["splits"] else SyntheticDataset(folder, meta)


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"{name}={number} should be at least 1")


@functools.lru_cache(maxsize=8)
def _order(num_windows: int, seed: int, epoch: int, block: int) -> list[int]:
    """Entries block * _ORDER_BLOCK, ... of an epoch's order of windows."""
    first = block * _ORDER_BLOCK
    index = np.arange(first, min(first + _ORDER_BLOCK, num_windows))
    return permute(index, num_windows, "windows", seed, epoch).tolist()


class _Shard:
    """One open file of tokens, of which each block is compared with its sum when it is first read.

    Read by calls, not mapped: a disk that fails is an OSError then, where a mapping would kill the process.
    """

    _descriptor = -1

    def __init__(self, path: Path, dtype: str) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        self._descriptor = os.open(path, os.O_RDONLY)
        sums = path.with_suffix(".sums")
        self._sums = np.fromfile(sums, "<u4") if sums.exists() else None
        blocks = -(-os.fstat(self._descriptor).st_size // BLOCK_BYTES)
        if self._sums is not None and len(self._sums) != blocks:
            raise damaged(path.parent, f"{sums} has {len(self._sums)} sums for {blocks} blocks")
        self._unread = bytearray(b"\1" * blocks) if self._sums is not None else bytearray(blocks)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, first: int, count: int) -> np.ndarray:
        """Tokens first, first + 1, ... . Raises DataDamagedError, or OSError."""
        start, size = first * self._dtype.itemsize, count * self._dtype.itemsize
        for block in range(start // BLOCK_BYTES, (start + size - 1) // BLOCK_BYTES + 1):
            if self._unread[block]:
                assert self._sums is not None, "without sums every block counts as read"
                at = block * BLOCK_BYTES
                if zlib.crc32(os.pread(self._descriptor, BLOCK_BYTES, at)) != self._sums[block]:
                    raise damaged(self._path.parent, f"{self._path} does not match its sum at byte {at}")
                self._unread[block] = 0
        data = os.pread(self._descriptor, size, start)
        if len(data) != size:
            raise damaged(self._path.parent, f"{self._path} was cut short")
        return np.frombuffer(data, self._dtype)


class ShardDataset(Dataset):
    """Tokens in shards."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        super().__init__(folder, meta)
        self._starts = {
            split: list(itertools.accumulate(meta["splits"][split]["shards"], initial=0)) for split in SPLITS
        }
        self._shard = functools.lru_cache(maxsize=_OPEN_SHARDS)(
            lambda split, number: _Shard(folder / shard_name(split, number), meta["dtype"])
        )
        self._labels = functools.lru_cache(maxsize=4)(
            lambda of, classes: DocumentLabels(read_documents(folder, self.corpus), of, classes)
        )

    @functools.cached_property
    def _text(self) -> Tokenizer:
        return open_tokenizer(self.tokenizer, self.folder)

    def num_tokens(self, split: str) -> int:
        if split not in SPLITS:
            raise UserError(f"split={split!r} should be one of {', '.join(SPLITS)}")
        return self._starts[split][-1]

    def num_windows(self, split: str, context_length: int) -> int:
        _check(context_length=context_length)
        windows = self.num_tokens(split) // context_length
        if not windows:
            name = {"train": "training", "heldout": "held-out"}[split]
            raise UserError(
                f"context_length={context_length} is longer than the {name} text of corpus {self.corpus!r}"
                f" ({self.num_tokens(split)} tokens); choose a shorter context or a larger corpus"
            )
        return windows

    def train_batch(self, first_sequence: int, count: int, context_length: int, seed: int) -> np.ndarray:
        windows = self._train_windows(first_sequence, count, context_length, seed)
        return self._windows("train", windows, context_length)

    def _train_windows(self, first_sequence: int, count: int, context_length: int, seed: int) -> list[int]:
        _check(context_length=context_length, count=count)
        num_windows = self.num_windows("train", context_length)
        windows: list[int] = []
        while len(windows) < count:
            epoch, index = divmod(int(first_sequence) + len(windows), num_windows)
            block, skipped = divmod(index, _ORDER_BLOCK)
            order = _order(num_windows, int(seed), epoch, block)
            windows += order[skipped : skipped + count - len(windows)]
        return windows

    def heldout(self, count: int, context_length: int) -> np.ndarray:
        return self._windows("heldout", self._heldout_windows(count, context_length), context_length)

    def _heldout_windows(self, count: int, context_length: int) -> list[int]:
        _check(context_length=context_length, count=count)
        num_windows = self.num_windows("heldout", context_length)
        kept = min(count, num_windows)
        return [(2 * index + 1) * num_windows // (2 * kept) for index in range(kept)]

    def label_names(self, labels: Labels) -> tuple[str, ...]:
        return self._labels(labels.of, labels.classes).names

    def train_labels(
        self, first_sequence: int, count: int, context_length: int, seed: int, labels: Labels
    ) -> np.ndarray:
        windows = self._train_windows(first_sequence, count, context_length, seed)
        return self._labels(labels.of, labels.classes).of_windows("train", np.array(windows), context_length)

    def heldout_labels(self, count: int, context_length: int, labels: Labels) -> np.ndarray:
        windows = np.array(self._heldout_windows(count, context_length))
        return self._labels(labels.of, labels.classes).of_windows("heldout", windows, context_length)

    def _windows(self, split: str, windows: list[int], context_length: int) -> np.ndarray:
        ids = np.empty((len(windows), context_length), dtype=np.int64)
        starts = self._starts[split]
        try:
            for row, window in zip(ids, windows, strict=True):
                position, filled = window * context_length, 0
                while filled < context_length:  # a window may lie across two shards
                    shard = bisect.bisect_right(starts, position) - 1
                    count = min(context_length - filled, starts[shard + 1] - position)
                    row[filled : filled + count] = self._shard(split, shard).read(
                        position - starts[shard], count
                    )
                    filled += count
                    position += count
        except OSError as problem:
            raise away(self.folder, problem) from problem
        return ids

    def decode(self, ids: np.ndarray) -> str:
        return self._text.decode(ids)


class SyntheticDataset(Dataset):
    """Windows drawn from a source of known entropy: endless, each made when it is read."""

    @functools.cached_property
    def source(self) -> Source:
        return parse_source(self.corpus)

    def num_tokens(self, split: str) -> None:
        if split not in SPLITS:
            raise UserError(f"split={split!r} should be one of {', '.join(SPLITS)}")

    def num_windows(self, split: str, context_length: int) -> None:
        _check(context_length=context_length)
        self.num_tokens(split)

    def train_batch(self, first_sequence: int, count: int, context_length: int, seed: int) -> np.ndarray:
        _check(context_length=context_length, count=count)
        return self.source.windows(("train", int(seed)), int(first_sequence), count, context_length)

    def heldout(self, count: int, context_length: int) -> np.ndarray:
        _check(context_length=context_length, count=count)
        return self.source.windows(("heldout",), 0, count, context_length)

    def label_names(self, labels: Labels) -> tuple[str, ...]:
        return tuple(map(str, range(self._topics(labels).num_topics)))

    def train_labels(
        self, first_sequence: int, count: int, context_length: int, seed: int, labels: Labels
    ) -> np.ndarray:
        stream = ("train", int(seed))
        return self._topics(labels).topics(stream, int(first_sequence), count, context_length)

    def heldout_labels(self, count: int, context_length: int, labels: Labels) -> np.ndarray:
        return self._topics(labels).topics(("heldout",), 0, count, context_length)

    def _topics(self, labels: Labels) -> TopicSource:
        if not isinstance(self.source, TopicSource) or labels.of != "topic":
            raise UserError(
                f"corpus {self.corpus!r} has no labels {labels.of!r}; synthetic:topics has 'topic'"
            )
        if self.source.num_topics != labels.classes:
            raise UserError(
                f"labels: classes is {labels.classes}, and corpus {self.corpus!r} has "
                f"{self.source.num_topics} topics"
            )
        return self.source

    def decode(self, ids: np.ndarray) -> str:
        return " ".join(str(token) for token in np.asarray(ids).ravel().tolist())
