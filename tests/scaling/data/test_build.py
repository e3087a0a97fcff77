"""Building shards: once, whole or not at all, whoever else builds and whatever is killed or full."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaling.data import build, open_dataset, prepare, shards
from scaling.errors import DataAwayError, DataDamagedError, UserError


def write_corpus(folder: Path, documents: int = 100) -> str:
    folder.mkdir(exist_ok=True)
    for number in range(documents):
        (folder / f"{number:03d}.txt").write_text(f"document {number}\n" * 20)
    return f"text:{folder}/*.txt"


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "data"


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


HANGS = """
    import sys, time
    from pathlib import Path
    from scaling.data import prepare, shards

    corpus, cache, owner, name, calls = sys.argv[1:]
    owner = getattr(shards, owner) if owner else shards
    original, left = getattr(owner, name), [int(calls)]

    def hang(*arguments):
        left[0] -= 1
        if left[0] == 0:
            print("here", flush=True)
            time.sleep(600)
        return original(*arguments)

    setattr(owner, name, hang)
    prepare(corpus, "bytes", Path(cache))
"""


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        ("SplitWriter", "add", 1),  # nothing written yet
        ("SplitWriter", "add", 60),  # between documents
        ("SplitWriter", "close", 4),  # at the end of a split
        ("", "sync", 1),  # complete, not yet renamed
        ("", "sync", 2),  # renamed
    ],
)
def test_a_killed_builder_leaves_nothing_that_counts(
    corpus: str, cache: Path, tmp_path: Path, owner: str, name: str, calls: int
) -> None:
    with start(HANGS, corpus, cache, owner, name, calls) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        builder.send_signal(signal.SIGKILL)
    renamed = (name, calls) == ("sync", 2)
    assert len(list(cache.iterdir())) == 1 + renamed
    dataset = prepare(corpus, "bytes", cache)
    assert dataset.fingerprint == prepare(corpus, "bytes", tmp_path / "elsewhere").fingerprint
    prepare("synthetic:markov?vocab=4", "bytes", cache)  # whatever is built next tidies up after the dead
    assert not list(cache.glob("building/*.*-*"))
    assert len([folder for folder in cache.iterdir() if folder.name != "building"]) == 2


def test_another_builder_waits_and_finds_it_done(corpus: str, cache: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from scaling.data import prepare
        sys.stdin = None
        records = []
        dataset = prepare(sys.argv[1], "bytes", Path(sys.argv[2]), report=records.append)
        print(dataset.fingerprint, any(record["stage"] == "tokens" for record in records))
    """
    builders = [start(script, corpus, cache) for _ in range(3)]
    words = [builder.communicate()[0].split() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert len({fingerprint for fingerprint, _ in words}) == 1
    assert sorted(built for _, built in words) == ["False", "False", "True"]
    assert len(list(cache.iterdir())) == 1


def test_a_waiting_builder_says_so(corpus: str, cache: Path) -> None:
    records: list[dict[str, object]] = []
    with start(HANGS, corpus, cache, "SplitWriter", "add", 5) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"

        def report(record: dict[str, object]) -> None:
            records.append(record)
            builder.kill()

        dataset = prepare(corpus, "bytes", cache, report=report)
    assert records[0] == {"stage": "waiting", "done_bytes": 0, "total_bytes": None, "documents": 0}
    assert records[-1]["stage"] == "tokens"
    assert dataset.num_tokens("train")
    assert len(list(cache.iterdir())) == 1


def test_without_locks_the_first_of_two_builders_wins(
    corpus: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without locks: a second builder runs from start to end while the first is at work."""
    monkeypatch.setattr(shards, "_flock", lambda lock, *, wait: None)
    original = build._build
    inner: list[str] = []

    def nested(folder: Path, *arguments: object) -> None:
        original(folder, *arguments)  # type: ignore[arg-type]
        if not inner:
            inner.append("")
            inner[0] = prepare(corpus, "bytes", cache).fingerprint
            assert folder.exists(), "the second builder must not remove the first one's folder"

    monkeypatch.setattr(build, "_build", nested)
    dataset = prepare(corpus, "bytes", cache)
    assert dataset.fingerprint == inner[0]
    assert len(list(cache.iterdir())) == 1


def test_leftovers_of_other_hosts_go_after_a_day(corpus: str, cache: Path) -> None:
    fresh, old = cache / "building" / "name.host.1-a", cache / "building" / "name.host.1-b"
    for folder in (fresh, old):
        folder.mkdir(parents=True)
        (folder / "train-00000.bin").write_bytes(b"x")
    for path in (old / "train-00000.bin", old):
        os.utime(path, (1e9, 1e9))
    prepare(corpus, "bytes", cache)
    assert fresh.exists()
    assert not old.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    corpus: str, cache: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"the disk (is full|quota is used up) while writing tokens to"):
            prepare(corpus, "bytes", cache)
    assert not cache.parent.exists()
    assert prepare(corpus, "bytes", cache).num_tokens("train")


def test_a_file_where_the_cache_should_be(corpus: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for place in ("file", "file/data"):
        with pytest.raises(UserError, match="cannot write tokens to"):
            prepare(corpus, "bytes", tmp_path / place)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EPERM])
def test_a_place_where_no_folder_can_be_made_is_one_sentence(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As below /proc and /sys; a folder that another builder has just removed also seems not to be there."""

    def refuse(path: Path, **_: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(UserError, match=r"cannot write tokens to .*: no (folder can be made|permission)"):
            prepare(corpus, "bytes", tmp_path / "system" / "data")


@pytest.mark.parametrize("damage", ["cut", "gone", "meta"])
def test_a_damaged_folder_is_refused_by_open_and_rebuilt_by_prepare(
    corpus: str, cache: Path, damage: str
) -> None:
    dataset = prepare(corpus, "bytes", cache)
    shard, meta = dataset.folder / "train-00000.bin", dataset.folder / "meta.json"
    if damage == "cut":
        os.truncate(shard, 100)
    elif damage == "gone":
        shard.unlink()
    else:
        meta.write_text(meta.read_text()[:50])
    with pytest.raises(UserError, match="prepared data"):
        open_dataset(dataset.folder)
    again = prepare(corpus, "bytes", cache)
    assert again.folder == dataset.folder
    assert again.fingerprint == dataset.fingerprint
    again.train_batch(0, 4, 16, 0)
    assert len(list(cache.iterdir())) == 1


def flip(path: Path, position: int) -> None:
    """Change one byte as a bad disk does: size and time stay."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_changed_byte_stops_who_reads_it_and_prepare_makes_the_data_again(
    corpus: str, cache: Path, split: str
) -> None:
    dataset = prepare(corpus, "bytes", cache)
    whole = dataset.train_batch(0, 50, 16, 0), dataset.heldout(50, 16)
    flip(dataset.folder / f"{split}-00000.bin", 100)
    damaged = open_dataset(dataset.folder)
    with pytest.raises(DataDamagedError, match=rf"{split}-00000.bin does not match its sum at byte 0"):
        damaged.train_batch(0, 50, 16, 0) if split == "train" else damaged.heldout(50, 16)
    again = prepare(corpus, "bytes", cache)
    assert (again.folder, again.fingerprint) == (dataset.folder, dataset.fingerprint)
    for before, after in zip(whole, (again.train_batch(0, 50, 16, 0), again.heldout(50, 16)), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_block_is_checked_where_it_is_read_and_only_there(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", 64)
    monkeypatch.setattr("scaling.data.dataset.BLOCK_BYTES", 64)
    dataset = prepare(write_corpus(tmp_path / "corpus", 10), "bytes", cache)
    size = (dataset.folder / "heldout-00000.bin").stat().st_size
    flip(dataset.folder / "heldout-00000.bin", size - 1)
    damaged = open_dataset(dataset.folder)
    windows = dataset.num_windows("heldout", 16)
    assert windows is not None
    damaged.heldout(1, 16)  # from the middle
    with pytest.raises(DataDamagedError):
        damaged.heldout(windows, size // windows)


def test_a_byte_changed_by_hand_is_noticed_before_anything_is_read(corpus: str, cache: Path) -> None:
    dataset = prepare(corpus, "bytes", cache)
    shard = dataset.folder / "heldout-00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(b"x" + content[1:])
    prepare(corpus, "bytes", cache)
    assert shard.read_bytes() == content


def test_folders_without_sums_stay_in_use_and_get_them(corpus: str, cache: Path) -> None:
    dataset = prepare(corpus, "bytes", cache)
    kept = {path.name: path.read_bytes() for path in dataset.folder.iterdir()}
    for path in [*dataset.folder.glob("*.sums"), dataset.folder / shards.CHECKED]:
        path.unlink()
    inode = (dataset.folder / "train-00000.bin").stat().st_ino
    open_dataset(dataset.folder).train_batch(0, 4, 16, 0)
    assert prepare(corpus, "bytes", cache).fingerprint == dataset.fingerprint
    assert {path.name: path.read_bytes() for path in dataset.folder.iterdir()} == kept
    assert (dataset.folder / "train-00000.bin").stat().st_ino == inode, "it was not made again"


def test_damage_in_a_folder_without_sums_is_noticed(corpus: str, cache: Path) -> None:
    dataset = prepare(corpus, "bytes", cache)
    shard = dataset.folder / "train-00000.bin"
    content = shard.read_bytes()
    for path in [*dataset.folder.glob("*.sums"), dataset.folder / shards.CHECKED]:
        path.unlink()
    flip(shard, 7)
    prepare(corpus, "bytes", cache)
    assert shard.read_bytes() == content


def test_tokens_are_hashed_once_per_host(corpus: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    original = shards.check_tokens

    def check(folder: Path, meta: dict[str, object]) -> None:
        checked.append(folder)
        original(folder, meta)

    monkeypatch.setattr(shards, "check_tokens", check)
    prepare(corpus, "bytes", cache)
    prepare(corpus, "bytes", cache)
    assert len(checked) == 1
    monkeypatch.setattr(shards.socket, "gethostname", lambda: "another")
    prepare(corpus, "bytes", cache)
    assert len(checked) == 2
    prepare(corpus, "bytes", cache)
    assert len(checked) == 2


def test_a_changed_number_in_meta_is_noticed(corpus: str, cache: Path) -> None:
    dataset = prepare(corpus, "bytes", cache)
    meta, content = dataset.folder / "meta.json", (dataset.folder / "meta.json").read_text()
    meta.write_text(content.replace('"num_token_ids": 256', '"num_token_ids": 257'))
    (dataset.folder / shards.CHECKED).unlink()
    prepare(corpus, "bytes", cache)
    assert meta.read_text() == content


def test_data_that_cannot_be_read_just_now_is_neither_damaged_nor_made_again(
    corpus: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = prepare(corpus, "bytes", cache)
    opened = open_dataset(dataset.folder)

    def fails(*arguments: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fails)
        with pytest.raises(DataAwayError, match=r"cannot be read: .*Input/output error"):
            opened.heldout(2, 16)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        patch.setattr(build, "_build", fails)
        with pytest.raises(DataAwayError, match=r"cannot be read: .*Input/output error"):
            prepare(corpus, "bytes", cache)
    dataset.folder.rename(cache / "elsewhere")
    with pytest.raises(DataAwayError, match="is not a prepared data folder"):
        open_dataset(dataset.folder)
    (cache / "elsewhere").rename(dataset.folder)
    np.testing.assert_array_equal(opened.heldout(2, 16), dataset.heldout(2, 16))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a prepared data folder"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "meta.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(UserError, match="was not prepared by this version"):
        open_dataset(tmp_path)


def test_a_changed_corpus_is_built_anew(corpus: str, cache: Path, tmp_path: Path) -> None:
    first = prepare(corpus, "bytes", cache)
    file = tmp_path / "corpus" / "000.txt"
    os.utime(file, (1e9, 1e9))  # looks changed, is not
    touched = prepare(corpus, "bytes", cache)
    assert touched.folder != first.folder
    assert touched.fingerprint == first.fingerprint
    file.write_text("something else\n")
    changed = prepare(corpus, "bytes", cache)
    assert changed.fingerprint != first.fingerprint
    assert open_dataset(first.folder).fingerprint == first.fingerprint, "runs under way keep their data"


def test_the_fingerprint_is_of_content_alone(corpus: str, cache: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "copy")
    copied = prepare(f"text:{tmp_path}/copy/*", "bytes", cache)
    assert copied.fingerprint == prepare(corpus, "bytes", cache).fingerprint


@pytest.mark.parametrize("change", ["written", "removed"])
def test_a_corpus_that_changes_while_it_is_read_is_refused(
    corpus: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    original, file = build.make_tokenizer, tmp_path / "corpus" / "050.txt"

    def write(*arguments: object) -> object:
        file.write_text("late") if change == "written" else file.unlink()
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "make_tokenizer", write)
    why = {
        "written": "changed while it was being read",
        "removed": r"050\.txt: cannot be read \(No such file",
    }
    with pytest.raises(UserError, match=why[change]):
        prepare(corpus, "bytes", cache)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a.txt": ""}, "is empty"),
        ({"a.txt": "one"}, "has one document only"),
        ({"a.txt": "same", "b.txt": "same"}, "has one document only"),
        ({"a.txt": "fine", "b.txt": "\0"}, "b.txt: not text"),
    ],
)
def test_bad_corpora_leave_nothing(tmp_path: Path, cache: Path, files: dict[str, str], why: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        prepare(f"text:{tmp_path}/*.txt", "bytes", cache)
    assert why in str(caught.value)
    assert not cache.parent.exists()


def test_a_folder_that_was_there_stays(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    cache.mkdir(parents=True)
    with pytest.raises(UserError, match="has one document only"):
        prepare(f"text:{tmp_path}/a.txt", "bytes", cache)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("documents", [2, 3, 10])
def test_tiny_corpora_hold_out_at_least_one_document(tmp_path: Path, cache: Path, documents: int) -> None:
    dataset = prepare(write_corpus(tmp_path / "tiny", documents), "bytes", cache)
    splits = dataset.meta["splits"]
    assert splits["heldout"]["documents"] >= 1
    assert splits["train"]["documents"] >= 1
    assert splits["heldout"]["documents"] + splits["train"]["documents"] == documents


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_large_parquet_files_are_streamed(tmp_path: Path) -> None:
    """64 MB of text in one row group: Arrow holds 10 MB at most, the builder 35 MB, whatever the size."""
    rng = np.random.default_rng(0)
    letters = (rng.integers(0, 26, (16_000, 4_000), dtype=np.uint8) + 97).tobytes().decode()
    texts = [letters[start : start + 4_000] for start in range(0, len(letters), 4_000)]
    table = pa.table({"text": texts})
    pq.write_table(
        table, tmp_path / "a.parquet", row_group_size=16_000, compression="none", use_dictionary=False
    )
    del table, texts, letters
    script = """
        import sys
        from pathlib import Path
        import pyarrow.parquet
        from scaling.data import prepare

        def peak_kb():  # ru_maxrss would be the peak of the process that forked this one
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0])

        before = peak_kb()
        dataset = prepare(f"parquet:{sys.argv[1]}/a.parquet", "bytes", Path(sys.argv[1]) / "cache")
        print(dataset.num_tokens("train") + dataset.num_tokens("heldout"))
        print((peak_kb() - before) / 1024, pyarrow.default_memory_pool().max_memory() / 2**20)
    """
    tokens, grown_mb, arrow_mb = start(script, tmp_path).communicate()[0].split()
    assert int(tokens) == 16_000 * 4_001
    assert float(arrow_mb) < 16
    assert float(grown_mb) < 50
