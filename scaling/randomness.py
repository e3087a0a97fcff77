"""Every random draw of a run comes from a generator made here from (seed, purpose, step)."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, purpose: str, step: int = 0, device: str = "cpu") -> torch.Generator:
    """A generator that depends on its arguments alone: a resumed run draws what it would have drawn."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
