"""Attention layouts: exactly the pairs they name, however they are computed, and kept keys change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scaling.models import CAUSAL, FULL, Cache, Doubled, Layout, Transformer, attention, build_model
from tests.scaling.toys import toy_size

VOCAB = 9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int = 0, *, causal: bool = False) -> Transformer:
    model = build_model(toy_size(), VOCAB, causal=causal, generator=generator(seed)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(seed + 1)))
    return model


def seen_by(layout: Layout, count: int) -> Tensor:
    """(queries, keys) True where a query's output depends on a key: values that mark their own place."""
    zero = torch.zeros(1, 1, count, count, dtype=torch.float64)
    marks = torch.eye(count, dtype=torch.float64)[None, None]
    return layout.attend(zero, zero, marks)[0, 0] > 0


def by_the_rules(length: int, size: int) -> Tensor:
    """BD3-LM's three-part mask, pair by pair."""
    rows = []
    for query in range(2 * length):
        row = []
        for key in range(2 * length):
            clean_q, clean_k = query >= length, key >= length
            block_q, block_k = (query % length) // size, (key % length) // size
            diagonal = block_q == block_k and clean_q == clean_k
            offset = block_q > block_k and clean_k and not clean_q
            causal = block_q >= block_k and clean_k and clean_q
            row.append(diagonal or offset or causal)
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("group", [1, 4, 64])
def test_the_doubled_layout_is_its_mask(size: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "GROUP", group)
    rules = by_the_rules(12, size)
    assert torch.equal(Doubled(size).mask(12), rules)
    assert torch.equal(seen_by(Doubled(size), 24), rules)


def test_full_and_causal() -> None:
    assert seen_by(FULL, 5).all()
    assert torch.equal(seen_by(CAUSAL, 5), torch.ones(5, 5).tril().bool())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # exact, only slow
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("both", [True, False])
def test_groups_and_flex_attention_agree_with_one_dense_call(size: int, both: bool) -> None:
    length, layout = 136, Doubled(size)
    query, key, value = (
        torch.randn(2, 2, 2 * length, 8, generator=generator(i), dtype=torch.float64) for i in range(3)
    )
    query = query if both else query[:, :, :length]
    scores = (query @ key.mT / 8**0.5).masked_fill(~layout.mask(length)[: query.shape[2]], -torch.inf)
    dense = scores.softmax(-1) @ value
    torch.testing.assert_close(layout.attend(query, key, value), dense, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        flex = layout.attend_flex(query.float(), key.float(), value.float())
    torch.testing.assert_close(flex.double(), dense, rtol=1e-4, atol=1e-5)


def test_reading_in_another_order_is_reading_the_same_text() -> None:
    """Full attention with every token's own place: the order of rows is all that changes."""
    model = network()
    ids = torch.randint(VOCAB, (2, 7), generator=generator())
    noise = torch.zeros(2)
    order = torch.stack([torch.randperm(7, generator=generator(i)) for i in range(2)])
    with torch.no_grad():
        shuffled = model(ids.gather(1, order), noise, positions=order)
        plain = model(ids, noise)
    torch.testing.assert_close(shuffled, plain.gather(1, order[..., None].expand_as(plain)))


@pytest.mark.parametrize("own_slots", [False, True])
def test_kept_keys_and_values_change_nothing(own_slots: bool) -> None:
    """Text read in pieces, causally: the same logits as in one go; what is read over leaves no trace."""
    model = network(causal=True)
    ids = torch.randint(VOCAB, (3, 9), generator=generator())
    noise = torch.zeros(3)
    with torch.no_grad():
        whole, cache, pieces = model(ids, noise), Cache(9), []
        for start, end in [(0, 4), (4, 5), (5, 9)]:
            index = torch.arange(start, min(end + 2, 9)).expand(3, -1)  # two tokens more than are kept
            slots = index if own_slots else start
            logits = model(ids[:, start : min(end + 2, 9)], noise, cache=cache, slots=slots, until=index)
            pieces.append(logits[:, : end - start])
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-10, atol=1e-12)


def test_texts_of_a_batch_may_be_at_different_places_of_a_cache() -> None:
    """The first text is read one token at a time, the second whole; what fills the gaps is seen by nobody."""
    model = network(causal=True)
    ids = torch.randint(VOCAB, (2, 4), generator=generator())
    noise = torch.zeros(2)
    with torch.no_grad():
        whole, cache = model(ids, noise), Cache(4)
        for place in range(4):
            index = torch.arange(4).expand(2, -1)
            present = torch.stack([index[0] == place, torch.full((4,), place == 0)])
            view = {"cache": cache, "slots": index.where(present, 4), "until": index.where(present, 0)}
            logits = model(ids, noise, positions=index, **view)
            torch.testing.assert_close(logits[present], whole[present], rtol=1e-10, atol=1e-12)


def test_only_wanted_outputs_leave_the_last_block() -> None:
    """The clean half lends keys and values: its outputs are not computed, the noisy ones are unchanged."""
    model = network()
    ids = torch.randint(VOCAB, (2, 8), generator=generator())
    noise = torch.zeros(2)

    class All(Doubled):
        def outputs(self, count: int) -> int:
            return count

    with torch.no_grad():
        expected, every = model.trunk(ids, noise, layout=Doubled(2)), model.trunk(ids, noise, layout=All(2))
    assert expected.shape[1] == 4
    torch.testing.assert_close(expected, every[:, :4], rtol=1e-12, atol=0)


def test_gradients_flow_through_every_layout() -> None:
    model = network()
    ids = torch.randint(VOCAB, (2, 8), generator=generator())
    for layout in (FULL, CAUSAL, Doubled(2)):
        total = model(ids, torch.zeros(2), layout=layout).square().sum()
        gradients = torch.autograd.grad(total, list(model.parameters()))
        assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
