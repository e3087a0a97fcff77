"""Weights of finished runs: fetched from a storage by those who sample, judge or distil them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from scaling.data.shards import Workshop
from scaling.errors import UserError
from sweeps.attempt.worker import SPEC
from sweeps.pools.storage.files import Storage, patiently
from sweeps.pools.storage.node import node_folder


def fetch_weights(
    storage: Storage, folder: Path, patience_s: float, *, give_up: Callable[[], object] = lambda: None
) -> Path:
    """The folder from which `load_run` reads the finished run that is in `folder` on the driver's machine.

    That folder if the weights are visible there, else a copy on this node of spec and last checkpoint,
    fetched once, also by several workers at once.

    UserError if the storage has no weights of a finished run there, or damaged ones, or if this node's disk
    has no room for them; StorageError if it gives no answer for `patience_s`.
    """
    from scaling.spec import RunSpec
    from scaling.training.checkpoint import checkpoint_name
    from scaling.training.finished import has_weights

    if has_weights(folder):
        return folder
    place, key = "/".join(folder.parts[-4:]), folder.name
    patience = partial(patiently, patience_s=patience_s, give_up=give_up)
    problem = UserError(
        f"{storage} has no weights of run {key} in {place}: it has not finished, or it was trained without "
        "this storage or with training.keep_weights: false"
    )
    try:
        spec = patience(partial(storage.read, f"{place}/{SPEC}"))
        last = checkpoint_name(RunSpec.from_dict(json.loads(spec)).steps)
    except FileNotFoundError:
        raise problem from None
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"{place}/{SPEC} in {storage} cannot be read as the spec of a run: {error}") from None
    names = [
        name for name in patience(partial(storage.sizes, place)) if PurePath(name).match("checkpoint-*.pt")
    ]
    for name in sorted((name for name in names if PurePath(name).name >= last), reverse=True):
        try:
            return _copy_weights(storage, f"{place}/{name}", key, spec, patience)
        except FileNotFoundError:  # removed since it was listed
            continue
        except UserError as error:
            problem = error
    raise problem


def _copy_weights(
    storage: Storage, checkpoint: str, key: str, spec: bytes, patience: Callable[[Callable[[], Any]], Any]
) -> Path:
    """This node's folder with the spec and the checkpoint, whose name in the storage that is; fetched once.

    It is named by the checksum at the checkpoint's end, so another training of the run is another folder.
    FileNotFoundError if the checkpoint is not there; UserError if it is damaged.
    """
    from scaling.training.checkpoint import DIGEST_BYTES

    digest, name = patience(partial(storage.end, checkpoint, DIGEST_BYTES)).hex(), PurePath(checkpoint).name
    shop = Workshop(node_folder() / "weights", f"{key}-{digest[:16]}", "weights")
    with shop.locked(lambda: None):
        if (shop.target / name).exists() and is_whole(shop.target / name):
            return shop.target
        with shop.folder() as folder:
            (folder / SPEC).write_bytes(spec)
            patience(partial(storage.get, checkpoint, folder / name))
            if not is_whole(folder / name):
                raise UserError(
                    f"the weights of run {key} in {storage} are damaged: {checkpoint} does not match its "
                    "checksum"
                )
    return shop.target


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint's content agrees with the checksum at its end."""
    from scaling.training.checkpoint import DIGEST_BYTES

    left = checkpoint.stat().st_size - DIGEST_BYTES
    digest = hashlib.sha256()
    with checkpoint.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, 2**22))):
            digest.update(chunk)
            left -= len(chunk)
        return left == 0 and file.read() == digest.digest()
