"""Weights and samples of a sweep whose files are in a storage: where it is, and what is fetched from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.text import without_secrets
from scaling.errors import UserError
from scaling.training.finished import has_weights
from sweeps.attempt.job import RESULT
from sweeps.ledger.ledger import Ledger
from sweeps.pools.storage.files import CHECK_S, Storage, StorageError, open_storage, patiently
from sweeps.pools.storage.weights import fetch_weights
from sweeps.sample.points import FOLDER, Point


def storage_uri(option: str | None, recorded: str | None) -> str | None:
    """The storage of a sweep: as the user gives it, else as the ledger has it, which knows no passwords.

    UserError if only the user knows the password.
    """
    if option is None and recorded is not None and "***" in recorded:
        raise UserError(
            f"the files of the sweep are in {recorded}, whose password is not recorded; give --storage, or "
            "set SCALING_STORAGE"
        )
    return option or recorded


def folder_with_weights(folder: Path, option: str | None = None) -> Path:
    """The folder from which `load_run` reads the run in `folder`: itself, or a copy from the storage.

    folder: OUT/SWEEP/FAMILY/runs/KEY or one of its attempts, there or not. option: URI of the storage; None:
    as the sweep's ledger has it. UserError if it cannot be read, or has no weights of the run.
    """
    if has_weights(folder):
        return folder
    run = folder.absolute()
    run = run.parent if run.name.startswith("attempt-") else run
    sweep = run.parents[min(2, len(run.parents) - 1)]
    recorded = None
    if option is None and Ledger.exists(sweep / "ledger"):
        with Ledger(sweep / "ledger") as ledger:
            recorded = ledger.fact("storage")
    uri = storage_uri(option, recorded)
    if uri is None:
        return folder  # loading says what is missing
    try:
        return fetch_weights(open_storage(uri), run, CHECK_S)
    except StorageError as error:
        raise UserError(
            f"the weights of run {run.name} are in storage {without_secrets(uri)!r}, which cannot be read: "
            f"{error}"
        ) from None


def fetch_samples(storage: Storage, points: Sequence[Point], folder: Path) -> None:
    """Copy to `folder`, of the sweep, the results of points that it lacks, for their driver had gone.

    UserError if the storage cannot be read.
    """
    place = f"{folder.name}/{FOLDER}"
    try:
        there = patiently(lambda: storage.sizes(place), CHECK_S)
        for point in points:
            name = f"{point.key}/{RESULT}"
            if name in there and point.row(folder) is None:
                get = partial(storage.get, f"{place}/{name}", point.folder(folder) / RESULT)
                patiently(get, CHECK_S)
    except OSError as error:
        raise UserError(f"earlier samples cannot be fetched from {storage}: {error}") from None
