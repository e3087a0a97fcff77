"""Checkpoints: tensors and plain data, written whole or not at all, checked when read.

A file is a `torch.save` payload followed by its SHA-256 (torch does not notice a flipped bit by
itself). It is written to a temporary name, synced and renamed; the last two are kept, so that a
damaged one costs the steps since the one before it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from scaling.files import write_whole

DIGEST_BYTES = 32
KEPT = 2
LAST_STEP = 10**10 - 1
BY_NAME = attrgetter("name")
CHECKPOINTS = "checkpoint-*.pt"
"""Pattern of their names."""


class DamagedCheckpointError(Exception):
    """The file is not the checkpoint that was written."""


def checkpoint_name(step: int) -> str:
    """Zero-padded, so that names are in the order of steps."""
    return f"checkpoint-{step:010d}.pt"


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], *, resumed: int = 0, earlier: Iterable[Path] = ()
) -> Path:
    """Write `state` as the checkpoint of `step`; OSError (a full disk, say) leaves the earlier ones whole.

    earlier: folders of earlier attempts of the run, the furthest of which this one continued at step
    `resumed`. With this attempt's own, no more than KEPT checkpoints of the run are left.
    """
    payload = io.BytesIO()
    torch.save({"step": step, **state}, payload)
    content = payload.getbuffer()
    path = folder / checkpoint_name(step)
    for left in folder.glob("*checkpoint*.tmp"):  # by a killed writer
        left.unlink(missing_ok=True)
    with write_whole(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.write(hashlib.sha256(content).digest())
    # A later one is damaged, or this run would have continued it: it must not crowd out an intact one.
    kept = [p for p in _checkpoints(folder) if p.name <= path.name]
    before = [p for other in earlier for p in [*other.glob("*checkpoint*.tmp"), *_checkpoints(other)]]
    usable = [p for p in before if p.suffix == ".pt" and p.name <= checkpoint_name(resumed)]
    kept += sorted(usable, key=BY_NAME, reverse=True)
    for old in [*kept[KEPT:], *set(before).difference(usable)]:
        old.unlink(missing_ok=True)
    return path


def remove_checkpoints(folders: Iterable[Path], *, keep: int) -> None:
    """Remove a finished run's checkpoints from the folders of its attempts but for the furthest `keep`."""
    paths = [path for folder in folders for path in _checkpoints(folder)]
    for path in sorted(paths, key=BY_NAME, reverse=True)[keep:]:
        path.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; DamagedCheckpointError where its content is not what was written."""
    try:
        content = path.read_bytes()
    except OSError as error:  # a bad disk, or an earlier attempt still alive that has removed it
        raise DamagedCheckpointError(f"{path} cannot be read: {error}") from error
    payload, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if len(content) <= DIGEST_BYTES or hashlib.sha256(payload).digest() != digest:
        raise DamagedCheckpointError(f"{path} is damaged: its content does not match its checksum")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    # torch raises what it likes for bytes that are no checkpoint
    except (RuntimeError, pickle.UnpicklingError, ValueError, IndexError, EOFError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error}") from error
    return state


def newest_checkpoint(
    folders: Iterable[Path], key: str, fences: Mapping[Path, int] | None = None
) -> tuple[dict[str, Any] | None, list[str]]:
    """The furthest intact checkpoint of run `key`, and a sentence per damaged one passed over.

    fences: folder -> the step beyond which its checkpoints do not count.
    """
    damaged: list[str] = []
    candidates = [
        path
        for folder in folders
        for path in _checkpoints(folder)
        if path.name <= checkpoint_name((fences or {}).get(folder, LAST_STEP))
    ]
    for path in sorted(candidates, key=BY_NAME, reverse=True):
        try:
            state = load_checkpoint(path)
        except DamagedCheckpointError as error:
            damaged.append(str(error))
            continue
        if state.get("key") == key:
            return state, damaged
    return None, damaged


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first; names carry zero-padded steps."""
    return sorted(folder.glob(CHECKPOINTS), key=BY_NAME, reverse=True)
