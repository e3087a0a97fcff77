"""Whatever breaks, a sweep ends as if nothing had: the same losses to the bit, each step recorded once."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sweeps.attempt.journal import merged, run_folder
from sweeps.config.load import SHIPPED
from sweeps.ledger.ledger import Ledger
from tests.chaos.scene import FAULTS, Scene, Server, fragile_disk, steps_recorded, table
from tests.sweeps.tiny import tiny_data

TOY = Path(__file__).parents[1] / "sweeps" / "toy_sweep.py"
LOCAL_FAULTS = (
    *("worker_killed", "recorder_killed", "second_driver", "disk_full", "checkpoint_truncated"),
    "driver_killed",
)
SEEDS = range(5)
FAULTS_PER_SEED = 12
STRIKE_WITHIN_S = 180.0
"""A loaded machine takes its time until there is a driver, a recorder, a checkpoint to hit."""
FAMILY = "uniform"


def clean_environment() -> dict[str, str]:
    """Without what would send a sweep elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != "MLFLOW_TRACKING_URI" and not name.startswith("RAY_")
    }


def assert_as_undisturbed(scene: Scene, undisturbed: dict[str, tuple], database: Path) -> None:
    """Every run finished with the same losses, every step recorded once, with its journal's value."""
    outcomes = table(scene.sweep_folder)
    assert {row[0] for row in outcomes.values()} == {"finished"}, outcomes
    assert outcomes == undisturbed
    recorded = steps_recorded(database)
    with Ledger(scene.sweep_folder / "ledger") as ledger:
        for run in ledger.runs():
            story = merged(run_folder(scene.sweep_folder, run.family, run.key))
            curve = [(r.step, r.loss) for r in story if r.kind == "train"]
            assert recorded[run.key] == curve
            assert len({step for step, _ in curve}) == len(curve)


def batter(scene: Scene, faults: list[str], pause_s: tuple[float, float], runs: int) -> None:
    """Let the faults happen one after another, each as soon as there is something to hit.

    Of the sweep's `runs`, only as many finish meanwhile as befits the faults so far: at the last fault some
    are still to come, on a fast machine too.
    """
    for number, kind in enumerate(faults):
        scene.allow(number * (runs - 1) // len(faults))
        if not scene.drivers:
            scene.start_driver()
        time.sleep(scene.random.uniform(*pause_s))
        end = time.monotonic() + STRIKE_WITHIN_S
        while not scene.strike(kind):
            assert time.monotonic() < end, f"nothing to hit for {kind}: {scene.breaks}; {scene.said()}"
            if not scene.alive():
                scene.restart_refused()
            time.sleep(0.2)


def toy_scene(folder: Path, data: Path, rng: random.Random) -> Scene:
    command = [sys.executable, str(TOY), str(data), str(folder / "out"), "local", "4", "400"]
    return Scene(folder=folder, sweep="toy", command=command, environment=clean_environment(), random=rng)


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny_data(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed_toy(tmp_path_factory, toy_data):
    scene = toy_scene(tmp_path_factory.mktemp("undisturbed"), toy_data, random.Random(0))
    scene.start_driver()
    scene.finish()
    return table(scene.sweep_folder)


def test_one_fault_of_each_kind_leaves_no_trace(tmp_path, toy_data, undisturbed_toy):
    """The short form: plain processes, SQLite, a fault of each kind that needs no cluster and no server."""
    scene = toy_scene(tmp_path, toy_data, random.Random(11))
    batter(scene, list(LOCAL_FAULTS), (0.2, 0.8), len(undisturbed_toy))
    scene.finish()
    assert_as_undisturbed(scene, undisturbed_toy, tmp_path / "out" / "mlflow.db")
    assert [kind for kind, _ in scene.breaks] == list(LOCAL_FAULTS)


# -- the long form ------------------------------------------------------------------------------


def sweep_command(folder: Path, *more: str) -> list[str]:
    """A driver of a shipped sweep whose runs save often, so that there is a checkpoint to spoil."""
    name = os.environ.get("CHAOS_SWEEP", "smoke")
    config = folder / "chaos.yaml"
    text = (SHIPPED / f"{name}.yaml").read_text().replace(f"\nname: {name}\n", "\nname: chaos\n")
    config.write_text(text + "training: {checkpoint_every_s: 0.25}\n")
    words = ["-m", "sweeps.cli", "sweep", "--config", str(config), "--family", FAMILY]
    return [sys.executable, *words, "--out", str(folder / "out"), "--bootstrap", "20", *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The sweep without any fault, on this machine's own Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    scene = Scene(
        folder=folder,
        sweep="chaos",
        command=sweep_command(folder),
        environment=clean_environment(),
        random=random.Random(0),
    )
    scene.start_driver()
    scene.finish()
    return table(scene.sweep_folder)


@pytest.fixture
def scene(tmp_path, request):
    """A sweep on two Ray nodes that records on a server; both can be broken."""
    from tests.chaos.cluster import FragileNodes

    seed = request.param
    cluster = FragileNodes(fragile_disk(tmp_path), seed)
    server = Server(tmp_path)
    server.start()
    made = Scene(
        folder=tmp_path,
        sweep="chaos",
        command=sweep_command(tmp_path, "--address", cluster.address, "--store", server.uri),
        environment={**cluster.environment, **clean_environment()},
        random=random.Random(seed),
        server=server,
        cluster=cluster,
    )
    yield made
    for driver in made.alive():
        driver.kill()
    server.close()
    cluster.close()


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("scene", SEEDS, indirect=True)
def test_a_sweep_on_two_nodes_survives_whatever_happens(scene, undisturbed):
    faults = list(FAULTS) + scene.random.choices(FAULTS, k=FAULTS_PER_SEED - len(FAULTS))
    scene.random.shuffle(faults)
    batter(scene, faults, (0.5, 3.0), len(undisturbed))
    struck = Counter(kind for kind, _ in scene.breaks)
    scene.finish()
    if report := os.environ.get("CHAOS_REPORT"):
        with open(report, "a") as file:
            file.write(json.dumps({"faults": struck, "drivers": len(scene.drivers)}) + "\n")
    assert [kind for kind, _ in scene.breaks] == faults
    assert_as_undisturbed(scene, undisturbed, scene.folder / "mlflow.db")
