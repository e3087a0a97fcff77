"""`prepare`: a corpus and a tokenizer become a folder of shards, once; the next call opens it at once."""

import contextlib
import hashlib
import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from scaling.data.corpora import (
    HELDOUT_SHARE,
    Corpus,
    StdlibCorpus,
    TextCorpus,
    digest_of,
    heldout_limit,
    parse_corpus,
)
from scaling.data.dataset import Dataset, open_dataset
from scaling.data.labels import Documents, write_documents
from scaling.data.shards import (
    FORMAT,
    SPLITS,
    SplitWriter,
    Workshop,
    dtype_for,
    fingerprint_of,
    read_checked,
    write_meta,
)
from scaling.data.synthetic import Source, parse_source
from scaling.data.tokenizers import check_tokenizer, make_tokenizer, tokenizer_stamp
from scaling.errors import DataAwayError, UserError

_TOKENIZER_TRAINING_BYTES = 1 << 26  # BPE merges hardly change beyond some ten megabytes of text
_BATCH_BYTES = 1 << 20
_BATCH_DOCUMENTS = 1024
_REPORT_S = 0.1
SPLIT_RULE = f"held out: documents whose sha256 starts below {HELDOUT_SHARE:g} of its range"

Report = Callable[[dict[str, Any]], None]


def prepare(corpus: str, tokenizer: str, cache: Path | str, *, report: Report | None = None) -> Dataset:
    """Tokens of a corpus in `cache`, built on the first call and opened on later ones.

    The folder is named after corpus, tokenizer and a cheap stamp of the source (names, sizes and times of its
    files), so changed files are tokenized anew beside the old folder. Safe against a second builder, who
    waits, and against being killed, which leaves a temporary that the next builder removes.

    `report` gets a record some ten times a second while building: `stage` ("waiting" for another builder,
    "tokenizer", "tokens"), `done_bytes`, `total_bytes` (about; None if unknown), `documents`.

    Raises UserError, leaving nothing behind, for an unknown, missing or empty corpus, a file that is not
    text, an unknown tokenizer, a missing optional package, a full disk, or a corpus that changes while it is
    read.
    """
    progress = _Progress(report)
    make: Callable[[Path], None]
    if corpus.startswith("synthetic:"):
        if tokenizer not in ("bytes", "ids"):
            raise UserError(
                f"tokenizer {tokenizer!r}: corpus {corpus!r} makes token ids, not text; leave it at 'bytes'"
            )
        source = parse_source(corpus)
        corpus, tokenizer, key = source.name, "ids", [FORMAT, source.name]
        make = partial(_describe, source)
    else:
        check_tokenizer(tokenizer)
        text = parse_corpus(corpus)
        key = [FORMAT, corpus, text.stamp(), tokenizer, tokenizer_stamp(tokenizer), SPLIT_RULE]
        make = lambda folder: _build(folder, text, tokenizer, progress)  # noqa: E731
    words = re.sub(r"[^a-z0-9]+", "-", f"{corpus}-{tokenizer}".lower()).strip("-")[:60]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    shop = Workshop(Path(cache), f"{words}-{digest[:16]}")
    if not _ready(shop.target):
        with shop.locked(on_wait=lambda: progress.tell("waiting", 0, None, 0)):
            if not _ready(shop.target):
                with shop.folder() as folder:
                    make(folder)
    return open_dataset(shop.target)


def _ready(folder: Path) -> bool:
    try:
        read_checked(folder)
    except DataAwayError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return False  # never built, or a file was removed
        raise
    except UserError:  # damaged from outside: built again
        return False
    return True


def _describe(source: Source, folder: Path) -> None:
    """The folder of a synthetic source: no tokens, only meta.json."""
    identity = json.dumps({"source": source.name, "format": FORMAT}, sort_keys=True)
    meta = {
        "format": FORMAT,
        "corpus": source.name,
        "tokenizer": "ids",
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest(),
        "num_token_ids": source.num_token_ids,
        "dtype": None,
        "splits": {},
        "entropy_rate": source.entropy_rate,
        "entropy_rate_se": source.entropy_rate_se,
    }
    write_meta(folder, meta)


