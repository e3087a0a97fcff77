"""Files that appear whole or not at all, and folders that only their owner can use."""

import os
import stat
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.files import private_folder, scratch_folder, write_whole


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with write_whole(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(TypeError), write_whole(path) as temporary:
        temporary.write_text(b"no text")  # type: ignore[arg-type]
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_private_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "mine")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700


def test_a_folder_that_somebody_else_made_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="link is a link, or belongs to user"):
        private_folder(tmp_path / "link")
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UserError, match=r"belongs to user \d+; it must be a folder of user 12345"):
        private_folder(tmp_path / "theirs")


def test_folders_of_killed_processes_are_removed_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    base = tmp_path / "attempts"
    with scratch_folder(base) as living:
        (base / "dead").mkdir()
        (base / "dead" / "checkpoint.pt").write_text("x")
        (base / "dead.lock").write_text("")
        with scratch_folder(base):
            assert living.is_dir()
            assert not (base / "dead").exists()
            assert not (base / "dead.lock").exists()
    assert list(base.iterdir()) == []
