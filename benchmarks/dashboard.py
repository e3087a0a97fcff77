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
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.generated_store import write_store

FLOORS = {
    "ready_s": 2.0,
    "usable_s": 1.2,
    "switch_ms": 250.0,
    "server_mb": 250.0,
    "export_mb": 6.0,
    "export_usable_s": 1.2,
    "report_mb": 6.0,
}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)
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


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if answer := what():
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
        [
            sys.executable,
            "-c",
            "from sweeps.cli import main; main()",
            "dashboard",
            "--store",
            store,
            "--port",
            "0",
        ],
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
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    started = time.monotonic()
    page.goto(address)
    page.wait_for_selector('.figure[data-shown="svg"]', timeout=60000)
    usable = time.monotonic() - started
    page.wait_for_selector(".figure[data-drawn]", timeout=60000)
    return usable, time.monotonic() - started, page


def measure_pages(browser: Any, address: str, rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for view in ("overview", "isoflop"):
        times = []
        for _ in range(rounds):
            usable, drawn, page = opened(browser, f"{address}#/{view}")
            page.close()
            times.append((usable, drawn))
        results[view] = {
            "usable_s": statistics.median(t[0] for t in times),
            "drawn_s": statistics.median(t[1] for t in times),
        }
    return results


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
    return {
        name: {
            "shown_ms": statistics.median(t[0] for t in rounds_of),
            "drawn_ms": statistics.median(t[1] for t in rounds_of),
        }
        for name, rounds_of in times.items()
    }


def measure_export(browser: Any, address: str, path: Path, rounds: int) -> dict[str, float]:
    written = []
    for _ in range(2):
        started = time.monotonic()
        path.write_bytes(fetch(f"{address}export.html?start=%23/isoflop"))
        written.append(time.monotonic() - started)
    openings = [opened(browser, f"file://{path}") for _ in range(rounds)]
    return {
        "mb": path.stat().st_size / 1e6,
        "first_written_s": written[0],
        "written_s": written[1],
        "usable_s": statistics.median(f[0] for f in openings),
        "drawn_s": statistics.median(f[1] for f in openings),
    }


def measure_report(store: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-P", "-c", "from sweeps.cli import main; main()", "report", "--store", store]
    started = time.monotonic()
    subprocess.run([*command, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - started
    (path,) = folder.glob("*/report.html")
    return {"mb": path.stat().st_size / 1e6, "written_s": took}


def measure_mlflow(browser: Any, store: str, folder: Path) -> dict[str, Any]:
    port = 5000 + os.getpid() % 900
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--backend-store-uri",
                store,
                "--port",
                str(port),
                "--workers",
                "1",
            ],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: fetch(f"{address}/health"), 120)
        times = []
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            started = time.monotonic()
            page.goto(f"{address}/#/experiments/1/runs")
            page.get_by_text(
                re.compile(r"^(ar|masked|uniform|esoteric|hybrid|block|gaussian)-\d{5}$")
            ).first.wait_for(timeout=120000)
            times.append(time.monotonic() - started)
            page.close()
        return {
            "list_s": statistics.median(times),
            "memory_mb": sum(memory_mb(psutil.Process(process.pid)).values()),
        }
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
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        results["memory_mb"] = {"now": memory_mb(server), "most": most}
        results["pages"] = measure_pages(browser, address, arguments.rounds)
        results["switches"] = measure_switches(browser, address, arguments.rounds)
        results["export"] = measure_export(browser, address, folder / "export.html", arguments.rounds)
        if not arguments.no_mlflow:
            results["mlflow"] = measure_mlflow(browser, store, folder)
        browser.close()
    results["report"] = measure_report(store, folder / "report")
    return results


def missed(results: dict[str, Any]) -> list[str]:
    """Floors that were missed, in words."""
    values = {
        "ready_s": results["ready_s"],
        "usable_s": max(page["usable_s"] for page in results["pages"].values()),
        "switch_ms": max(switch["shown_ms"] for switch in results["switches"].values()),
        "server_mb": sum(results["memory_mb"]["now"].get(name, 0.0) for name in ("server", "reader")),
        "export_mb": results["export"]["mb"],
        "export_usable_s": results["export"]["usable_s"],
        "report_mb": results["report"]["mb"],
    }
    return [
        f"{name}: {value:.3g}, wanted below {FLOORS[name]:g}"
        for name, value in values.items()
        if value >= FLOORS[name]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10000)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store", help="a generated store that is there already")
    parser.add_argument("--no-mlflow", action="store_true")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        import playwright  # noqa: F401
    except ImportError:
        chromium = None
    if chromium is None:
        print("dashboard: not measured, it needs Chromium and playwright (pip install -e '.[dev]')")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, chromium, Path(folder))
    path = Path("build/benchmarks/dashboard.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    problems = missed(results)
    print("\n".join(f"missed: {problem}" for problem in problems) or "every floor is reached")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
