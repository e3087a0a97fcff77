"""The yardstick measures what it says: the textbook and the project compute the same loss and gradient."""

from __future__ import annotations

import pytest
import torch

from benchmarks.steps import SHAPES, Shape, predicted_ids, project_step, textbook_step
from benchmarks.textbook import LOSSES, Textbook, TextbookBlock
from scaling.families import get_family
from scaling.families.base import Family, Noised
from scaling.ladder import Size
from scaling.models import Transformer, build_model
from scaling.models.transformer import Block, interleave_heads

SMALL = Shape(
    name="small",
    size=Size(name="small", hidden=16, num_layers=2, num_heads=2, cond_dim=8, time_features=8),
    context_length=12,
    vocab_size=11,
    batch_size=3,
)


def corrupted(family: Family, x0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t from the global generator, with the draws in the order in which the textbook makes them."""
    if hasattr(family, "shift"):
        return family.corrupt(x0, t, torch.Generator())
    uniforms = torch.rand(x0.shape)
    if hasattr(family, "mask_where"):
        return family.mask_where(x0, uniforms, t)
    return family.replace_where(x0, uniforms, torch.randint(family.vocab_size, x0.shape), t)


@torch.no_grad()
def copy_weights(source: Textbook, target: Transformer) -> None:
    """Give `target` the weights of `source`, so that both compute the same function.

    Rows of ids that the textbook's head lacks keep what they have.
    """
    size = target.size
    target.embedding.copy_(source.embedding.weight)
    target.time_in.load_state_dict(source.time[0].state_dict())
    target.time_out.load_state_dict(source.time[2].state_dict())
    for name in ("weight", "bias"):
        rows = [source.get_parameter(f"blocks.{i}.modulation.{name}") for i in range(size.num_layers)]
        getattr(target.modulation, name).copy_(torch.cat([*rows, getattr(source.modulation, name)]))
    for ours, theirs in zip(target.blocks, source.blocks, strict=True):
        assert isinstance(ours, Block), "the project's network holds blocks"
        assert isinstance(theirs, TextbookBlock), "so does the textbook's"
        query, key, value = theirs.qkv.weight.chunk(3)
        heads = [interleave_heads(rows, size.num_heads) for rows in (query, key)]
        ours.qkv.weight.copy_(torch.cat([*heads, value]))
        ours.norm_attention.copy_(theirs.norm1.weight)
        ours.norm_mlp.copy_(theirs.norm2.weight)
        for own, other in ((ours.out, theirs.out), (ours.up, theirs.mlp[0]), (ours.down, theirs.mlp[2])):
            own.load_state_dict(other.state_dict())
    target.norm_final.copy_(source.norm.weight)
    target.head.weight[: len(source.head.weight)].copy_(source.head.weight)
    target.head.bias[: len(source.head.bias)].copy_(source.head.bias)


@pytest.mark.parametrize("name", LOSSES)
def test_same_weights_same_noise_same_loss_and_gradient(name: str) -> None:
    torch.manual_seed(0)
    family = get_family(name, vocab_size=SMALL.vocab_size)
    num_ids = predicted_ids(name, SMALL)
    theirs = Textbook(SMALL.size, SMALL.vocab_size, num_ids, SMALL.context_length, causal=family.causal)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = build_model(SMALL.size, SMALL.vocab_size, causal=family.causal, generator=torch.Generator())
    copy_weights(theirs, ours)
    x0 = torch.randint(num_ids, (SMALL.batch_size, SMALL.context_length))
    t = torch.tensor([0.2, 0.5, 0.9])

    torch.manual_seed(1)
    loss = LOSSES[name](theirs, x0, SMALL.vocab_size, t)
    torch.manual_seed(1)
    xt = corrupted(family, x0, t)
    total, positions = family.training_loss(ours, Noised(x0, xt, t)), x0.numel()

    loss.backward()
    (total / positions).backward()
    # float32 sums in another order; the uniform bound cancels a few digits
    torch.testing.assert_close(total / positions, loss, rtol=2e-5, atol=0)
    assert theirs.embedding.weight.grad is not None
    torch.testing.assert_close(ours.embedding.grad, theirs.embedding.weight.grad, rtol=1e-3, atol=1e-6)
    assert ours.head.weight.grad is not None
    torch.testing.assert_close(ours.head.weight.grad[:num_ids], theirs.head.weight.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_both_programs_take_steps_on_the_same_kind_of_text(name: str) -> None:
    torch.manual_seed(0)
    means = []
    for build in (project_step, textbook_step):
        step = build(name, SMALL, "cpu", "float32")
        means.append(sum(step() for _ in range(40)) / 40)
    # random ids of a small alphabet, weights near zero: equal but for the noise of 40 small batches
    assert means[0] == pytest.approx(means[1], rel=0.2)


def test_the_shapes_are_those_of_the_targets() -> None:
    counts = {name: (shape.tokens, shape.size.hidden, shape.vocab_size) for name, shape in SHAPES.items()}
    assert counts == {"A": (4096, 64, 256), "B": (2048, 256, 4096), "C": (1024, 256, 32001)}
