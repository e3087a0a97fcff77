"""Labels of training windows: of documents, by their paths, and of windows, by the document they lie in most.

A folder made by `prepare` from files has documents.json: where each document ends and what it was called. The
label of a window depends on its place in the text alone, so on (seed, number of the window) as its tokens do.

W windows, C classes, D documents.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from scaling.errors import UserError
from scaling.files import write_whole
from scaling.labels import KINDS

DOCUMENTS = "documents.json"
OTHER = "other"
"""The name of the packages that have no label of their own."""
TOP = "top"
"""The package of files in no folder."""
DOCUMENTATION = (".md", ".rst", ".txt", ".tex", ".html", ".adoc")
TESTS = ("test", "tests", "testing", "idle_test")

Documents = dict[str, list[tuple[int, str]]]
"""Split -> (tokens up to its end, name) of each document, in the order of the text."""


def write_documents(folder: Path, documents: Documents) -> None:
    """Write documents.json into a prepared folder."""
    with write_whole(folder / DOCUMENTS) as temporary:
        temporary.write_text(json.dumps(documents))


def read_documents(folder: Path, corpus: str) -> Documents:
    """UserError if the folder has none: its corpus is not made of files, or it is older than they are."""
    try:
        read: Documents = json.loads((folder / DOCUMENTS).read_bytes())
        return {split: [(int(end), str(name)) for end, name in entries] for split, entries in read.items()}
    except FileNotFoundError:
        raise UserError(
            f"corpus {corpus!r} has no labels of documents in {folder}: 'stdlib' and 'text:' corpora have "
            "some, but not in folders of an older version; remove it to prepare the corpus anew"
        ) from None


def kind_of(name: str) -> str:
    """source, test or documentation, by the path of a document."""
    path = PurePosixPath(name)
    folders = [part.lower() for part in path.parts[:-1]]
    if any(folder in TESTS for folder in folders) or path.name.startswith("test_"):
        return "test"
    return "documentation" if path.suffix.lower() in DOCUMENTATION else "source"


def package_of(name: str) -> str:
    """The first folder of a path relative to the corpus."""
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else TOP


def relative(names: list[str]) -> list[str]:
    """Names of documents as paths below the folder that all of them share, without the place of a piece."""
    paths = [name.rpartition(":")[0] if name.rpartition(":")[2].isdecimal() else name for name in names]
    if not paths or not all(map(os.path.isabs, paths)):
        return paths
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, root) for path in paths]


class DocumentLabels:
    """The labels of a prepared corpus of files. UserError for a kind that documents do not have."""

    def __init__(self, documents: Documents, of: str, classes: int) -> None:
        splits = list(documents)
        ends = {split: np.array([end for end, _ in documents[split]], np.int64) for split in splits}
        sizes = {split: np.diff(ends[split], prepend=0) for split in splits}
        paths = relative([name for split in splits for _, name in documents[split]])
        if of == "kind":
            words = [kind_of(path) for path in paths]
            self.names: tuple[str, ...] = KINDS
        elif of == "package":
            words = [package_of(path) for path in paths]
            tokens: Counter[str] = Counter()
            for word, size in zip(words, np.concatenate([sizes[s] for s in splits]).tolist(), strict=True):
                tokens[word] += size
            ranked = sorted(tokens, key=lambda word: (-tokens[word], word))
            small = [OTHER] if len(ranked) > classes else []
            self.names = (*ranked[: classes - len(small)], *small)
        else:
            raise UserError(f"labels {of!r} are not of documents; documents have kind and package")
        numbers = {name: number for number, name in enumerate(self.names)}
        every = np.array([numbers.get(word, len(self.names) - 1) for word in words])
        self._ends, self._before = ends, {}
        first = 0
        for split in splits:
            label = every[first : first + len(ends[split])]
            first += len(label)
            own = np.where(np.arange(len(self.names))[:, None] == label, sizes[split], 0)
            self._before[split] = np.concatenate([np.zeros((len(own), 1), np.int64), own.cumsum(1)], axis=1)

    def of_windows(self, split: str, windows: np.ndarray, context_length: int) -> np.ndarray:
        """The label (W,) with most tokens of each window, int64; the smallest number of equals."""
        start = np.asarray(windows, np.int64) * context_length
        tokens = self._up_to(split, start + context_length) - self._up_to(split, start)
        return np.asarray(tokens.argmax(axis=0))

    def _up_to(self, split: str, place: np.ndarray) -> np.ndarray:
        """Tokens of each class before each place, (C, W)."""
        ends, before = np.concatenate([[0], self._ends[split]]), self._before[split]
        document = np.searchsorted(ends, place, side="right") - 1
        after = np.minimum(document + 1, len(ends) - 1)
        share = (place - ends[document]) / np.maximum(ends[after] - ends[document], 1)
        inside = before[:, after] - before[:, document]  # of one class alone: the document's
        return np.asarray(before[:, document] + np.round(inside * share).astype(np.int64))
