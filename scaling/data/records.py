"""Corpora of records: JSON lines, Parquet, Hugging Face datasets. One record's text is one document."""

import io
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from scaling.data.names import (
    Document,
    FileCorpus,
    Options,
    file_stamps,
    find_files,
    parse_options,
    split_suffix,
)
from scaling.errors import UserError, unknown

_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_ROWS_AT_ONCE = 64  # a web page is some kilobytes, a book a megabyte
LINE_BYTES = 1 << 28  # a longer line is a file without line ends, or a bomb


class _FileRecords(FileCorpus, ABC):
    """A glob, then `#` and the name of the field that holds the text (`text` by default).

    Null and empty texts are passed over. Raises UserError with file and place for a file that cannot be
    read, a missing field, or one that holds no text.
    """

    scheme: str

    def __init__(self, name: str) -> None:
        self.name = name
        pattern, field = split_suffix(name.removeprefix(f"{self.scheme}:"), "#")
        self.field = field or "text"
        self.files = find_files(self.scheme, pattern)

    @abstractmethod
    def texts(self, file: Path) -> Iterator[tuple[str, object]]:
        """The field of each record, with its place for messages."""

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            try:
                for place, text in self.texts(file):
                    if encoded := encode_text(f"corpus '{self.name}': {place}", self.field, text):
                        yield place, encoded
            except (OSError, MemoryError) as problem:
                raise self.fail(file, f"cannot be read ({str(problem) or 'out of memory'})") from problem

    def missing(self, place: str, fields: list[str]) -> UserError:
        return unknown("field", self.field, fields, f" in {place} of corpus '{self.name}'")


def encode_text(place: str, field: str, text: object) -> bytes:
    """UTF-8 of `text`, empty for None; UserError if it is no text, has a NUL, or UTF-8 cannot hold it."""
    if text is None:
        return b""
    if not isinstance(text, str):
        raise UserError(f"{place}: field {field!r} holds {type(text).__name__}, not text")
    if "\0" in text:
        raise UserError(f"{place}: field {field!r} holds a NUL at character {text.index(chr(0))}, not text")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{place}: field {field!r} holds half a surrogate pair, not text") from None


class JsonlCorpus(_FileRecords):
    """`jsonl:GLOB[#field]`: one JSON object per line, blank lines aside; .gz, .bz2, .zst and .lz4 too."""

    scheme = "jsonl"

    def texts(self, file: Path) -> Iterator[tuple[str, object]]:
        with _open_stream(file) as stream:
            for number in itertools.count(1):
                line, place = stream.readline(LINE_BYTES + 1), f"{file}, line {number}"
                if not line:
                    return
                if len(line) > LINE_BYTES:
                    raise self.fail(place, f"longer than {LINE_BYTES / 1e6:.0f} MB, too long for a document")
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as problem:  # broken JSON, or bytes that are not UTF-8
                    raise self.fail(place, f"not valid JSON ({problem})") from None
                except RecursionError:
                    raise self.fail(place, "brackets within brackets, too deep to be read") from None
                if not isinstance(record, dict):
                    raise self.fail(place, f"must be a JSON object, not {type(record).__name__}")
                if self.field not in record:
                    raise self.missing(place, list(record))
                yield place, record[self.field]


def _open_stream(file: Path) -> IO[bytes]:
    if not file.stat().st_size:
        return io.BytesIO()  # files such as /proc/kmsg, too, which never end
    if not file.name.endswith(_COMPRESSED):
        return open(file, "rb", buffering=1 << 20)
    import pyarrow

    stream: IO[bytes] = io.BufferedReader(pyarrow.input_stream(str(file), compression="detect"), 1 << 20)
    return stream


class ParquetCorpus(_FileRecords):
    """`parquet:GLOB[#column]`, read a few dozen rows at a time."""

    scheme = "parquet"

    def texts(self, file: Path) -> Iterator[tuple[str, object]]:
        from pyarrow import ArrowInvalid, parquet

        try:
            # Without pre_buffer and with a buffered stream a column chunk is read page by page, so that
            # memory does not grow with the size of a row group.
            with parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
                columns = table.schema_arrow.names
                if self.field not in columns:
                    raise self.missing(str(file), columns)
                batches = table.iter_batches(_ROWS_AT_ONCE, columns=[self.field], use_threads=False)
                rows = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
                for number, text in enumerate(rows):
                    yield f"{file}, row {number}", text
        except ArrowInvalid as problem:
            raise OSError(f"not Parquet: {problem}") from problem


_HUB_DEFAULTS: Options = {"split": "train", "revision": "", "documents": 0}


class HubCorpus:
    """`hf:NAME[@config][#column][?split=train&revision=...&documents=N]`: a dataset of the Hugging Face hub.

    Streamed with the optional package `datasets`, nothing is downloaded whole; `documents` stops after that
    many records (0: all). The hub is not asked whether the dataset changed since it was prepared: name a
    `revision` for something fixed, or remove the prepared folder. A local folder of data files works too.
    Raises UserError if `datasets` is missing, the dataset cannot be loaded, or the column does not exist.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        rest, options = split_suffix(name.removeprefix("hf:"), "?")
        rest, column = split_suffix(rest, "#")
        self.path, self.config = split_suffix(rest, "@")
        self.column = column or "text"
        settings = parse_options(options or "", f"corpus '{name}'", _HUB_DEFAULTS)
        self.split, self.revision = str(settings["split"]), str(settings["revision"]) or None
        self.limit = int(settings["documents"])
        if not self.path:
            raise UserError(f"corpus '{name}' names no dataset; write hf:NAME[@config][#column]")
        if self.limit < 0:
            raise UserError(f"corpus '{name}': documents={self.limit} should be 0 (all) or more")

    def stamp(self) -> list[object]:
        if os.path.isdir(self.path):
            return file_stamps(tuple(sorted(file for file in Path(self.path).rglob("*") if file.is_file())))
        return []

    def total_bytes(self) -> None:
        return None

    def documents(self) -> Iterator[Document]:
        for number, record in enumerate(self._records()):
            if self.limit and number == self.limit:
                return
            if self.column not in record:
                raise unknown("column", self.column, record, f" in record {number} of corpus '{self.name}'")
            place = f"record {number}"
            if text := encode_text(f"corpus '{self.name}': {place}", self.column, record[self.column]):
                yield place, text

    def _records(self) -> Iterator[dict[str, Any]]:
        try:
            import datasets
        except ImportError:
            raise UserError(
                f"corpus '{self.name}' needs the package 'datasets'; install it with: pip install -e '.[hf]'"
            ) from None
        try:
            yield from datasets.load_dataset(
                self.path, self.config, split=self.split, revision=self.revision, streaming=True
            )
        except (ValueError, OSError, RuntimeError, MemoryError, datasets.exceptions.DatasetsError) as problem:
            first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            raise UserError(f"corpus '{self.name}': cannot be loaded: {first}") from problem
