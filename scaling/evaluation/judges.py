"""Judges of texts: a run of family ar, or any causal language model of the Hugging Face hub or of a folder.

B chunks, n tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.evaluation.perplexity import Vocabulary, nats_of_logits
from scaling.families.ar import Autoregressive
from scaling.families.base import Denoiser, Family
from scaling.models import Transformer


class RunJudge:
    """A finished run of family ar."""

    def __init__(
        self, name: str, family: Family, model: Denoiser, context: int, vocabulary: Vocabulary
    ) -> None:
        """context: tokens that the run was trained on at once. UserError for another family."""
        if not isinstance(family, Autoregressive):
            raise UserError(f"judge {name} is a run of family {family.name!r}; a judge must be one of ar")
        self.name, self.context, self.identity = name, context, vocabulary.identity
        self._family, self._model, self._tokenizer = family, model, vocabulary.tokenizer
        self.end = None if self._tokenizer is None else self._tokenizer.end

    def encode(self, documents: Sequence[str]) -> np.ndarray:
        if self._tokenizer is None:
            raise UserError(f"judge {self.name} reads {self.identity}, which are no text")
        parts = self._tokenizer.encode([text.encode("utf-8") for text in documents])
        return np.concatenate(parts)[:-1].astype(np.int64)  # the last document need not end there

    def nats(self, ids: Tensor, mask: Tensor) -> Tensor:
        inputs, targets = self._family.shift(ids)
        logits = self._model(inputs, torch.zeros(len(ids), device=ids.device)).float()
        costs = self._family.token_bound(logits, targets, inputs, torch.zeros(len(ids), device=ids.device))
        return costs[:, costs.shape[1] - ids.shape[1] + 1 :]

    def features(self, ids: Tensor) -> Tensor:
        assert isinstance(self._model, Transformer), "features are those of the shared network"
        inputs = self._family.inputs(ids)[:, -self.context :]
        return self._model.trunk(inputs, torch.zeros(len(ids), device=ids.device))[:, -1]


class HubJudge:
    """A causal language model of the package `transformers`, by its name on the hub or a folder."""

    def __init__(self, name: str, *, context: int | None = None, device: torch.device | str = "cpu") -> None:
        """context: tokens to read at once, by default as many as the model can.

        UserError if the package is missing, or the model or its tokenizer cannot be loaded.
        """
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise UserError(
                f"judge {name!r} is a Hugging Face model, which needs the package transformers: "
                "pip install transformers"
            ) from None
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            dtype = "float32" if torch.device(device).type == "cpu" else "auto"
            self._model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device).eval()
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"judge {name!r} cannot be loaded: {reason}") from error
        longest = int(getattr(self._model.config, "max_position_embeddings", 0) or 1024)
        if context is not None and not 2 <= context <= longest:
            raise UserError(f"judge {name!r}: context is {context}, it must be from 2 to {longest}")
        self.name, self.context, self.identity = name, context or longest, f"hf:{name}"
        self.end: int | None = self._tokenizer.eos_token_id

    def encode(self, documents: Sequence[str]) -> np.ndarray:
        parts = [self._ids(text) for text in documents]
        between = self._ids("\n\n") if self.end is None else [self.end]
        joined = [token for part in parts for token in (*part, *between)]
        return np.array(joined[: len(joined) - len(between)], dtype=np.int64)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def nats(self, ids: Tensor, mask: Tensor) -> Tensor:
        return nats_of_logits(self._model(input_ids=ids, attention_mask=mask.long()).logits.float(), ids)

    def features(self, ids: Tensor) -> Tensor:
        out: Tensor = self._model(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, -1]
        return out
