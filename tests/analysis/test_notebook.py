"""The notebooks run from a clean kernel, with and without a sweep of one's own, and hold no outputs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from analysis.table.columns import to_mlflow

NOTEBOOKS = Path(__file__).parents[2] / "analysis" / "notebooks"
FAMILIES = {"ar": 1.2, "uniform": 1.5}

# Executed by a process of its own: Jupyter's libraries warn, and warnings are errors here.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, "executed.ipynb")
"""


def execute(name: str, folder: Path) -> Any:
    """The notebook, executed in `folder` by this very interpreter, whatever kernels the user has."""
    clean = {"JUPYTER_PREFER_ENV_PATH": "1", "IPYTHONDIR": str(folder / "ipython"), "OMP_NUM_THREADS": "1"}
    clean |= {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("DATA", "CONFIG", "RUNTIME")}
    command = [sys.executable, "-c", EXECUTE, str(NOTEBOOKS / name)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | clean, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return nbformat.read(folder / "executed.ipynb", as_version=4)


def texts_of(notebook: Any) -> str:
    """Everything printed or shown as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(
        str(output.get("text") or output.get("data", {}).get("text/plain")) for output in outputs
    )


def titles_of(notebook: Any) -> list[str]:
    """Titles of the Plotly figures shown, in order."""
    kind = "application/vnd.plotly.v1+json"
    outputs = [
        output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output
    ]
    return [data[kind]["layout"]["title"]["text"] for data in outputs if kind in data]


PUBLISHED = [
    "IsoFLOP curves",
    "Residuals of the loss surface",
    "Compute-optimal frontier",
    "Rollout: more expensive runs predicted",
]


def plant_desk_sweep(folder: Path) -> None:
    """runs/mlflow.db with 3 budgets x 4 sizes of two families on known surfaces, one run diverged."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    (folder / "runs").mkdir()
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.create_experiment("desk", artifact_location=str(folder / "runs"))
    generator = np.random.default_rng(0)
    for family, floor in FAMILIES.items():
        for budget in (1e11, 5e11, 2.5e12):
            for step in (-3, -1.5, 0, 1.5):
                params = 1e4 * (budget / 1e11) ** 0.5 * 2.0**step
                tokens = budget / (6 * params)
                loss = floor + 300 * params**-0.6 + 300 * tokens**-0.5 + generator.normal(0, 0.002)
                row = {
                    "sweep": "desk",
                    "family": family,
                    "key": f"{family}{budget:.0e}{step}",
                    "budget": budget,
                    "flops": budget,
                    "params": params,
                    "tokens": tokens,
                    "loss": loss,
                    "status": "finished",
                }
                params_of, tags, metrics = to_mlflow(row)
                run = client.create_run(experiment).info.run_id
                client.log_batch(
                    run,
                    [Metric(*pair, 0, 0) for pair in metrics.items()],
                    [Param(*pair) for pair in params_of.items()],
                    [RunTag(*pair) for pair in tags.items()],
                )
    last = client.search_runs([experiment], max_results=1)[0]
    client.set_tag(last.info.run_id, "scaling.status", "diverged")


@pytest.mark.filterwarnings("ignore::Warning:(mlflow|alembic|sqlalchemy|pydantic|google).*")
def test_runs_on_published_tables_and_on_a_desk_sweep(tmp_path: Path) -> None:
    plant_desk_sweep(tmp_path)
    notebook = execute("fit_laws.ipynb", tmp_path)
    assert titles_of(notebook) == [*PUBLISHED, "IsoFLOP curves", "Compute-optimal frontier"]
    assert "diverged" in texts_of(notebook)
    teaches(notebook)


@pytest.mark.slow
def test_runs_where_there_is_no_sweep_yet(tmp_path: Path) -> None:
    notebook = execute("fit_laws.ipynb", tmp_path)
    assert titles_of(notebook) == PUBLISHED
    assert "run `make sweep FAMILY=uniform`" in texts_of(notebook)


def teaches(notebook: Any) -> None:
    """What the text of fit_laws.ipynb says of its numbers is what they are."""
    texts = texts_of(notebook)
    assert "surface law: 29 runs" in texts
    # a file with other names is read with the columns that the error proposes
    assert 'columns={"N": "params", "D": "tokens", "val_loss": "loss", "C": "flops"} names them' in texts
    by_hand = re.search(r"by hand ([\d.e-]+), the law says ([\d.e-]+)", texts)
    assert by_hand is not None
    assert by_hand[1] == by_hand[2], "the objective"
    with_cost = re.search(r"with the cost of a token ([\d.]+)\nthe law says ([\d.]+)", texts)
    assert with_cost is not None
    assert with_cost[1] == with_cost[2], "the exponent from alpha and beta"
    bad_run = {words[0]: list(map(float, words[-4:])) for words in map(str.split, texts.splitlines())
               if words and words[0] in ("0.001,", "10,")}  # fmt: skip
    assert bad_run["0.001,"][0] == bad_run["0.001,"][1], "a bad run does not move the robust fit"
    assert abs(bad_run["10,"][0] - bad_run["10,"][1]) > 0.01, "and moves least squares"
    assert "the loss has no interval beyond the budgets" in texts
    assert "verdict: the exponent of N*" in texts
    assert "least size_error: isoflop" in texts


@pytest.mark.filterwarnings("ignore::Warning:(mlflow|alembic|sqlalchemy|pydantic|google).*")
def test_families_are_compared_on_a_published_table_and_on_a_desk_sweep(tmp_path: Path) -> None:
    plant_desk_sweep(tmp_path)
    notebook = execute("compare_families.ipynb", tmp_path)
    multipliers, frontier = "Compute multipliers over ar", "Compute-optimal frontier"
    assert titles_of(notebook) == [
        "What 1.0e20 FLOPs buy",
        *[multipliers, multipliers, multipliers, frontier],
        *[multipliers, frontier],
    ]
    texts = texts_of(notebook)
    assert "For 1.0e20 FLOPs train ar: " in texts
    assert "Best other family: masked or uniform. The surface prefers uniform" in texts
    assert "These runs cannot answer 1.0e23 FLOPs" in texts
    assert "For 2.5e13 FLOPs train ar: " in texts  # of the planted sweep
    assert "without 1e+20" in texts
    assert "compute over ar at equal loss" in texts  # of the planted sweep, printed


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_is_kept_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)
