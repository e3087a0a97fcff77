"""What the tests of the dashboard share: a made-up run table, a server over it, a browser."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

EVIL = "<img src=x onerror=document.title='owned'></script><script>document.title='owned'</script>"
"""A name that would take over a page which wrote it as HTML."""
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


def made_up(families: tuple[str, ...] = ("ar", "masked"), seed: int = 0) -> pd.DataFrame:
    """Runs of a known surface: 4 budgets of 7 sizes per family, with every count that a sweep records."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, family in enumerate(families):
        for budget in (1e17, 4e17, 1.6e18, 6.4e18):
            for size, span in enumerate(np.geomspace(0.2, 5, 7)):
                params = round(0.1 * math.sqrt(budget) * span)
                tokens = budget / 6 / params
                loss = (1.7 + 0.1 * number) + 380 * (1 + 0.2 * number) / params**0.34 + 420 / tokens**0.28
                loss *= math.exp(rng.normal(0, 0.002))
                rows.append({
                    "sweep": "made up", "family": family, "size": f"s{size}",
                    "key": f"{len(rows):04x}{number:012x}", "seed": 1, "status": "finished", "budget": budget,
                    "flop_convention": "6nd", "flops": budget, "flops_6nd": budget,
                    "flops_exact": budget * (1 + 0.2 / (size + 1)),
                    "params": params, "params_total": params * 1.2,
                    "params_non_embedding": params, "params_body": params * 0.9, "tokens": tokens,
                    "loss": loss, "loss_se": 0.002, "bits_per_byte": loss * 0.4, "bound": "exact",
                    "wall_s": 60.0, "host": "here",
                })  # fmt: skip
    return pd.DataFrame(rows)


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Whole or not at all, as a sweep's export does."""
    temporary = path.with_suffix(".tmp")
    frame.to_csv(temporary, index=False)
    temporary.replace(path)
    return path


@contextmanager
def served(store: str, cache: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`scaling dashboard` over a store at a free port: its address and its process."""
    command = [sys.executable, "-c", "from sweeps.cli import main; main()", "dashboard", "--store", store]
    process = subprocess.Popen(
        [*command, "--port", "0", "--bootstrap", "40", *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"(http://\S+) \(Ctrl-C", line)  # the store may have an address, too
        assert match, line + process.stdout.read()
        yield match[1], process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return bytes(answer.read())


def wait_for(what: Any, *, seconds: float = 60.0) -> Any:
    """The first true answer of `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def chromium() -> str:
    """Where the system's Chromium is; skips the test where there is none, or no Playwright."""
    pytest.importorskip("playwright", reason="needs playwright: pip install -e '.[dev]'")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return path


def state_of(address: str) -> str:
    return fetch(address + "api/state").decode()


def open_view(page: Any, address: str, view: str, *, figure: bool = True) -> None:
    page.goto("about:blank")
    page.goto(f"{address}#/{view}")
    page.wait_for_selector("html[data-usable]", state="attached")
    if figure:
        page.wait_for_selector(".figure[data-drawn]", timeout=60000)


def drawn(page: Any, label: str = "") -> list[dict[str, Any]]:
    """The traces of the figure with that label, as plotly.js has them."""
    named = f'[aria-label^="{label}"]' if label else ""
    script = f"document.querySelector('.figure[data-drawn]{named} .plot')?.data"
    return list(wait_for(lambda: page.evaluate(script)))


def text_of(page: Any) -> str:
    return str(page.inner_text("body"))
