"""`--data`: which corpus a path is, and the name of the sweep that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling.data.corpora import parse_corpus
from scaling.errors import UserError
from sweeps.config.own_text import corpus_of, text_name


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("book.txt", "README", "a.jsonl", "b.jsonl.gz", "c.parquet", "odd#1.jsonl"):
        Path(name).write_text("x")
    for name in ("plain/a.txt", "plain/deep/b.txt", "plain/x.png", "lines/[1]/a.jsonl", "any/a.tex"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")
    for name in ("both/a.txt", "both/b.parquet"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("data", "corpus", "name"),
    [
        ("book.txt", "text:book.txt", "book"),
        ("./book.txt", "text:book.txt", "book"),
        ("README", "text:README", "README"),
        ("a.jsonl", "jsonl:a.jsonl", "a"),
        ("a.jsonl#body", "jsonl:a.jsonl#body", "a"),
        ("b.jsonl.gz", "jsonl:b.jsonl.gz", "b"),
        ("c.parquet", "parquet:c.parquet", "c"),
        ("odd#1.jsonl", "jsonl:odd#1.jsonl#text", "odd-1"),
        ("plain/", "text:plain/**/*.txt", "plain"),
        ("lines/[1]", "jsonl:lines/[[]1]/**/*.jsonl", "1"),
        ("any", "text:any/**/*", "any"),
        ("text:plain/**/*.txt", "text:plain/**/*.txt", "plain"),
        ("stdlib", "stdlib", "stdlib"),
    ],
)
def test_paths_are_corpora(data, corpus, name):
    assert corpus_of(data) == corpus
    assert text_name(data) == name
    parse_corpus(corpus)  # finds the files


def test_what_is_not_there_or_not_clear_is_refused():
    with pytest.raises(
        UserError, match=r"--data is 'nix', and there is no such file or folder; give a \.txt"
    ):
        corpus_of("nix")
    with pytest.raises(UserError, match=r"^--data is '', and there is no"):
        corpus_of("")
    with pytest.raises(UserError, match=r"--data both holds \.parquet files and \.txt files; say which"):
        corpus_of("both")
