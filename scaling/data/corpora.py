"""Corpora: the sources of documents. Every corpus streams; none is ever held in memory.

A document is UTF-8 bytes. Which documents are held out depends on their content alone (`digest_of`), so
the split does not change with file names, order, or the number of files, and exact copies never straddle it.
"""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from scaling.data.names import Document, FileCorpus, find_files
from scaling.data.records import HubCorpus, JsonlCorpus, ParquetCorpus
from scaling.errors import UserError, nearest

HELDOUT_SHARE = 1 / 20
PIECE_BYTES = 1 << 14  # a text file's unit of splitting: a 1 MB file then gets some 3 held-out pieces


class Corpus(Protocol):
    """A named stream of documents."""

    name: str  # as the user wrote it

    def stamp(self) -> list[object]:
        """Plain data that changes when the corpus changes, cheap to get: no document is read."""

    def total_bytes(self) -> int | None:
        """About how much `documents` will yield, for a progress bar; None if unknown."""

    def documents(self) -> Iterator[Document]:
        """Documents in an order that depends on the corpus alone; empty ones left out."""


def digest_of(text: bytes) -> int:
    """The first 64 bits of a document's SHA-256, the basis of every choice about the document."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def heldout_limit(share: float = HELDOUT_SHARE) -> int:
    """Documents whose digest lies below this number are held out."""
    return int(share * 2**64)


# Written by the build of the interpreter, so different on every machine.
_MACHINE_MADE = ("_sysconfigdata",)
_SKIPPED_FOLDERS = ("__pycache__", "site-packages", "dist-packages", "config-")


class StdlibCorpus(FileCorpus):
    """Source text of the running Python's standard library: every *.py below `sysconfig`'s stdlib folder.

    In: library, its test suite if installed, idlelib. Out: installed packages, caches, files made by the
    interpreter's build (`config-*`, `_sysconfigdata*`), and files that are not UTF-8 text (the test suite
    has a few on purpose). One file is one document. About 31 MB with CPython 3.11, 14 MB without tests.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.name = "stdlib"
        self.root = str(root or sysconfig.get_path("stdlib"))
        paths, folders = [], [self.root]
        while folders:
            for entry in os.scandir(folders.pop()):
                name = entry.name
                if entry.is_dir(follow_symlinks=False) and not name.startswith(_SKIPPED_FOLDERS):
                    folders.append(entry.path)
                elif name.endswith(".py") and not name.startswith(_MACHINE_MADE) and entry.is_file():
                    paths.append(entry.path)
        if not paths:
            raise UserError(f"corpus 'stdlib': no Python source under {self.root}; use text:GLOB instead")
        self.files = tuple(Path(path) for path in sorted(paths))

    def stamp(self) -> list[object]:
        return [sys.version, super().stamp()]

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            text = file.read_bytes()
            if text and text_problem(text) is None:
                yield file.relative_to(self.root).as_posix(), text


def text_problem(text: bytes) -> str | None:
    """Why bytes are not text, or None if they are: a NUL byte, or not UTF-8."""
    if b"\0" in text:
        return f"a NUL byte at position {text.index(0)}"
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as problem:
        return f"byte 0x{text[problem.start]:02x} at position {problem.start} is not UTF-8"
    return None


class TextCorpus(FileCorpus):
    """`text:GLOB`: UTF-8 files, each cut into documents of at most 16 KiB, at line ends if it has any.

    The pieces let even one long file be split into train and held-out. Raises UserError for a file that is
    not text, naming it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.files = find_files("text", name.removeprefix("text:"))

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            start = 0
            for piece in self._pieces(file):
                if problem := text_problem(piece):
                    why = f"not text ({problem}, counted from byte {start}); give UTF-8 text files"
                    raise self.fail(file, why)
                yield f"{file}:{start}", piece
                start += len(piece)

    def _pieces(self, file: Path) -> Iterator[bytes]:
        rest = b""
        try:
            if not file.stat().st_size:
                return  # files such as /proc/kmsg, too, which never end
            with open(file, "rb") as stream:
                while block := stream.read(PIECE_BYTES - len(rest)):
                    rest += block
                    if len(rest) == PIECE_BYTES:
                        cut = _cut(rest)
                        yield rest[:cut]
                        rest = rest[cut:]
        except OSError as problem:
            raise self.fail(file, f"cannot be read ({problem.strerror})") from problem
        if rest:
            yield rest


def _cut(piece: bytes) -> int:
    """Where to end a full piece: after its last newline, else before a character that it would break."""
    newline = piece.rfind(b"\n") + 1
    if newline:
        return newline
    for back in range(1, 4):
        byte = piece[-back]
        if byte >= 0xC0:  # the first byte of a character of 2, 3 or 4 bytes
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(piece) - back if back < length else len(piece)
        if byte < 0x80:
            break
    return len(piece)


SCHEMES: dict[str, Callable[[str], Corpus]] = {
    "text": TextCorpus,
    "jsonl": JsonlCorpus,
    "parquet": ParquetCorpus,
    "hf": HubCorpus,
}
KNOWN = (
    "stdlib",
    "text:GLOB",
    "jsonl:GLOB[#field]",
    "parquet:GLOB[#column]",
    "hf:NAME[@config][#column]",
    "synthetic:markov?...",
    "synthetic:hmm?...",
    "synthetic:topics?...",
)


def parse_corpus(name: str) -> Corpus:
    """The corpus of a name such as `stdlib` or `jsonl:data/*.jsonl#text`.

    Raises UserError for an unknown kind, a pattern that matches nothing, or bad options.
    """
    if name == "stdlib":
        return StdlibCorpus()
    scheme, colon, _ = name.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](name)
    hint = nearest(scheme, ["stdlib", *SCHEMES, "synthetic"])
    raise UserError(f"unknown corpus {name!r}{hint} (known: {', '.join(KNOWN)})")
