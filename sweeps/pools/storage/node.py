"""The folder of a node for what its workers keep: running attempts, datasets, weights of finished runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from scaling.files import private_folder

FOLDER_VARIABLE = "SCALING_SCRATCH"


def node_folder() -> Path:
    """It is SCALING_SCRATCH, else in TMPDIR."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else private_folder(Path(tempfile.gettempdir()) / f"scaling-{os.getuid()}")
