"""Corpora: what documents come out, in which order, and what bad input gets."""

import glob
import gzip
import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data import corpora, records
from scaling.data.corpora import PIECE_BYTES, StdlibCorpus, digest_of, heldout_limit, parse_corpus
from scaling.data.names import find_files
from scaling.data.synthetic import parse_source
from scaling.errors import UserError


def texts(name: str) -> list[bytes]:
    return [text for _, text in parse_corpus(name).documents()]


def test_stdlib_is_source_text_of_this_python() -> None:
    corpus = parse_corpus("stdlib")
    documents = dict(corpus.documents())
    import dataclasses

    assert documents["dataclasses.py"] == Path(dataclasses.__file__).read_bytes()
    assert "json/decoder.py" in documents
    assert not [name for name in documents if "site-packages" in name or "__pycache__" in name]
    assert not [name for name in documents if name.startswith(("_sysconfigdata", "config-"))]
    assert all(b"\0" not in text for text in documents.values())
    assert corpus.total_bytes() >= sum(map(len, documents.values())) > 5_000_000


def test_stdlib_takes_py_files_in_order_and_leaves_out_what_is_no_text(tmp_path: Path) -> None:
    for name, text in {
        "b.py": b"b\n",
        "a.py": b"a\n",
        "pkg/c.py": b"c\n",
        "pkg/data.txt": b"no\n",
        "pkg/latin.py": b"# \xe9\n",
        "pkg/nul.py": b"\0",
        "pkg/empty.py": b"",
        "site-packages/d.py": b"no\n",
        "__pycache__/e.py": b"no\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    corpus = StdlibCorpus(root=tmp_path)
    assert list(corpus.documents()) == [("a.py", b"a\n"), ("b.py", b"b\n"), ("pkg/c.py", b"c\n")]
    before = corpus.stamp()
    (tmp_path / "a.py").write_bytes(b"longer\n")
    assert corpus.stamp() != before


lines = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=50, deadline=None)
@given(st.lists(lines, max_size=30), st.integers(16, 64))
def test_text_pieces_join_to_the_file_and_are_valid_utf8(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], piece_bytes: int
) -> None:
    file = tmp_path_factory.mktemp("text") / "a.txt"
    whole = "\n".join(parts).encode()
    file.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "PIECE_BYTES", piece_bytes)
        pieces = texts(f"text:{file}")
    assert b"".join(pieces) == whole
    assert all(0 < len(piece) <= piece_bytes for piece in pieces)
    assert "".join(piece.decode("utf-8") for piece in pieces) == "\n".join(parts)  # no character is cut


def test_text_is_cut_at_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"".join(b"line %d\n" % number for number in range(10_000)))
    pieces = texts(f"text:{file}")
    assert len(pieces) > 3
    assert all(piece.endswith(b"\n") and len(piece) <= PIECE_BYTES for piece in pieces)


def test_globs_reach_into_folders_and_are_sorted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "z.txt").write_text("z")
    (tmp_path / "sub" / "a.txt").write_text("a")
    (tmp_path / "sub" / "b.md").write_text("b")
    assert texts(f"text:{tmp_path}/**/*.txt") == [b"a", b"z"]