def _build(folder: Path, source: Corpus, tokenizer_name: str, progress: "_Progress") -> None:
    """The folder of a text corpus: its tokens, its tokenizer and meta.json."""
    stamp, total = source.stamp(), source.total_bytes()
    limit = _limit_that_splits(source)
    most = _TOKENIZER_TRAINING_BYTES if total is None else min(total, _TOKENIZER_TRAINING_BYTES)
    training_text = progress.over(_training_text(source, limit), "tokenizer", most)
    tokenizer = make_tokenizer(tokenizer_name, training_text)
    dtype = dtype_for(tokenizer.num_token_ids)
    writers = {split: SplitWriter(folder, split, dtype) for split in SPLITS}
    with contextlib.ExitStack() as stack:
        for writer in writers.values():
            stack.callback(writer.close)
        named = isinstance(source, StdlibCorpus | TextCorpus)
        names: deque[str] = deque()
        ends: Documents = {split: [] for split in SPLITS}
        texts = progress.over(_texts(source, names if named else None), "tokens", total)
        for batch in _batches(texts):
            for text, tokens in zip(batch, tokenizer.encode(batch), strict=True):
                split = "heldout" if digest_of(text) < limit else "train"
                writers[split].add(tokens, len(text) + 1)
                if named:
                    before = ends[split][-1][0] if ends[split] else 0
                    ends[split].append((before + len(tokens), names.popleft()))
    tokenizer.save(folder)
    if source.stamp() != stamp:
        raise UserError(
            f"corpus {source.name!r} changed while it was being read; run again when it is at rest"
        )
    splits = {split: writer.summary() for split, writer in writers.items()}
    meta = {
        "format": FORMAT,
        "corpus": source.name,
        "tokenizer": tokenizer.name,
        "tokenizer_identity": tokenizer.identity,
        "fingerprint": "",
        "num_token_ids": tokenizer.num_token_ids,
        "end_of_document": tokenizer.end,
        "dtype": dtype.str,
        "split_rule": SPLIT_RULE,
        "bytes_per_token": splits["heldout"]["bytes"] / splits["heldout"]["tokens"],
        "splits": splits,
    }
    if named:
        write_documents(folder, ends)
    write_meta(folder, {**meta, "fingerprint": fingerprint_of(meta)})
    read_checked(folder)  # compares the disk with the written bytes and makes the blocks' sums


def _texts(source: Corpus, names: deque[str] | None) -> Iterator[bytes]:
    """The texts of a corpus, whose names are appended to `names` on the way."""
    for name, text in source.documents():
        if names is not None:
            names.append(name)
        yield text


def _limit_that_splits(source: Corpus) -> int:
    """The digest below which a document is held out: the usual share, or one document of a tiny corpus.

    Reads only until both splits have a document, which on most corpora is after a few dozen.
    """
    usual = heldout_limit()
    digests: set[int] = set()
    for _, text in source.documents():
        digests.add(digest_of(text))
        if min(digests) < usual <= max(digests):
            return usual
    if not digests:
        raise UserError(f"corpus {source.name!r} is empty: it has no document with text in it")
    if len(digests) == 1:
        why = "has one document only (or copies of it); at least two are needed, one of them held out"
        raise UserError(f"corpus {source.name!r} {why}")
    return min(digests) + 1


def _training_text(source: Corpus, limit: int) -> Iterator[bytes]:
    """Documents for a tokenizer to learn from: training ones, spread over the corpus, of bounded size."""
    total = source.total_bytes()
    kept_share = 1.0 if total is None else min(1.0, _TOKENIZER_TRAINING_BYTES / max(1, total))
    num_bytes = 0
    for _, text in source.documents():
        digest = digest_of(text)
        if digest < limit or (digest & 0xFFFFFFFF) >= kept_share * 2**32:
            continue
        yield text
        num_bytes += len(text)
        if num_bytes >= _TOKENIZER_TRAINING_BYTES:
            return


def _batches(texts: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Progress:
    """Calls `report` with records, a few times a second and at each stage's end."""

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self._next = 0.0

    def tell(self, stage: str, done: int, total: int | None, documents: int) -> None:
        if self._report is not None:
            self._report({"stage": stage, "done_bytes": done, "total_bytes": total, "documents": documents})

    def over(self, texts: Iterator[bytes], stage: str, total: int | None) -> Iterator[bytes]:
        """`texts`, with a record of each now and then."""
        done = documents = 0
        for text in texts:
            yield text
            done += len(text)
            documents += 1
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + _REPORT_S
                self.tell(stage, done, total, documents)
        self.tell(stage, done, total, documents)
