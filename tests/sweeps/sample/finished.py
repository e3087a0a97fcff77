"""A tiny sweep that has finished, for tests of what is sampled from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.plan import timing
from tests.sweeps.command_line import scaling


def finish_sweep(folder: Path, config: str, *arguments: str) -> Path:
    """OUT of the sweep of `config`, whose corpus is `{texts}/*.txt`, run below `folder`."""
    (folder / "texts").mkdir()
    for name in ("a", "b", "c"):
        (folder / "texts" / f"{name}.txt").write_text(f"{name} quick brown fox jumps over the dog\n" * 200)
    (folder / "tiny.yaml").write_text(config.format(texts=folder / "texts"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "matmul_flops_per_s", lambda shapes, threads: dict.fromkeys(shapes, 1e10))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("SCALING_SCRATCH", str(folder / "node"))
        code = scaling("sweep", "--config", str(folder / "tiny.yaml"), "--out", str(folder / "runs"),
                       "--pool", "local", "--bootstrap", "0", *arguments)  # fmt: skip
    assert code == 1, "the runs are too few for a law"
    return folder / "runs"
