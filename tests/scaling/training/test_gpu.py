"""The same core on a GPU: same losses from the same inputs, runs that resume, samplers that stay there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.families import FAMILIES
from scaling.training import RunStatus, train
from tests.scaling.toys import ToyData, toy_spec

pytestmark = pytest.mark.gpu

NAMES = sorted(FAMILIES)
OPTIONS = {"block": {"block_size": 3}}
"""What a family needs to fit the toy's context of 6."""


@pytest.mark.parametrize("name", NAMES)
def test_losses_agree_with_the_cpu(name: str) -> None:
    spec = toy_spec(name, family_options=OPTIONS.get(name, {}))
    family, generator = spec.build_family(), torch.Generator().manual_seed(0)
    model = family.build_model(spec.size, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    x0 = torch.randint(7, (5, 6), generator=generator)
    batch = family.training_batch(x0, generator, 0.0)
    values = []
    for device in ("cpu", "cuda"):
        model, there = model.to(device), batch.to(device)
        values.append(float(family.training_loss(model, there).detach()))
    assert values[1] == pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_trains_and_resumes(name: str, precision: str, tmp_path: Path) -> None:
    """Atomic additions in backward passes round differently from run to run: equal to 1%, not to the bit."""
    spec = toy_spec(
        name, family_options=OPTIONS.get(name, {}), precision=precision, optimizer={"learning_rate": 1e-2}
    )

    def run(folder: str, **options: Any) -> Any:
        return train(spec, ToyData(), tmp_path / folder, log=lambda r: None, device="cuda", **options)

    whole = run("a")
    polls = iter([None] * 8 + ["asked to"])
    stopped = run("b", should_stop=lambda: next(polls, None))
    assert (stopped.status, stopped.steps_done) == (RunStatus.PREEMPTED, 9)
    resumed = run("c", resume_from=[tmp_path / "b"])
    assert resumed.status is RunStatus.FINISHED
    assert resumed.bound == pytest.approx(whole.bound, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_samples_stay_on_the_device(name: str) -> None:
    spec = toy_spec(name, family_options=OPTIONS.get(name, {}))
    family = spec.build_family()
    generator = torch.Generator().manual_seed(0)
    model = family.build_model(spec.size, generator).cuda()
    with torch.no_grad():
        ids = family.sample(model, (3, 6), 6, torch.Generator("cuda").manual_seed(0))
    assert ids.device.type == "cuda"
    assert ids.shape == (3, 6)
    assert int(ids.max()) < 7
