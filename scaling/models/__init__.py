"""The transformer that all families share."""

from scaling.models.transformer import Transformer, build_model

__all__ = ["Transformer", "build_model"]
