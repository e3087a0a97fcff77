"""Runs whose labels are clusters of their own features."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling import flops
from scaling.errors import UserError
from scaling.labels import Labels
from scaling.randomness import generator_for
from scaling.training import TrainResult, train
from scaling.training.clusters import Clustering
from tests.scaling.toys import CONTEXT, ToyData, toy_spec
from tests.scaling.training.test_loop import VARIANTS, Stopper, spec_of, weights

CLUSTERS = Labels(of="clusters", classes=4)
NAMES = [name for name, (family, _) in VARIANTS.items() if family != "gaussian"]


def run(spec: Any, folder: Path, **options: Any) -> tuple[TrainResult, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    return train(spec, ToyData(), folder, log=records.append, **options), records


def losses(records: list[dict[str, Any]]) -> list[float]:
    return [r.get("loss", r.get("biased_loss")) for r in records if r["kind"] == "train"]


@pytest.mark.parametrize("name", NAMES)
def test_while_clusters_form_the_run_is_one_of_text_alone(name: str, tmp_path: Path) -> None:
    """The first loss is equal to the bit; the head's gradient reaches no other weight."""
    plain = losses(run(spec_of(name), tmp_path / "plain")[1])
    clustered, records = run(spec_of(name, labels=CLUSTERS), tmp_path / "clustered")
    assert losses(records)[0] == plain[0]
    assert clustered.label_leak is not None
    assert clustered.label_cost is not None
    assert 0 <= clustered.label_cost <= math.log(4) / CONTEXT + 1e-12


@pytest.mark.parametrize("name", ["ar", "masked", "uniform", "esoteric-half", "block"])
@pytest.mark.parametrize("stop", [4, 13])
def test_resumed_before_and_after_the_teacher_it_is_the_same_run(
    name: str, stop: int, tmp_path: Path
) -> None:
    spec, often = spec_of(name, labels=CLUSTERS), {"checkpoint_every_s": 0.0}
    whole, _ = run(spec, tmp_path / "whole", **often)
    run(spec, tmp_path / "one", should_stop=Stopper(stop))
    parts, _ = run(spec, tmp_path / "two", resume_from=[tmp_path / "one"], **often)
    assert (parts.bound, parts.loss_with_label) == (whole.bound, whole.loss_with_label)
    torch.testing.assert_close(
        weights(spec, tmp_path / "two"), weights(spec, tmp_path / "whole"), rtol=0, atol=0
    )
    cut, _ = run(spec, tmp_path / "cut", micro_batch_size=3)
    assert cut.bound == pytest.approx(whole.bound, abs=1e-4)


def test_the_cluster_loss_has_no_gradient_in_the_network() -> None:
    spec = toy_spec(labels=CLUSTERS)
    family = spec.build_family()
    model = family.build_model(spec.size, generator_for(0, "x"))
    clustering = Clustering(spec, family, model, 8)
    x0 = torch.from_numpy(ToyData().train_batch(0, 8, CONTEXT, 0))
    loss = clustering.loss(x0, 0)
    assert loss is not None
    for name, parameter in model.named_parameters():
        (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)
        assert (gradient is not None and float(gradient.abs().max()) > 0) == name.startswith("clusters."), (
            name
        )


def test_labels_begin_when_the_teacher_does_and_stay() -> None:
    spec = toy_spec(labels=CLUSTERS)
    family = spec.build_family()
    model = family.build_model(spec.size, generator_for(0, "x"))
    clustering = Clustering(spec, family, model, 8)
    x0 = torch.from_numpy(ToyData().train_batch(0, 8, CONTEXT, 0))
    assert clustering.start == spec.steps // 2
    assert clustering.training_labels(x0, clustering.start - 1) is None
    clustering.begin(clustering.start)
    before = clustering.labels(x0, 1)
    assert clustering.loss(x0, clustering.start) is None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(clustering.labels(x0, 1), before)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_flops_are_counted(name: str) -> None:
    spec, plain = spec_of(name, labels=CLUSTERS), spec_of(name)
    model = spec.build_family().build_model(spec.size, generator_for(0, "x"))
    assert sum(p.numel() for p in model.parameters()) == spec.param_count()
    size, work = spec.size, spec.work
    per_sequence = (spec.training_flops() - plain.training_flops()) / spec.sequences
    head = 2 * size.hidden * (2 * size.hidden + 4)
    assert per_sequence == pytest.approx(flops.feature_flops(size, CONTEXT, work) + 2 * head)
    # half of the blocks of a pass, and all of its conditioning
    parts = flops.flops_by_part(size, spec.vocab_size, CONTEXT, work)
    if work.outputs == work.inputs and work.last_pairs == work.pairs:
        half = (parts.blocks + parts.attention) / 2 + parts.conditioning
        assert flops.feature_flops(size, CONTEXT, work) == pytest.approx(half)


def test_gaussian_has_no_features_for_clusters() -> None:
    with pytest.raises(UserError, match="has no labels of clusters"):
        toy_spec("gaussian", labels=CLUSTERS)
