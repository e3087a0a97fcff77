"""Measuring samplers: what is counted, which texts come back, and batches that memory is too short for."""

from __future__ import annotations

import pytest
import torch

from scaling.errors import UserError
from scaling.sampling import generate, speed
from scaling.sampling.speed import measure_speed, text_seeds
from tests.scaling.sampling.test_loop import LENGTH, family_and_model


def test_numbers_belong_together_and_texts_are_those_of_their_seeds():
    family, model = family_and_model("masked")
    got, texts = measure_speed(model, family, LENGTH, batch=4, repeats=3, seed=5, steps=6)
    assert (got.batch, got.lowered, got.device) == (4, "", "cpu")
    assert 0 < got.tokens_per_s_low <= got.tokens_per_s <= got.tokens_per_s_high
    assert got.latency_s > 0
    assert 0 < got.outside_share < 1
    assert got.peak_memory_bytes > 10_000_000
    assert len(texts) == 12
    alone = generate(model, family, text_seeds(5, 1, first=7), LENGTH, steps=6)
    assert torch.equal(texts[7], alone.ids[0])
    assert not set(text_seeds(5, 100)) & set(text_seeds(6, 100))


def test_calls_and_tokens_are_those_of_one_batch():
    family, model = family_and_model("ar")
    got, _ = measure_speed(model, family, LENGTH, batch=3, repeats=2)
    assert got.calls == LENGTH
    assert got.tokens_passed == 3 * LENGTH
    family, model = family_and_model("uniform")
    got, _ = measure_speed(model, family, LENGTH, batch=3, repeats=2, latency_repeats=1, steps=5)
    assert (got.calls, got.tokens_passed) == (5, 5 * 3 * LENGTH)


def short_of_memory(monkeypatch, largest: int, error: BaseException) -> list[int]:
    """`generate` fails beyond so many texts; the batches that were tried."""
    tried: list[int] = []

    def limited(model, family, seeds, *arguments, **options):
        tried.append(len(seeds))
        if len(seeds) > largest:
            raise error
        return generate(model, family, seeds, *arguments, **options)

    monkeypatch.setattr(speed, "generate", limited)
    return tried


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9 GB")]
)
@pytest.mark.parametrize(("goal", "batch"), [(None, 4), (16, 4), (6, 6), (1, 1)])
def test_a_batch_is_lowered_if_there_is_no_memory_for_it(monkeypatch, error, goal, batch):
    tried = short_of_memory(monkeypatch, 6 if goal == 6 else 5, error)
    family, model = family_and_model("ar")
    got, texts = measure_speed(model, family, LENGTH, batch=goal, repeats=1)
    assert got.batch == batch
    assert len(texts) == batch
    lowered = f"batch 4 instead of {goal or 64}: there is no memory for more"
    assert got.lowered == (lowered if batch == 4 else "")
    assert max(tried) <= 16


def test_a_batch_that_would_not_fit_is_not_tried(monkeypatch):
    tried = short_of_memory(monkeypatch, 64, ValueError())
    monkeypatch.setattr(speed, "_in_use", lambda device: 0)
    monkeypatch.setattr(speed, "_peak", lambda device: tried[-1] * 10**9)
    monkeypatch.setattr(speed, "_free", lambda device: 12 * 10**9)
    family, model = family_and_model("ar")
    got, _ = measure_speed(model, family, LENGTH, repeats=1)
    assert got.lowered == "batch 8 instead of 64: 16 would take about 16.0 GB, 12.0 GB are free"
    assert max(tried) == 8


def test_a_text_too_large_alone_is_refused_and_other_errors_are_not_hidden(monkeypatch):
    family, model = family_and_model("ar")
    short_of_memory(monkeypatch, 0, MemoryError())
    with pytest.raises(UserError, match="not even one text fits into the memory of cpu"):
        measure_speed(model, family, LENGTH)
    short_of_memory(monkeypatch, 0, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        measure_speed(model, family, LENGTH)
    monkeypatch.setattr(speed, "generate", generate)
    with pytest.raises(UserError, match="no sampler 'nix'"):
        measure_speed(model, family, LENGTH, sampler="nix")


def test_the_peak_is_that_since_it_was_reset():
    device = torch.device("cpu")
    speed._reset_peak(device)
    before = speed._peak(device)
    block = torch.ones(50_000_000)
    assert speed._peak(device) - before > 150_000_000
    del block
    speed._reset_peak(device)
    assert speed._peak(device) - before < 100_000_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured_in_its_own_memory():
    family, model = family_and_model("masked")
    got, texts = measure_speed(
        model.float().cuda(), family, LENGTH, batch=4, repeats=2, device="cuda", steps=6
    )
    assert got.device == torch.cuda.get_device_name()
    assert 0 < got.peak_memory_bytes < 10**9
    assert texts[0].device.type == "cpu"
