"""Corpora of records: JSON lines, Parquet, Hugging Face datasets. One record's text is one document."""

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from scaling.data.names import (
    Document,
    file_bytes,
    file_stamps,
    find_files,
    nearest,
    parse_options,
    split_suffix,
)
from scaling.errors import UserError

_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_ROWS_AT_ONCE = 64  # a web page is some kilobytes, a book a megabyte
LINE_BYTES = 1 << 28  # a longer line is no document but a file without line ends, or a bomb


class _FileRecords:
    """What JSON lines and Parquet share: a glob, then `#` and the name of the field that holds the text."""

    scheme: str

    def __init__(self, name: str) -> None:
        self.name = name
        pattern, field = split_suffix(name.removeprefix(f"{self.scheme}:"), "#")
        self.field = field or "text"
        self.files = find_files(self.scheme, pattern)

    def stamp(self) -> list[object]:
        return file_stamps(self.files)

    def total_bytes(self) -> int | None:
        """Bytes of all files: an upper guess of the text's, which markup and compression blur."""
        return file_bytes(self.files)

    def fail(self, where: str, why: str) -> UserError:
        return UserError(f"corpus '{self.name}': {where}: {why}")

    def missing(self, where: str, fields: list[str]) -> UserError:
        hint = nearest(self.field, fields)
        return self.fail(
            where, f"no field {self.field!r}{hint}; it has {', '.join(sorted(fields)) or 'none'}"
        )

    def encode(self, where: str, text: object) -> bytes:
        """The UTF-8 of one record's text; None (a null) is an empty document."""
        return b"" if text is None else encode_text(lambda why: self.fail(where, why), self.field, text)


def encode_text(fail: Callable[[str], UserError], field: str, text: object) -> bytes:
    """UTF-8 of `text`; raises `fail(why)` if it is not a string, has a NUL, or UTF-8 cannot hold it."""
    if not isinstance(text, str):
        raise fail(f"field {field!r} holds {type(text).__name__}, not text")
    if "\0" in text:
        raise fail(f"field {field!r} holds a NUL at character {text.index(chr(0))}, which is not text")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise fail(f"field {field!r} holds half a surrogate pair, which is not text") from None


class JsonlCorpus(_FileRecords):
    """`jsonl:GLOB[#field]` (field `text` unless told): one JSON object per line; .gz, .bz2, .zst and .lz4
    too.

    Blank lines and null or empty texts are passed over. Raises UserError naming file and line for a line
    that is not a JSON object, lacks the field, or holds something other than text there.
    """

    scheme = "jsonl"

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            try:
                with _open_stream(file) as stream:
                    yield from self._lines(file, stream)
            except (OSError, MemoryError) as problem:
                raise self.fail(str(file), f"cannot be read ({str(problem) or 'out of memory'})") from problem

    def _lines(self, file: Path, stream: IO[bytes]) -> Iterator[Document]:
        for number in itertools.count(1):
            line = stream.readline(LINE_BYTES + 1)
            where = f"{file}, line {number}"
            if not line:
                return
            if len(line) > LINE_BYTES:
                raise self.fail(where, f"longer than {LINE_BYTES / 1e6:.0f} MB, which is no document")
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as problem:  # broken JSON, or bytes that are not UTF-8
                raise self.fail(where, f"not valid JSON ({problem})") from None
            except RecursionError:
                raise self.fail(where, "brackets within brackets, too deep to be read") from None
            if not isinstance(record, dict):
                raise self.fail(where, f"a JSON object is wanted, this is {type(record).__name__}")
            if self.field not in record:
                raise self.missing(where, list(record))
            text = self.encode(where, record[self.field])
            if text:
                yield where, text


def _open_stream(file: Path) -> IO[bytes]:
    if not file.stat().st_size:
        return io.BytesIO()  # files such as /proc/kmsg, too, which never end
    if not file.name.endswith(_COMPRESSED):
        return open(file, "rb", buffering=1 << 20)
    import pyarrow

    stream: IO[bytes] = io.BufferedReader(pyarrow.input_stream(str(file), compression="detect"), 1 << 20)
    return stream


class ParquetCorpus(_FileRecords):
    """`parquet:GLOB[#column]` (column `text` unless told), read a few dozen rows at a time.

    Null and empty texts are passed over. Raises UserError for a file that is not Parquet, a missing column,
    or one that holds no text.
    """

    scheme = "parquet"

    def documents(self) -> Iterator[Document]:
        import pyarrow

        for file in self.files:
            try:
                yield from self._documents_of(file)
            except (pyarrow.ArrowInvalid, OSError, MemoryError) as problem:
                why = str(problem) or "out of memory"
                raise self.fail(str(file), f"cannot be read as Parquet ({why})") from problem

    def _documents_of(self, file: Path) -> Iterator[Document]:
        texts = itertools.chain.from_iterable(self._batches(file))
        for row, text in enumerate(texts):
            encoded = self.encode(f"{file}, row {row}", text)
            if encoded:
                yield f"{file}, row {row}", encoded

    def _batches(self, file: Path) -> Iterator[list[Any]]:
        from pyarrow import parquet

        # Without pre_buffer and with a buffered stream a column chunk is read page by page, so that memory
        # does not grow with the size of a row group.
        with parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
            columns = table.schema_arrow.names
            if self.field not in columns:
                raise self.missing(str(file), columns)
            for batch in table.iter_batches(
                batch_size=_ROWS_AT_ONCE, columns=[self.field], use_threads=False
            ):
                yield batch.column(0).to_pylist()


_HUB_DEFAULTS: dict[str, int | float | str] = {"split": "train", "revision": "", "documents": 0}


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
            where = f"record {number}"
            if self.column not in record:
                hint = nearest(self.column, record)
                raise self._fail(f"{where} has no column {self.column!r}{hint}; it has {', '.join(record)}")
            if record[self.column]:
                yield where, encode_text(self._fail, self.column, record[self.column])

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
            first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
            raise self._fail(f"cannot be loaded: {first}") from problem

    def _fail(self, why: str) -> UserError:
        return UserError(f"corpus '{self.name}': {why}")
