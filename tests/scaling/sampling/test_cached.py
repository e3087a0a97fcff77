"""Samplers with a cache: the same texts as without, what they cost, prompts, lengths and ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.models import FULL, Cache, Doubled, Transformer
from scaling.sampling import FREE, Filters, Texts, generate
from scaling.sampling.any_order import block_autoregressive_rank
from scaling.sampling.blocks import Ending, Reading, entropy_of, text_ends
from scaling.sampling.guidance import Guidance
from scaling.sampling.reader import Reader
from tests.scaling.sampling.test_guidance import labelled
from tests.scaling.sampling.test_loop import LENGTH, VOCAB, family_and_model

SEEDS = [3, 4, 5]


def ways() -> Iterator[Any]:
    """(family, its options, sampler, what it is called with): one and several tokens a call."""
    yield pytest.param("ar", {}, None, {"steps": LENGTH}, id="ar")
    for steps in (1, 3, LENGTH, 50):
        for alpha_0 in (1.0, 0.5, 0.0):
            name = f"esoteric-{alpha_0:g}-{steps}"
            yield pytest.param("esoteric", {"alpha_0": alpha_0}, "any_order", {"steps": steps}, id=name)
    for size in (1, 5, LENGTH):
        yield pytest.param("esoteric", {}, "block", {"steps": size}, id=f"esoteric-block-{size}")
    for sub_context, together in ((3, 2), (4, 3), (5, 2), (1, 1)):
        about = {"sub_context": sub_context, "together": together}
        name = f"esoteric-block_autoregressive-{sub_context}-{together}"
        yield pytest.param("esoteric", {}, "block_autoregressive", about, id=name)
    for size, steps in ((4, 4), (4, 2), (4, 1), (3, 2), (5, 5), (1, 1), (LENGTH, 5), (20, 7)):
        for first_hitting in (True, False):
            about = {"steps": steps, "first_hitting": first_hitting}
            name = f"block-{size}-{steps}" + "-first_hitting" * first_hitting
            yield pytest.param("block", {"block_size": size}, None, about, id=name)
    for size, least in ((4, 0.0), (4, 0.45), (5, 0.45), (4, 2.0)):
        about = {"threshold": least}
        name = f"block-threshold-{size}-{least:g}"
        yield pytest.param("block", {"block_size": size}, "threshold", about, id=name)


@pytest.mark.parametrize(("name", "options", "sampler", "about"), list(ways()))
@pytest.mark.parametrize("seeds", [SEEDS, SEEDS[:1]], ids=["batch", "alone"])
def test_a_cache_changes_no_id(name, options, sampler, about, seeds):
    family, model = family_and_model(name, **options)
    kept, anew = (
        generate(model, family, seeds, LENGTH, sampler=sampler, cache=cache, **about)
        for cache in (True, False)
    )
    assert torch.equal(kept.ids, anew.ids)
    assert not bool((kept.ids == family.mask_id).any())
    assert kept.calls == anew.calls
    assert kept.tokens <= anew.tokens
    again = generate(model, family, seeds, LENGTH, sampler=sampler, **about)
    assert torch.equal(kept.ids, again.ids)
    assert (again.calls, again.tokens) == (kept.calls, kept.tokens)


def test_texts_of_these_samplers_differ_so_that_equal_ones_say_something():
    for name in ("ar", "esoteric", "block"):
        family, model = family_and_model(name)
        texts = generate(model, family, range(20), LENGTH, steps=family.sampling_steps(LENGTH))
        assert len(texts.ids.unique(dim=0)) == 20
        assert len(texts.ids.unique()) == VOCAB - 1


def through_cache(model: Transformer, ids: Tensor, cache: Cache) -> Tensor:
    """Logits of a causal network, three tokens a pass, a fourth read ahead and read over."""
    noise, out = torch.zeros(len(ids)), []
    for start in range(0, ids.shape[1], 3):
        end = min(start + 4, ids.shape[1])
        until = torch.arange(start, end)
        logits = model(ids[:, start:end], noise, cache=cache, slots=start, until=until)
        out.append(logits[:, :3])
    return torch.cat(out, dim=1)


def test_a_second_use_of_a_cache_sees_nothing_of_the_first():
    """By another text, and by a batch of another size."""
    model = family_and_model("ar")[1]
    cache = Cache(LENGTH)
    for seed, count in ((0, 3), (1, 3), (2, 1), (3, 2)):
        ids = torch.randint(VOCAB, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            torch.testing.assert_close(
                through_cache(model, ids, cache), model(ids, torch.zeros(count)), rtol=0, atol=1e-10
            )


class Logits(Reader):
    """Logits in place of distributions."""

    def __call__(self, ids: Tensor, t: Any = 0.0, where: Any = None, **view: Any) -> Tensor:
        return self.logits(ids, t, where, **view)


def test_blocks_behind_a_cache_are_read_as_in_training():
    """By the two copies of the training layout, to 1e-10, whatever masks the block has and however often it
    is read; the last block included."""
    family, model = family_and_model("block", block_size=3)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(VOCAB - 1, (2, LENGTH), generator=generator)
    ids = clean.clone()
    read = Reading(Logits(model, family), ids, family, cache=True)
    rows, columns = torch.ones(2, 3).nonzero(as_tuple=True)
    with torch.no_grad():
        for start in range(0, LENGTH, 3):
            own = slice(start, start + 3)
            for _ in range(2):
                masked = torch.rand(2, 3, generator=generator) < 0.5
                ids[:, own] = torch.where(masked, family.mask_id, clean[:, own])
                both = torch.cat([ids, clean], dim=1)
                expected = model(both, torch.zeros(2), layout=Doubled(3))[:, own].flatten(0, 1)
                torch.testing.assert_close(read(start, rows, columns), expected, rtol=0, atol=1e-10)
            ids[:, own] = clean[:, own]


def test_constant_modulation_is_what_the_network_makes_of_no_noise():
    for name in ("ar", "masked", "block", "esoteric"):
        family, model = family_and_model(name)
        ids = torch.randint(VOCAB, (3, LENGTH))
        with torch.no_grad():
            expected = model(ids, family.conditioning(torch.rand(3)), layout=FULL).flatten(0, 1)
            got = Reader(model, family).logits(ids, 0.3, layout=FULL)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


# -- what they cost --------------------------------------------------------------------------------


def cost(name: str, length: int, count: int = 2, **about: Any) -> tuple[int, float]:
    """Calls, and tokens of a text; the prompts, if any, are the same in all texts."""
    options = about.pop("options", {})
    family, model = family_and_model(name, **options)
    texts = generate(model, family, range(count), length, **about)
    assert texts.tokens % count == 0
    return texts.calls, texts.tokens / count


def test_ar_reads_each_token_once_or_all_of_them_for_each():
    assert cost("ar", 12) == (12, 12)
    assert cost("ar", 12, cache=False) == (12, 12 * 13 / 2)  # L^2 / 2, start id and last token included
    assert cost("ar", 12, prompt=torch.tensor([1, 2, 3])) == (9, 12)  # the beginning in one call


@pytest.mark.parametrize(("size", "steps"), [(4, 4), (4, 2), (6, 3), (6, 6), (12, 4)])
def test_block_reads_each_token_once_for_each_step_and_once_as_clean(size, steps):
    """(T' + 1) L tokens; a finished block is stored by the first call of the next one, and the last never:
    so T' L / L' calls in place of (T' + 1) L / L', and L' tokens less."""
    about = {"options": {"block_size": size}, "steps": steps, "first_hitting": True}
    assert cost("block", 12, **about) == (steps * 12 / size, (steps + 1) * 12 - size)
    blocks = 12 // size
    whole = steps * size * blocks * (blocks + 1) / 2
    assert cost("block", 12, cache=False, **about) == (steps * blocks, whole)


def test_a_threshold_takes_one_call_a_block_at_least_and_one_a_token_at_most():
    about = {"options": {"block_size": 4}, "sampler": "threshold"}
    assert cost("block", 12, threshold=0.0, **about) == (3, 2 * 12 - 4)
    assert cost("block", 12, threshold=2.0, **about) == (12, 5 * 12 - 4)
    assert 3 < cost("block", 12, threshold=0.45, **about)[0] < 12


def test_esoteric_reads_each_token_twice_whatever_the_steps():
    """Once as a mask, once as clean; the tokens of the last call are not read again."""
    for about in (
        {"sampler": "block", "steps": 4},
        {"sampler": "block", "steps": 12},
        {"sampler": "block_autoregressive", "sub_context": 3, "together": 2},
    ):
        calls, tokens = cost("esoteric", 12, **about)
        last = {4: 3, 12: 1}.get(calls, 2)
        assert tokens == 2 * 12 - last, about
    assert cost("esoteric", 12, sampler="block", steps=4)[0] == 4
    # spans of 2 x 3 tokens: two alone, then two calls of two
    assert cost("esoteric", 12, sampler="block_autoregressive", sub_context=3, together=2)[0] == 8
    assert cost("esoteric", 12, options={"alpha_0": 0.0}) == (12, 23)
    assert cost("esoteric", 12, sampler="block", steps=4, cache=False) == (4, (3 + 6 + 9 + 12))


def test_esoteric_calls_are_as_many_as_steps_that_decode_something():
    """T (1 - (1 - 1/T)^L) expected for one text."""
    family, model = family_and_model("esoteric")
    steps, count = 10, 300
    calls = [generate(model, family, [seed], LENGTH, steps=steps).calls for seed in range(count)]
    empty = (1 - 1 / steps) ** LENGTH
    both_empty = (1 - 2 / steps) ** LENGTH
    variance = steps * empty * (1 - empty) + steps * (steps - 1) * (both_empty - empty**2)
    error = math.sqrt(variance / count)
    assert abs(sum(calls) / count - steps * (1 - empty)) < 4 * error


def test_spans_of_the_block_autoregressive_order_may_be_cut_short():
    rank = block_autoregressive_rank(10, 3, 2)
    assert rank.tolist() == [0, 2, 3, 1, 2, 3, 4, 6, 7, 5]
    assert block_autoregressive_rank(7, 2, 3).unique().tolist() == list(range(5))


# -- prompts, lengths, ends --------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["any_order", "block", "block_autoregressive"])
def test_esoteric_fills_any_gaps(sampler):
    family, model = family_and_model("esoteric")
    prompt = torch.full((2, LENGTH), FREE)
    prompt[0, [1, 5, 6]] = torch.tensor([1, 2, 3])
    prompt[1, :6] = 4
    about = {"sampler": sampler, "prompt": prompt}
    if sampler != "block_autoregressive":
        about["steps"] = 4
    texts, anew = (generate(model, family, [5, 6], LENGTH, cache=cache, **about) for cache in (True, False))
    assert torch.equal(texts.ids, anew.ids)
    assert texts.ids[0, [1, 5, 6]].tolist() == [1, 2, 3]
    assert (texts.ids[1, :6] == 4).all()
    assert not bool((texts.ids == family.mask_id).any())
    alone = generate(model, family, [6], LENGTH, **{**about, "prompt": prompt[1]})
    assert torch.equal(alone.ids[0], texts.ids[1])


def test_a_block_may_be_given_in_part():
    """The first block whole, places of the second; nothing behind."""
    family, model = family_and_model("block", block_size=4)
    prompt = torch.tensor([1, 2, 3, 4, FREE, 5, FREE, 0])
    about = {"prompt": prompt, "steps": 4, "first_hitting": True}
    texts, anew = (generate(model, family, SEEDS, LENGTH, cache=cache, **about) for cache in (True, False))
    assert torch.equal(texts.ids, anew.ids)
    assert texts.calls == 2 + 4
    assert (texts.ids[:, [0, 1, 2, 3, 5, 7]] == torch.tensor([1, 2, 3, 4, 5, 0])).all()
    with pytest.raises(UserError, match="a beginning, and places of the 4 after it"):
        generate(model, family, SEEDS, LENGTH, prompt=torch.tensor([1, 2, FREE, 4, FREE, 5]))
    whole = torch.arange(LENGTH) % (VOCAB - 1)
    texts = generate(model, family, SEEDS, LENGTH, prompt=whole, steps=4)
    assert (texts.ids == whole).all()
    assert texts.calls == 0


def test_block_texts_of_any_length_begin_alike():
    """A cut last block is drawn whole, so a longer text goes on where a shorter one ends."""
    family, model = family_and_model("block", block_size=5)
    texts = {length: generate(model, family, SEEDS, length, steps=5).ids for length in (1, 7, 12, 30)}
    for length, ids in texts.items():
        assert ids.shape == (3, length)
        assert torch.equal(ids, texts[30][:, :length])


def test_the_entropy_of_a_window_is_that_of_its_frequencies():
    ids = torch.tensor([[1, 1, 2, 2], [3, 3, 3, 3], [0, 1, 2, 3], [5, 5, 5, 6]])
    three = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(
        entropy_of(ids), torch.tensor([math.log(2), 0, math.log(4), three], dtype=torch.float64)
    )


def test_texts_end_by_an_id_or_by_a_dull_window():
    ids = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 0, 1], [2, 3, 4, 4, 4, 4]])
    about = Ending(window=3, least_entropy=0.5)
    assert text_ends(ids, Ending(end=0, ends=2))[1].tolist() == [6, 3, 6]
    assert text_ends(ids, Ending(end=0))[1].tolist() == [1, 1, 6]
    stop, kept, entropy = text_ends(ids, about)
    assert stop.tolist() == [False, False, True]
    assert kept.tolist() == [6, 6, 3]
    assert entropy[2] == 0
    assert not text_ends(ids[:, -3:], about)[0].any(), "asked only of longer texts"