@pytest.mark.parametrize(
    "pattern", ["**/*.txt", "**", "a/**/c/*", "**/b/**/*.txt", "*/**/*.md", "**/c/../*", "a/*/[bc]/**/x*"]
)
def test_globs_find_what_pythons_own_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ("x.txt", "a/x.txt", "a/b/c/x.txt", "a/b/c/x.md", "a/c/d/x.txt", "a/[b]/x.txt", ".h/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    for whole in (pattern, f"{tmp_path}/{pattern}"):
        expected = {Path(path).resolve() for path in glob.glob(whole, recursive=True) if Path(path).is_file()}
        assert {path.resolve() for path in find_files("text", whole)} == expected


def test_what_links_show_under_several_names_is_read_once(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(f"text {name}\n")
        for other in "ab":
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    (tmp_path / "a" / "hard.txt").hardlink_to(tmp_path / "b" / "b.txt")
    assert sorted(texts(f"text:{tmp_path}/**/*.txt")) == [b"text a\n", b"text b\n"]
    assert sorted(texts(f"text:{tmp_path}/a/**/*.txt")) == [b"text a\n", b"text b\n"]


def test_a_file_that_says_it_is_empty_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.jsonl"):  # as /proc/kmsg does, which never ends
        (tmp_path / name).write_bytes(b"")

    def blocks(*arguments: object, **options: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("builtins.open", blocks)
    assert texts(f"text:{tmp_path}/a.txt") == texts(f"jsonl:{tmp_path}/b.jsonl") == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"fine\n" * 5000 + b"\x00", "a NUL byte"),
        (b"caf\xe9 au lait", "byte 0xe9 at position 3 is not UTF-8"),
    ],
)
def test_a_file_that_is_not_text_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n")
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.bin: not text") as caught:
        texts(f"text:{tmp_path}/*")
    assert why in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_jsonl_gives_the_named_field(tmp_path: Path, suffix: str) -> None:
    rows = [{"body": "one\n", "text": "x"}, {"body": None}, {"body": ""}, {"body": "zwölf"}]
    content = "\n\n".join(json.dumps(row) for row in rows).encode()
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(gzip.compress(content) if suffix else content)
    assert texts(f"jsonl:{file}#body") == [b"one\n", "zwölf".encode()]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": "cut', "not valid JSON"),
        ('{"txet": "a"}', "unknown field 'text' in"),
        ('["a"]', "must be a JSON object, not list"),
        ('{"text": 7}', "field 'text' holds int, not text"),
        (r'{"text": "\ud800"}', "half a surrogate pair"),
        (r'{"text": "a\u0000b"}', "field 'text' holds a NUL at character 1"),
        ('{"a": ' + "[" * 100_000, "brackets within brackets, too deep"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_a_broken_jsonl_line_is_named_by_file_and_line(tmp_path: Path, line: str, why: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "fine"}\n\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 3") as caught:
        texts(f"jsonl:{file}")
    assert why in str(caught.value)


def test_an_archive_that_grows_without_line_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LINE_BYTES", 1 << 20)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"a" * (1 << 22)))
    with pytest.raises(UserError, match=r"a\.jsonl\.gz, line 1: longer than 1 MB, too long for a document"):
        texts(f"jsonl:{tmp_path}/a.jsonl.gz")


def test_a_record_too_large_for_the_memory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')

    def too_large(*arguments: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(records, "encode_text", too_large)
    for kind in ("jsonl", "parquet"):
        with pytest.raises(UserError, match=rf"a\.{kind}: cannot be read \(out of memory\)"):
            texts(f"{kind}:{tmp_path}/a.{kind}")


def test_parquet_text_with_a_nul_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["fine", "a\0b"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 1: field 'text' holds a NUL at character 1"):
        texts(f"parquet:{tmp_path}/a.parquet")


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"this is no archive")
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: cannot be read"):
        texts(f"jsonl:{tmp_path}/a.jsonl.gz")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_gives_the_named_column(tmp_path: Path, kind: pa.DataType) -> None:
    values = ["eins", None, "", "zwölf", *[f"row {number}" for number in range(2000)]]
    table = pa.table({"body": pa.array(values, pa.string()).cast(kind), "n": list(range(len(values)))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    assert texts(f"parquet:{tmp_path}/*.parquet#body") == [value.encode() for value in values if value]


def test_parquet_bad_input_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"texts": ["a"], "n": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"not a table")
    with pytest.raises(
        UserError, match=r"unknown field 'text' in .*a\.parquet of corpus .*; did you mean 'texts'\?"
    ):
        texts(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(UserError, match="field 'n' holds int, not text"):
        texts(f"parquet:{tmp_path}/a.parquet#n")
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read \(not Parquet"):
        texts(f"parquet:{tmp_path}/b.parquet")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("stdlb", "unknown corpus 'stdlb'; did you mean 'stdlib'?"),
        ("txt:a", "; did you mean 'text'?"),
        ("text", "unknown corpus 'text'"),
        ("text:", "names no files"),
        ("text:/nowhere/*.txt", "no file matches '/nowhere/*.txt'"),
        ("hf:", "names no dataset"),
        ("hf:a/b?limit=3", "unknown option 'limit'"),
        ("hf:a/b?documents=some", "documents='some' should be a whole number"),
        ("hf:a/b?documents=-1", "documents=-1 should be 0 (all) or more"),
    ],
)
def test_unknown_and_missing_corpora(name: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_corpus(name)
    assert why in str(caught.value)


def test_a_folder_gets_the_pattern_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder; write text:.*/\*\*/\*"):
        parse_corpus(f"text:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("synthetic:markow", "unknown corpus 'synthetic:markow'; did you mean 'markov'?"),
        (
            "synthetic:markov?vocb=3",
            "unknown option 'vocb' of corpus 'synthetic:markov?vocb=3'; did you mean 'vocab'?",
        ),
        ("synthetic:markov?vocab", "vocab='' should be a whole number"),
        ("synthetic:markov?vocab=1", "vocab=1 should be 2 or more"),
        ("synthetic:markov?order=9", "order=9 should be lower"),
        ("synthetic:markov?zipf=nan", "zipf=nan should be from 0 to 4"),
        ("synthetic:hmm?stay=1", "stay=1.0 should be from 0 to 0.98"),
        ("synthetic:hmm?states=0", "states=0 should be 1 or more"),
    ],
)
def test_unknown_sources_and_options(name: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_source(name)
    assert why in str(caught.value)


def fake_datasets(rows: list[dict[str, object]] | Exception) -> tuple[types.ModuleType, list[object]]:
    """A stand-in for the package `datasets`, and the calls it got."""
    calls: list[object] = []

    class DatasetsError(Exception):
        pass

    def load_dataset(*args: object, **options: object) -> list[dict[str, object]]:
        calls.append((args, options))
        if isinstance(rows, Exception):
            raise rows
        return rows

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.exceptions = types.SimpleNamespace(DatasetsError=DatasetsError)  # type: ignore[attr-defined]
    return module, calls


def test_hub_datasets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = fake_datasets([{"body": "a"}, {"body": ""}, {"body": "b"}, {"body": "c"}])
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert texts("hf:org/name@en#body?split=test&revision=abc&documents=3") == [b"a", b"b"]
    assert calls == [(("org/name", "en"), {"split": "test", "revision": "abc", "streaming": True})]
    assert texts("hf:org/name#body") == [b"a", b"b", b"c"]
    with pytest.raises(
        UserError, match=r"unknown column 'text' in record 0 of corpus 'hf:org/name' \(known: body\)"
    ):
        texts("hf:org/name")


def test_hub_failures_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = fake_datasets(ConnectionError("the hub is away\nlong story"))
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(UserError, match=r"corpus 'hf:org/name': cannot be loaded: the hub is away$"):
        texts("hf:org/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package 'datasets'; install it with: pip install"):
        texts("hf:org/name")


def test_hub_dataset_of_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "part.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert texts(f"hf:{tmp_path}") == [b"a", b"b"]


def test_held_out_documents_are_a_twentieth() -> None:
    held_out = sum(digest_of(b"%d" % number) < heldout_limit() for number in range(20_000))
    assert abs(held_out - 1000) < 4 * 31  # four standard deviations of a binomial(20000, 1/20)
