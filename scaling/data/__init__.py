"""Text in, windows of token ids out: corpora, tokenizers, shards, and sources of known entropy."""

from scaling.data.build import prepare
from scaling.data.dataset import Dataset, open_dataset

__all__ = ["Dataset", "open_dataset", "prepare"]