def until_the_end(ids: Tensor, end: int, ends: int = 1) -> list[int]:
    """Tokens up to the `ends`-th of an id in each row, all if there are fewer."""
    places = [[n + 1 for n, token in enumerate(row) if token == end] for row in ids.tolist()]
    return [row[ends - 1] if len(row) >= ends else ids.shape[1] for row in places]


@pytest.mark.parametrize("sampler", ["semi_autoregressive", "threshold"])
@pytest.mark.parametrize("ends", [1, 2])
def test_block_texts_stop_at_an_end(sampler, ends):
    family, model = family_and_model("block")
    about = {"sampler": sampler, "steps": 4}
    about["prompt"] = (torch.arange(8)[:, None] + torch.tensor([3, 1])) % 6  # likeliest ids hang on it
    plain = generate(model, family, range(8), 32, **about)
    end = int(plain.ids[0, 9])
    texts = generate(model, family, range(8), 32, end=end, ends=ends, **about)
    expected = until_the_end(plain.ids, end, ends)
    assert texts.lengths.tolist() == expected
    assert min(expected) < 32
    for row, length in enumerate(expected):
        assert torch.equal(texts.ids[row, :length], plain.ids[row, :length])
    assert not bool((texts.ids == family.mask_id).any())
    assert texts.tokens < plain.tokens
    first = min(range(8), key=lambda row: expected[row])
    about["prompt"] = about["prompt"][first]
    early = generate(model, family, [first], 32, end=end, ends=ends, **about)
    assert early.calls <= 4 * math.ceil(expected[first] / 4), "no call behind the last text's end"


