"""Eso-LM's sampler: any order by diffusion, then what is left from left to right, each token read once as
clean.

B batch, L length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scaling.families.esoteric import Esoteric
from scaling.models import Cache, Transformer
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose
from scaling.sampling.plan import NEVER, groups_by_time


def any_order(draft: Draft, *, cache: bool = True) -> Iterator[None]:
    """Diffusion in `steps` even steps of time, then one token a call. A prompt may give any places.

    Every text has its own random order and its own number of tokens per call; texts do not wait for each
    other. cache: a call reads the tokens decoded by the one before and the masks of its own, if the model is
    a Transformer; the texts are the same.
    """
    family, reader, (count, length) = draft.family, draft.reader, draft.ids.shape
    assert isinstance(family, Esoteric), "a sampler of this family"
    device = draft.ids.device
    uniforms = draft.noise.everywhere(0, Purpose.ORDER, length)
    shares = family.noise_share(draft.times)
    group = (
        groups_by_time(uniforms, draft.free, shares)[0]
        if family.alpha_0 > 0
        else torch.full_like(draft.ids, NEVER)
    )
    diffused = group != NEVER
    # then one place a call, in the order of the text; what is given comes before all
    rest = draft.free & ~diffused
    group = torch.where(rest, group.amax(dim=1, keepdim=True).clamp(min=NEVER) + rest.cumsum(dim=1), group)
    keys = torch.where(diffused, group + (1 - uniforms), group.double())
    order = keys.argsort(dim=1, stable=True)  # places by the index at which they are decoded
    group = group.gather(1, order)
    draft.ids[draft.free] = family.mask_id
    yield
    kept = Cache(length) if cache and isinstance(reader.model, Transformer) else None
    read = torch.zeros(count, 1, dtype=torch.long, device=device)
    for number in range(int(group.max()) + 1):
        done = (group < number).sum(dim=1, keepdim=True)
        end = done + (group == number).sum(dim=1, keepdim=True)
        if kept is None:
            read = torch.zeros_like(read)
        longest = int((end - read).where(end > done, 0).max())
        index = read + torch.arange(longest, device=device)  # in the order of decoding
        present = (index < end) & (end > done)
        places = order.gather(1, index.clamp(max=length - 1))
        ids = draft.ids.gather(1, places)
        targets = present & (index >= done)
        view: dict[str, Any] = {"positions": places}
        if kept is not None:
            view |= {"cache": kept, "slots": index.where(present, length), "until": index.where(present, 0)}
            read = torch.where(end > done, done, read)
        probs = reader(ids, where=targets, **view)
        here = torch.zeros_like(draft.free)
        rows = torch.arange(count, device=device)[:, None].expand_as(places)[targets]
        here[rows, places[targets]] = True
        # drawn in the order of decoding, with the numbers of the places
        numbers = torch.zeros_like(uniforms)
        numbers[here] = draft.noise.at(0, Purpose.CLEAN, here)
        draft.ids[rows, places[targets]] = choose(probs, numbers[rows, places[targets]])
        yield
