"""Files that are complete or not there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from analysis.errors import UserError


def write_whole(path: Path, content: bytes) -> Path:
    """Write the file, and the folders above it, completely or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            unfinished.unlink()
    return path