def test_a_threshold_decodes_the_likeliest_ids_of_the_surest_places():
    """By hand, from the training layout: block of 4, one place a call."""
    family, model = family_and_model("block", block_size=4)
    text = torch.full((1, LENGTH), family.mask_id)
    for place in [place for start in range(0, LENGTH, 4) for place in [start] * 4]:
        own = slice(place, place + 4)
        both = torch.cat([text, text], dim=1)
        with torch.no_grad():
            probs = family.restored(model(both, torch.zeros(1), layout=Doubled(4)))[0, own]
        surety, ids = probs.where(text[0, own, None] == family.mask_id, -1.0).max(dim=-1)
        text[0, place + int(surety.argmax())] = ids[surety.argmax()]
    got = generate(model, family, [1], LENGTH, sampler="threshold", threshold=2.0)
    assert torch.equal(got.ids, text)


def test_block_texts_lose_a_dull_window():
    family, model = family_and_model("block")
    plain = generate(model, family, range(8), 32, steps=4)
    texts = generate(model, family, range(8), 32, steps=4, least_entropy=0.8, window=8)
    for row in range(8):
        ends = [n for n in range(12, 33, 4) if float(entropy_of(plain.ids[row : row + 1, n - 8 : n])) < 0.8]
        assert int(texts.lengths[row]) == (ends[0] - 8 if ends else 32)
    assert 0 < int((texts.lengths < 32).sum()) < 8


