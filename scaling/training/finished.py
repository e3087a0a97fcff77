"""A finished run's network, for sampling, judging and distillation.

A run keeps its last checkpoint when it has finished, unless its sweep's config says
`training.keep_weights: false`. It stands in a folder of the run, one for each attempt, beside `spec.json`:
OUT/SWEEP/FAMILY/runs/KEY/spec.json and .../KEY/attempt-001/checkpoint-0000001000.pt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from scaling.errors import UserError
from scaling.families.base import Family
from scaling.models import Transformer
from scaling.randomness import generator_for
from scaling.spec import RunSpec
from scaling.training.checkpoint import CHECKPOINTS, checkpoint_name, newest_checkpoint
from scaling.training.optimizer import flatten

SPEC = "spec.json"


class FinishedRun(NamedTuple):
    """What `load_run` returns."""

    spec: RunSpec
    family: Family
    model: Transformer


def load_run(
    folder: Path,
    *,
    spec: RunSpec | None = None,
    average: bool = True,
    replica: int = 0,
    device: torch.device | str = "cpu",
) -> FinishedRun:
    """The finished run in `folder` as (spec, family, model), ready for `scaling.sampling.generate`.

    folder: of the run (with `spec.json` and a folder for each attempt), or of one of its attempts, or the one
    that `train` wrote its checkpoints to; then `spec` has to be given, for `train` writes none. average: the
    moving average of the weights where the run has one, else the last weights. replica: which, of a run that
    trained several networks; the spec returned is that of this one alone.

    UserError if there is no run, if it has not finished, or if its checkpoint is not there or damaged.
    """
    folder = Path(folder)
    if spec is None:
        spec = read_spec(folder)
    state, damaged = newest_checkpoint(_attempts(folder), spec.key)
    name = f"run {spec.key} ({spec.family} {spec.size.name})"
    if state is None:
        cause = f"{damaged[0]}" if damaged else (
            f"{folder} has no checkpoint of it: it has not finished, it was trained with "
            "training.keep_weights: false, or its files are in a storage (docs/storage.md: how to fetch them)"
        )  # fmt: skip
        raise UserError(f"{name} cannot be loaded: {cause}")
    if state["step"] < spec.steps:
        raise UserError(
            f"{name} has not finished: its furthest checkpoint is of step {state['step']} of {spec.steps}"
        )
    if not 0 <= replica < spec.replicas:
        raise UserError(f"{name} has {spec.replicas} replicas, from 0; there is no replica {replica}")
    weights = state.get("average", state["parameters"]) if average else state["parameters"]
    if spec.replicas > 1:
        weights, spec = weights[replica], spec.alone(replica)
    family = spec.build_family()
    model = family.build_model(spec.size, generator_for(spec.seed, "initial weights"))
    with torch.no_grad():
        flatten(model).copy_(weights)
    return FinishedRun(spec, family, model.to(device))


def has_weights(folder: Path) -> bool:
    """Whether the run in `folder` (see `load_run`) has left the checkpoint of its last step there."""
    try:
        last = checkpoint_name(read_spec(folder).steps)
    except UserError:
        return False
    return any(path.name >= last for place in _attempts(folder) for path in place.glob(CHECKPOINTS))


def read_spec(folder: Path) -> RunSpec:
    """The spec of the run in `folder`, or in the folder around it; UserError if there is none."""
    for place in (folder, folder.parent):
        try:
            return RunSpec.from_dict(json.loads((place / SPEC).read_text()))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise UserError(f"{place / SPEC} cannot be read as the spec of a run: {error}") from None
    raise UserError(
        f"{folder} is no folder of a run: it has no {SPEC} (of a sweep with a storage it is there)"
    )


def _attempts(folder: Path) -> list[Path]:
    """Folders that may hold checkpoints, the latest attempt first."""
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return [*sorted(inside, reverse=True), folder]
