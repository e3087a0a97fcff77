"""Judges: a run of family ar gives its exact likelihood, a Hugging Face model its own."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from scaling.data.tokenizers import ByteTokenizer, make_tokenizer
from scaling.errors import UserError
from scaling.evaluation.judges import HubJudge, RunJudge
from scaling.evaluation.perplexity import Vocabulary, features_of, judge_texts
from scaling.families import get_family
from scaling.ladder import Size

SIZE = Size(name="tiny", hidden=16, num_layers=2, num_heads=2)
BYTES = Vocabulary("bytes", ByteTokenizer())


def run_judge(context: int = 8, **options: object) -> RunJudge:
    """An untrained network with varied predictions over bytes."""
    family = get_family("ar", vocab_size=257, **options)
    generator = torch.Generator().manual_seed(0)
    model = family.build_model(SIZE, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return RunJudge("run 12ab", family, model, context, BYTES)


@pytest.mark.parametrize("start", ["mask", "none"])
def test_a_run_gives_its_exact_likelihood_from_the_second_token_on(start):
    judge = run_judge(start=start)
    ids = torch.randint(1, 256, (3, 8), generator=torch.Generator().manual_seed(1))
    got = judge_texts(list(ids.numpy()), BYTES, judge)
    inputs, targets = judge._family.shift(ids)
    with torch.no_grad():
        logits = judge._model(inputs, torch.zeros(3))
    costs = judge._family.token_bound(logits, targets, inputs, torch.zeros(3))[:, -7:]
    assert got.text_nats == pytest.approx(costs.double().sum(1).tolist(), rel=1e-6)
    assert got.text_tokens == (7, 7, 7)
    assert not got.own_tokenizer


def test_later_tokens_and_padding_do_not_matter():
    judge = run_judge()
    texts = [np.arange(1, 9), np.arange(1, 5)]
    both = judge_texts(texts, BYTES, judge)
    alone = judge_texts(texts[1:], BYTES, judge)
    assert both.text_nats[1] == pytest.approx(alone.text_nats[0], rel=1e-5)


def test_text_of_another_tokenizer_is_judged_as_bytes():
    text = b"the cat sat on the mat. " * 20
    pairs = make_tokenizer("bpe:300", [text])
    (ids,) = pairs.encode([text])
    got = judge_texts([ids.astype(np.int64)], Vocabulary(pairs.identity, pairs), run_judge())
    # the text and its end, without the first byte of each chunk of 8
    assert got.own_tokenizer
    assert got.text_tokens == (len(text) - len(text) // 8,)
    direct = judge_texts([np.frombuffer(text, np.uint8)], BYTES, run_judge())
    assert got.text_nats[0] == pytest.approx(direct.text_nats[0], rel=1e-6)


def test_features_are_those_of_the_last_token():
    judge = run_judge()
    texts = [np.arange(1, 9), np.arange(2, 6), np.array([7] * 30)]
    got = features_of(texts, BYTES, judge)
    assert got.shape == (3, 16)
    assert np.allclose(got[1], features_of(texts[1:2], BYTES, judge)[0], atol=1e-5)
    assert np.allclose(got[2], features_of([np.array([7] * 8)], BYTES, judge)[0], atol=1e-5)


def test_only_ar_runs_judge():
    family = get_family("masked", vocab_size=257)
    with pytest.raises(UserError, match="judge run 1 is a run of family 'masked'; a judge must be one of ar"):
        RunJudge("run 1", family, family.build_model(SIZE, torch.Generator()), 8, BYTES)


class Words:
    """Stands in for a tokenizer of the hub: words by their lengths, 9 as the end."""

    eos_token_id: int | None = 9

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [8] if text == "\n\n" else [len(word) for word in text.split()]}


class Network(torch.nn.Module):
    """Stands in for a model of the hub: the likeliest next token is one more than the present."""

    config = SimpleNamespace(max_position_embeddings=6)

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False):
        logits = 4.0 * torch.nn.functional.one_hot((input_ids + 1) % 10, 10)
        return SimpleNamespace(logits=logits, hidden_states=[None, logits])


@pytest.fixture
def hub(monkeypatch):
    """A package `transformers` with one model."""
    package = ModuleType("transformers")

    def of(value):
        def from_pretrained(name, **options):
            if name == "nix":
                raise OSError("nix is not a local folder\nand more")
            return value()

        return SimpleNamespace(from_pretrained=from_pretrained)

    package.AutoTokenizer, package.AutoModelForCausalLM = of(Words), of(Network)
    monkeypatch.setitem(sys.modules, "transformers", package)
    return package


def test_a_model_of_the_hub_reads_the_text_with_its_own_tokenizer(hub):
    judge = HubJudge("gpt2")
    ids = np.frombuffer(b"a bb ccc\0dd a\0", dtype=np.uint8)
    assert judge.encode(["a bb ccc", "dd a"]).tolist() == [1, 2, 3, 9, 2, 1]
    got = judge_texts([ids], BYTES, judge)
    certain, other = -np.log(np.exp(4) / (np.exp(4) + 9)), -np.log(1 / (np.exp(4) + 9))
    # read as 1 2 3 9 2 1 and an end, which is alone in its chunk of 6
    assert got.text_tokens == (5,)
    assert got.text_nats[0] == pytest.approx(2 * certain + 3 * other)
    assert features_of([ids], BYTES, judge).shape == (1, 10)


def test_a_tokenizer_without_an_end_gets_empty_lines_between_documents(hub, monkeypatch):
    monkeypatch.setattr(Words, "eos_token_id", None)
    assert HubJudge("gpt2").encode(["a", "bb"]).tolist() == [1, 8, 2]


def test_a_judge_that_cannot_be_loaded_is_refused_in_a_sentence(hub, monkeypatch):
    with pytest.raises(UserError, match=r"judge 'nix' cannot be loaded: nix is not a local folder$"):
        HubJudge("nix")
    with pytest.raises(UserError, match="judge 'gpt2': context is 7, it must be from 2 to 6"):
        HubJudge("gpt2", context=7)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="needs the package transformers: pip install transformers"):
        HubJudge("gpt2")


def test_a_real_model_in_a_folder_judges(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = {"<end>": 0, **{chr(97 + i): i + 1 for i in range(26)}}
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(
        tmp_path
    )
    config = transformers.GPT2Config(
        vocab_size=27, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    judge = HubJudge(str(tmp_path))
    assert judge.context == 8
    got = judge_texts([np.frombuffer(b"a b c d e\0f g h i j k l", np.uint8)], BYTES, judge)
    assert got.text_tokens == (11,)  # 12 letters and an end, less the first of each chunk of 8
    assert 2 < got.judge_nats < 5