def test_ar_texts_stop_at_an_end_and_are_filled_with_it():
    family, model = family_and_model("ar")
    plain = generate(model, family, range(8), 32)
    for cache in (True, False):
        texts = generate(model, family, range(8), 32, end=2, cache=cache)
        expected = until_the_end(plain.ids, 2)
        assert texts.lengths.tolist() == expected
        for row, length in enumerate(expected):
            assert torch.equal(texts.ids[row, :length], plain.ids[row, :length])
            assert (texts.ids[row, length:] == 2).all()
        assert texts.calls == max(expected)
        read = expected if cache else [n * (n + 1) // 2 for n in expected]
        assert texts.tokens == sum(read), "no token behind the end of its text"


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize(("name", "sampler"), [
    ("ar", None), ("block", "semi_autoregressive"), ("block", "threshold"),
])  # fmt: skip
def test_texts_that_end_leave_the_batch_and_change_no_other_one(name, sampler, scale, cache):
    """Guided too, where a pass reads every text twice; each alone takes as many tokens as in the batch, if
    its blocks take as many calls."""
    family, model = labelled(name)
    about = {"sampler": sampler, "cache": cache, "guidance": Guidance(label=1, scale=scale),
             "filters": Filters(temperature=3.0)}  # fmt: skip
    about |= {} if sampler is None else {"steps": 1}
    about |= {"threshold": 0.0} if sampler == "threshold" else {}
    prompts = (torch.arange(8)[:, None] + torch.tensor([3, 1])) % 6
    plain = generate(model, family, range(8), 32, prompt=prompts, **about)
    end = max(range(6), key=lambda token: len(set(until_the_end(plain.ids, token))))
    together = generate(model, family, range(8), 32, prompt=prompts, end=end, **about)
    assert len(together.lengths.unique()) > 2, "they end at several places"
    tokens = 0
    for seed in range(8):
        alone = generate(model, family, [seed], 32, prompt=prompts[seed], end=end, **about)
        length = int(together.lengths[seed])
        assert torch.equal(alone.lengths, together.lengths[seed : seed + 1])
        assert torch.equal(alone.ids[0, :length], plain.ids[seed, :length])
        assert torch.equal(together.ids[seed, :length], plain.ids[seed, :length])
        tokens += alone.tokens
    assert together.tokens == tokens < plain.tokens


def test_given_tokens_end_no_ar_text():
    family, model = family_and_model("ar")
    texts = generate(model, family, SEEDS, 32, end=2, prompt=torch.tensor([2, 2, 1]))
    assert (texts.lengths > 3).all()


def made(name: str, **about: Any) -> Texts:
    family, model = family_and_model(name)
    return generate(model, family, SEEDS, LENGTH, **about)


@pytest.mark.parametrize(
    ("name", "about", "sentence"),
    [
        ("ar", {"end": 99}, "end is 99, it must be the id of a token, below 7"),
        ("ar", {"end": VOCAB - 1}, "end is 6, it must be the id of a token"),
        ("block", {"end": -1}, "end is -1"),
        ("block", {"ends": 0}, "ends is 0, it must be at least 1"),
        ("block", {"least_entropy": 1.0, "window": 0}, "window is 0, it must be at least 1"),
        (
            "esoteric",
            {"sampler": "block", "steps": 13},
            "steps is 13 and sub_context 13, they must be the same",
        ),
        ("esoteric", {"sampler": "block", "steps": 4, "sub_context": 3}, "steps is 4 and sub_context 3"),
        (
            "esoteric",
            {"sampler": "block_autoregressive", "together": 0},
            "together is 0, it must be at least",
        ),
        ("esoteric", {"sampler": "block_autoregressive", "steps": 7}, "steps is 7, it must be that"),
    ],
)
def test_values_out_of_range_are_refused_in_a_sentence(name, about, sentence):
    with pytest.raises(UserError, match=sentence):
        made(name, **about)
