"""Tokenizers: text to ids and back. Each has one id that ends a document; `decode` shows it as ␄.

A document's end counts as one byte in bytes per token, for every tokenizer: the text that all of them encode
is the documents with one terminator each, so bits per byte compare.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scaling.errors import UserError, nearest

END_SHOWN = "␄"
_FILE = "tokenizer.json"
_END_NAMES = ("<|end|>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<|eot_id|>", "[SEP]")
_MIN_BPE, _MAX_BPE = 257, 1 << 20


class Tokenizer(Protocol):
    """Text to ids. `identity` is equal for equal tokenizers and is part of the fingerprint."""

    name: str
    identity: str
    num_token_ids: int
    end: int  # the id that ends a document

    def encode(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """Ids of each document, ending in `end`."""

    def decode(self, ids: np.ndarray) -> str:
        """Text for people to read: bytes that are no UTF-8 show as �, document ends as ␄."""

    def save(self, folder: Path) -> None:
        """Write the file of `open_tokenizer`, if it needs one."""


class ByteTokenizer:
    """One id per byte of UTF-8, 256 in all; byte 0, which text does not contain, ends a document."""

    name = identity = "bytes"
    num_token_ids = 256
    end = 0

    def encode(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return [np.frombuffer(text + b"\0", dtype=np.uint8) for text in documents]

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids)
        octets = np.where((ids >= 0) & (ids < 256), ids, 0xFF).astype(np.uint8)  # a mask id is not a byte
        text = octets.tobytes().decode("utf-8", errors="replace")
        return text.replace("\0", END_SHOWN)

    def save(self, folder: Path) -> None:
        """Nothing to keep: bytes are bytes."""


class HubTokenizer:
    """A tokenizer of the package `tokenizers`: trained here (`bpe:N`), from the hub, or from a file.

    Special tokens are not added, but for one end-of-document id: the vocabulary's own if it has one of
    the usual names, otherwise one more id than the vocabulary has.
    """

    def __init__(self, name: str, backend: Any) -> None:
        self.name = name
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        self.identity = hashlib.sha256(backend.to_str().encode("utf-8")).hexdigest()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        ends = [vocabulary[token] for token in _END_NAMES if token in vocabulary]
        largest = max(vocabulary.values())
        self.end: int = ends[0] if ends else largest + 1
        self.num_token_ids: int = max(largest, self.end) + 1

    def encode(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        texts = [text.decode("utf-8") for text in documents]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array([*encoding.ids, self.end], dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: np.ndarray) -> str:
        flat = np.asarray(ids).ravel()
        bounds = [-1, *np.flatnonzero(flat == self.end).tolist(), len(flat)]
        parts = [flat[low + 1 : high].tolist() for low, high in itertools.pairwise(bounds)]
        return END_SHOWN.join(self._backend.decode_batch(parts, skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        self._backend.save(str(folder / _FILE))


def check_tokenizer(name: str) -> None:
    """Raises UserError unless `name` is `bytes`, `bpe:N` with a usable N, or `hf:` and something."""
    kind, _, rest = name.partition(":")
    if name == "bytes" or (kind == "hf" and rest):
        return
    if kind != "bpe":
        hint = nearest(kind, ["bytes", "bpe", "hf"])
        raise UserError(f"unknown tokenizer {name!r}{hint} (known: bytes, bpe:N, hf:NAME_OR_FILE)")
    if not rest.isdecimal() or not _MIN_BPE <= int(rest) <= _MAX_BPE:
        rule = f"the vocabulary should be {_MIN_BPE} to {_MAX_BPE} ids, as in bpe:4096"
        raise UserError(f"tokenizer {name!r}: {rule}")


def tokenizer_stamp(name: str) -> list[object]:
    """Plain data that changes when a tokenizer's file does; empty for those that are no local file."""
    file = _local_file(name.removeprefix("hf:")) if name.startswith("hf:") else None
    return [hashlib.sha256(file.read_bytes()).hexdigest()] if file else []


def _local_file(name: str) -> Path | None:
    path = Path(os.path.expanduser(name))
    path = path / _FILE if path.is_dir() else path
    return path if path.is_file() else None


def make_tokenizer(name: str, training_text: Iterable[bytes]) -> Tokenizer:
    """The tokenizer of a name; `training_text` is read by `bpe:N` only.

    Raises UserError for an unknown name, a missing package, or a tokenizer that cannot be loaded.
    """
    check_tokenizer(name)
    if name == "bytes":
        return ByteTokenizer()
    from tokenizers import Tokenizer as Backend

    kind, _, rest = name.partition(":")
    if kind == "bpe":
        from tokenizers import decoders, models, pre_tokenizers, trainers

        # byte-level: every byte is in the vocabulary, so any text can be encoded
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=int(rest),
            special_tokens=[_END_NAMES[0]],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator((text.decode("utf-8") for text in training_text), trainer=trainer)
        return HubTokenizer(name, backend)
    file = _local_file(rest)
    try:
        # The library raises bare Exception for everything it dislikes.
        backend = Backend.from_file(str(file)) if file else Backend.from_pretrained(rest)
    except Exception as problem:
        place = str(file) if file else "the Hugging Face hub (no such file here)"
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise UserError(f"tokenizer {name!r} cannot be loaded from {place}: {reason}") from problem
    return HubTokenizer(name, backend)


def open_tokenizer(name: str, folder: Path) -> Tokenizer:
    """The tokenizer that `save` left in a prepared folder."""
    if name == "bytes":
        return ByteTokenizer()
    from tokenizers import Tokenizer as Backend

    return HubTokenizer(name, Backend.from_file(str(folder / _FILE)))
