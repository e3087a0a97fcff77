"""The dashboard with 10,000 runs of 200 curve points, in Chromium, beside MLflow's own page.

ready          from the start of `scaling dashboard` to its first answer
usable         from opening the page to texts, tables, filters and the figure being there (the figure as an
               SVG); drawn: the same figure by plotly.js, with hover and zoom
switch         from a click on a tab, a filter or a convention to the new tables on the screen; then to the
               new figure
memory         of the server, its reading and its fitting process (shared pages counted once), now and most;
               the first two are there while runs arrive, the fitting one ends when it has nothing to do
export         bytes of the page as one file, seconds to write it (with loss curves read, then again),
               usable and drawn from disk
report         bytes of `scaling report` over the same store, and seconds to write it
mlflow         from opening MLflow's list of runs to its first hundred rows

    python -m benchmarks.dashboard [--runs 10000] [--points 200] [--rounds 5] [--no-mlflow]

Medians. The numbers go to build/benchmarks/dashboard.json; exit code 1 where a floor is missed. Needs
Chromium and playwright; says so and ends with 0 where they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import options, save
from benchmarks.generated_store import FAMILIES, write_store

FLOORS: dict[str, tuple[float, Callable[[dict[str, Any]], float]]] = {
    "ready_s": (2.0, lambda results: results["ready_s"]),
    "usable_s": (1.2, lambda results: max(page["usable_s"] for page in results["pages"].values())),
    "switch_ms": (250.0, lambda results: max(one["shown_ms"] for one in results["switches"].values())),
    "server_mb": (
        250.0,
        lambda results: sum(results["memory_mb"]["now"].get(name, 0.0) for name in ("server", "reader")),
    ),
    "export_mb": (6.0, lambda results: results["export"]["mb"]),
    "export_usable_s": (1.2, lambda results: results["export"]["usable_s"]),
    "report_mb": (6.0, lambda results: results["report"]["mb"]),
}
"""Limits, and the numbers that must stay below them."""
SCALING = (sys.executable, "-P", "-m", "sweeps.cli")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
VIEWPORT = {"width": 1440, "height": 900}
COUNTS = ("params_non_embedding|flops_exact", "params_total|flops_exact")
"""Ways to count whose laws are there when pages are measured; fitting the others goes on meanwhile."""
SWITCHES = {
    "view": "nav a[href^='#/frontier']",
    "view back": "nav a[href^='#/isoflop']",
    "family": "#family-masked",
    "all families": "#all-family",
    "budget": "[id^=budget-]",
    "all budgets": "#all-budget",
    "bits per byte": "#pick-loss=bits",
    "counts": "#pick-params=params_total",
}
SWITCH = """async ([selector, value]) => {
  const page = document.documentElement.dataset, before = page.usable;
  const node = document.querySelector(selector);
  const started = performance.now();
  if (value) { node.value = value; node.dispatchEvent(new Event("change")); } else node.click();
  while (page.usable === before) await new Promise(done => setTimeout(done, 1));
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const shown = performance.now() - started;
  while (!document.querySelector(".figure[data-drawn]")) await new Promise(done => setTimeout(done, 5));
  return [shown, performance.now() - started];
}"""


def wait_for(check: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if answer := check():
                return answer
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds} s")


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=180) as answer:
        return bytes(answer.read())


def memory_mb(process: psutil.Process) -> dict[str, float]:
    """Of the server, of its reader and of its fitter, MiB, each shared page once (PSS); those that run."""
    memory = {"server": process.memory_full_info().pss / 2**20}
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            name = "fitter" if child.nice() > process.nice() else "reader"
            memory[name] = child.memory_full_info().pss / 2**20
    return memory


@contextmanager
def dashboard(store: str, cache: Path) -> Iterator[tuple[str, subprocess.Popen[str], float]]:
    started = time.monotonic()
    process = subprocess.Popen(
        [*SCALING, "dashboard", "--store", store, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None, "opened as a pipe"
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address, "the server says its address"
    try:
        wait_for(lambda: fetch(address[0]), 30)
        yield address[0], process, time.monotonic() - started
    finally:
        process.terminate()
        process.wait(20)


def opened(browser: Any, address: str) -> tuple[float, float, Any]:
    """Seconds until usable and until drawn, and the page."""
    page = browser.new_page(viewport=VIEWPORT)
    started = time.monotonic()
    page.goto(address)
    page.wait_for_selector('.figure[data-shown="svg"]', timeout=60000)
    usable = time.monotonic() - started
    page.wait_for_selector(".figure[data-drawn]", timeout=60000)
    return usable, time.monotonic() - started, page


def medians(rows: Iterable[Sequence[float]], *names: str) -> dict[str, float]:
    """Of each column, by its name."""
    return {name: median(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def measure_openings(browser: Any, address: str, rounds: int) -> dict[str, float]:
    times = []
    for _ in range(rounds):
        *seconds, page = opened(browser, address)
        page.close()
        times.append(seconds)
    return medians(times, "usable_s", "drawn_s")


def measure_switches(browser: Any, address: str, rounds: int) -> dict[str, Any]:
    page = opened(browser, f"{address}#/isoflop")[2]
    page.wait_for_timeout(2500)
    times: dict[str, list[list[float]]] = {name: [] for name in SWITCHES}
    for _ in range(rounds):
        for name, target in SWITCHES.items():
            selector, _, value = target.partition("=") if target.startswith("#pick") else (target, "", "")
            times[name].append(page.evaluate(SWITCH, [selector, value]))
            page.wait_for_timeout(400)
        page.select_option("#pick-loss", "nats")
        page.select_option("#pick-params", "params_non_embedding")
        page.wait_for_timeout(1500)
    page.close()
    return {name: medians(rows, "shown_ms", "drawn_ms") for name, rows in times.items()}


def measure_export(browser: Any, address: str, path: Path, rounds: int) -> dict[str, float]:
    written = []
    for _ in range(2):
        started = time.monotonic()
        path.write_bytes(fetch(f"{address}export.html?start=%23/isoflop"))
        written.append(time.monotonic() - started)
    times = {"first_written_s": written[0], "written_s": written[1]}
    return {"mb": path.stat().st_size / 1e6, **times, **measure_openings(browser, f"file://{path}", rounds)}


def measure_report(store: str, folder: Path) -> dict[str, float]:
    command = [*SCALING, "report", "--store", store, "--out", str(folder)]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - started
    (path,) = folder.glob("*/report.html")
    return {"mb": path.stat().st_size / 1e6, "written_s": took}


def measure_mlflow(browser: Any, store: str, folder: Path) -> dict[str, Any]:
    port = 5000 + os.getpid() % 900
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
    with (folder / "mlflow.log").open("w") as log:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        process = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: fetch(f"{address}/health"), 120)
        name, times = re.compile(rf"^({'|'.join(FAMILIES)})-\d{{5}}$"), []
        for _ in range(3):
            page = browser.new_page(viewport=VIEWPORT)
            started = time.monotonic()
            page.goto(f"{address}/#/experiments/1/runs")
            page.get_by_text(name).first.wait_for(timeout=120000)
            times.append(time.monotonic() - started)
            page.close()
        memory = sum(memory_mb(psutil.Process(process.pid)).values())
        return {"list_s": median(times), "memory_mb": memory}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def measure(arguments: argparse.Namespace, chromium: str, folder: Path) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    store = arguments.store or write_store(folder / "mlflow.db", arguments.runs, arguments.points)
    results: dict[str, Any] = {"runs": arguments.runs, "points": arguments.points, "cores": os.cpu_count()}
    with sync_playwright() as driver, dashboard(store, folder / "cache") as (address, process, ready):
        results["ready_s"] = ready
        server, most = psutil.Process(process.pid), {"server": 0.0}

        def fitted() -> bool:
            for name, value in memory_mb(server).items():
                most[name] = max(most.get(name, 0.0), value)
            state = json.loads(fetch(f"{address}api/state"))["laws"]
            return all(state.get(name, {}).get("done") for name in COUNTS)

        started = time.monotonic()
        wait_for(lambda: fetch(f"{address}api/data"), 120)
        results["data_s"] = time.monotonic() - started
        wait_for(fitted, 1800)
        results["laws_of_two_counts_s"] = time.monotonic() - started
        time.sleep(8)  # the fitting process ends when it has nothing to do
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        results["memory_mb"] = {"now": memory_mb(server), "most": most}
        results["pages"] = {
            view: measure_openings(browser, f"{address}#/{view}", arguments.rounds)
            for view in ("overview", "isoflop")
        }
        results["switches"] = measure_switches(browser, address, arguments.rounds)
        results["export"] = measure_export(browser, address, folder / "export.html", arguments.rounds)
        if not arguments.no_mlflow:
            results["mlflow"] = measure_mlflow(browser, store, folder)
        browser.close()
    results["report"] = measure_report(store, folder / "report")
    return results


def main() -> int:
    parser = options(__doc__, "dashboard")
    parser.add_argument("--runs", type=int, default=10000)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store", help="a generated store that is there already")
    parser.add_argument("--no-mlflow", action="store_true")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or find_spec("playwright") is None:
        print("dashboard: not measured, it needs Chromium and playwright (pip install -e '.[dev]')")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, chromium, Path(folder))
    print(json.dumps(results, indent=2))
    save(arguments.out, results)
    problems = [
        f"missed: {name}: {value:.3g}, wanted below {limit:g}"
        for name, (limit, value_of) in FLOORS.items()
        if (value := value_of(results)) >= limit
    ]
    print("\n".join(problems) or "every floor is reached")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
