"""The transformer that all families share, its attention layouts and its head."""

from scaling.models.attention import CAUSAL, FULL, Cache, Doubled, Layout
from scaling.models.head import head_loss
from scaling.models.transformer import Modulation, Transformer, build_model

__all__ = [
    "CAUSAL",
    "FULL",
    "Cache",
    "Doubled",
    "Layout",
    "Modulation",
    "Transformer",
    "build_model",
    "head_loss",
]
