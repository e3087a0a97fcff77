"""Texts from a trained network: one loop, and for every family its steps."""

from scaling.sampling.filters import Filters
from scaling.sampling.guidance import Guidance
from scaling.sampling.loop import FREE, Draft, Texts, generate, sampler_of

__all__ = ["FREE", "Draft", "Filters", "Guidance", "Texts", "generate", "sampler_of"]
