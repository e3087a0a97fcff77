"""Cases of measures of texts: entropy, generative perplexity from a judge's logits, MAUVE from histograms."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scaling.evaluation.mauve import frontier_integral, mauve_of_histograms, smoothed
from scaling.evaluation.perplexity import Vocabulary, judge_texts, nats_of_logits
from scaling.evaluation.quality import unigram_entropy
from tests.golden_runners.common import Case, Got, Runners, inputs


def entropy(case: Case) -> Got:
    values = torch.tensor([unigram_entropy(row.numpy()) for row in inputs(case)["ids"]], dtype=torch.float64)
    return {"per_sample": values, "mean": values.mean()}


class StoredLogits:
    """A judge whose logits are stored. It is given numbers of places instead of ids, but for ends, so that it
    can tell which chunk it reads."""

    name, identity = "stored", "ids"

    def __init__(self, case: Case) -> None:
        params, values = case["params"], inputs(case)
        self.context, self.end = params["judge_context"], params["eos"]
        self.tokens, self.logits = values["tokens"], values["judge_logits"]
        numbers = torch.arange(self.tokens.numel()).view_as(self.tokens) + self.end + 1
        self.numbers = numbers.where(self.tokens != self.end, self.end)

    def encode(self, documents: object) -> np.ndarray:
        raise AssertionError("ids of the judge's own vocabulary are not encoded")

    def nats(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([self._chunk(row) for row in ids])

    def _chunk(self, numbers: Tensor) -> Tensor:
        text, place = divmod(int(numbers.max()) - self.end - 1, self.tokens.shape[1])
        start = place // self.context * self.context
        here = slice(start, start + len(numbers))
        ids = self.tokens[text, here]
        assert torch.equal(self.numbers[text, here], numbers[: len(ids)])
        nats = nats_of_logits(self.logits[text, here][None], ids[None])
        return torch.nn.functional.pad(nats, (0, len(numbers) - len(ids)))


def gen_ppl(case: Case) -> Got:
    """The reference drops texts that do not fill its last batch."""
    params, values, judge = case["params"], inputs(case), StoredLogits(case)
    kept = len(values["tokens"]) // params["judge_batch"] * params["judge_batch"]
    rule = {"attention": "attention_mask"}.get(params["rule"], params["rule"])
    lengths = values["attention_mask"][:kept].sum(1)
    texts = [row[: int(n)].numpy() for row, n in zip(judge.numbers[:kept], lengths, strict=True)]
    judged = judge_texts(texts, Vocabulary("ids", None), judge, rule=rule)
    nats, tokens = sum(judged.text_nats), sum(judged.text_tokens)
    got = {"nats": nats, "tokens_counted": tokens, "perplexity": judged.gen_ppl}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in got.items()}


def mauve(case: Case) -> Got:
    assert (case["params"]["points"], case["params"]["scaling_factor"]) == (25, 5)
    p, q = (inputs(case)[name].numpy() for name in ("counts_p", "counts_q"))
    values = {
        "mauve": mauve_of_histograms(p, q),
        "mauve_star": mauve_of_histograms(smoothed(p), smoothed(q)),
        "frontier_integral": frontier_integral(p, q),
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


FAMILIES: dict[str, Runners] = {
    "metrics": {"metrics_unigram_entropy*": entropy, "metrics_gen_ppl_*": gen_ppl, "metrics_mauve_*": mauve}
}
