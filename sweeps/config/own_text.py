"""Text of one's own by its path, `--data`: the corpus that it is, and a name for the sweep that reads it."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from scaling.errors import UserError

KINDS = {".txt": "text", ".jsonl": "jsonl", ".parquet": "parquet"}
"""Endings of files, and the kind of corpus that reads them; any other file is read as text."""
CORPORA = ("text:", "jsonl:", "parquet:", "hf:", "synthetic:")
RIGHT = "a .txt, .jsonl or .parquet file, a folder of such files, or a corpus such as stdlib or text:GLOB"


def corpus_of(data: str) -> str:
    """The corpus of a path; the name of a corpus is one already.

    A file is read by its ending (`reviews.jsonl#body` names the field), a folder by the one ending of `KINDS`
    that is in it, or else as text. The path stays as it was given, for it is part of the runs' keys.
    UserError if there is nothing, or a folder holds several kinds.
    """
    if data == "stdlib" or data.startswith(CORPORA):
        return data
    text, field = _split(data)
    path = os.path.normpath(text) if text else ""
    if os.path.isfile(os.path.expanduser(path)):
        stem = Path(path)
        while stem.suffix in (".gz", ".bz2", ".zst", ".lz4"):
            stem = stem.with_suffix("")
        kind = KINDS.get(stem.suffix.lower(), "text")
        if "#" in path and kind != "text":
            field = field or "#text"
        return f"{kind}:{path}{field}"
    folder = Path(os.path.expanduser(path))
    if not path or not folder.is_dir():
        raise UserError(f"--data is {data!r}, and there is no such file or folder; give {RIGHT}")
    endings = sorted({file.suffix for file in folder.rglob("*") if file.suffix in KINDS})
    if len(endings) > 1:
        listed = " and ".join(f"{ending} files" for ending in endings)
        corpus = f"{KINDS[endings[0]]}:{path}/**/*{endings[0]}"
        raise UserError(f"--data {data} holds {listed}; say which are meant, such as --data '{corpus}'")
    ending = endings[0] if endings else ""
    return f"{KINDS.get(ending, 'text')}:{glob.escape(path)}/**/*{ending}{field}"


def text_name(data: str) -> str:
    """A name for the text, of letters that the name of a sweep may have."""
    text, _ = _split(data)
    path = text.partition(":")[2] if data.startswith(CORPORA) else text
    parts = [part for part in re.split(r"[/\\*?]+", path) if part not in ("", ".", "..", "~", ".txt")]
    name = parts[-1] if parts else data.partition(":")[0]
    for ending in (".gz", ".bz2", ".zst", ".lz4", *KINDS):
        name = name.removesuffix(ending)
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "text"


def _split(data: str) -> tuple[str, str]:
    """The path, and "#field" if it ends in one; a file that has the # in its name comes first."""
    path, mark, field = data.rpartition("#")
    if not mark or os.path.exists(os.path.expanduser(data)):
        return data, ""
    return path, f"#{field}"
