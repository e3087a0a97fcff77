"""`scaling sample RUN`: finding the run, its texts on and off a terminal, and what is refused."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from scaling.data import open_dataset
from scaling.data import prepare as prepare_data
from scaling.errors import UserError
from scaling.labels import Labels
from scaling.sampling import Filters, generate
from scaling.sampling.guidance import Guidance
from scaling.sampling.speed import text_seeds
from scaling.training import FinishedRun, load_run
from sweeps.driver.caps import Caps
from sweeps.launch import Launch, drive
from sweeps.ledger.status import open_ledger
from sweeps.ledger.types import Run
from sweeps.plan import prepare, timing
from sweeps.sample.run import HIDDEN, TextOptions, escaped, find_run, hidden_places, label_names, sample_run
from tests.sweeps.command_line import refused, scaling

CONFIG = """
name: little
families: [ar, masked, block, gaussian]
grid:
  budgets: [1e8, 1e10]
  sizes: [8x1]
context_length: 32
data: {{corpus: "text:{texts}/*.txt", tokenizer: "bpe:280"}}
learning_rate: {{base: 3e-3}}
batch: {{base_tokens: 64}}
evaluation: {{sequences: 8, noise_levels: 2}}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """The results of a sweep whose second budget was beyond a cap."""
    folder = tmp_path_factory.mktemp("sampled")
    texts = folder / "texts"
    texts.mkdir()
    for name in ("a", "b", "c"):
        (texts / f"{name}.txt").write_text(f"{name} quick brown fox jumps over the lazy dog\n" * 200)
    config = folder / "little.yaml"
    config.write_text(CONFIG.format(texts=texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "matmul_flops_per_s", lambda shapes, threads: dict.fromkeys(shapes, 1e10))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        request = prepare.request(None, config, (), folder / "runs")
        drive(request, Launch(pool="local", bootstrap=0, caps=Caps(flops=1e9)))
    return folder / "runs"


def run_of(out: Path, family: str, *, finished: bool = True) -> Run:
    with open_ledger(out / "little", "little") as ledger:
        runs = [run for run in ledger.runs() if run.family == family]
    return next(run for run in runs if (run.state == "finished") == finished)


def printed(out: Path, family: str, *, terminal: bool = False, **options: object) -> str:
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=60, height=30, highlight=False)
    sample_run(run_of(out, family).key[:8], out, None, TextOptions(**options), screen)
    return screen.file.getvalue()


def ids_of(out: Path, family: str, count: int, **options: object) -> list[np.ndarray]:
    run = load_run(find_run(run_of(out, family).key, out))
    seeds = text_seeds(0, count)
    return list(generate(run.model, run.family, seeds, 32, **options).ids.numpy())


def decoded(out: Path, ids: np.ndarray) -> str:
    corpus, tokenizer = (run_of(out, "ar").spec["data"][name] for name in ("corpus", "tokenizer"))
    return escaped(prepare_data(corpus, tokenizer, out / "data").decode(ids))


@pytest.mark.parametrize("family", ["ar", "masked", "block", "gaussian"])
def test_texts_are_those_of_the_seeds_in_plain_lines(out, family):
    text = printed(out, family, count=2)
    first, second = (decoded(out, ids) for ids in ids_of(out, family, 2))
    assert text == f"text 1 of 2\n{first}\ntext 2 of 2\n{second}\n"
    assert printed(out, family) == f"{first}\n"
    assert printed(out, family, seed=1) != f"{first}\n"


def test_options_reach_the_sampler(out):
    (ids,) = ids_of(out, "masked", 1, sampler="first_hitting", filters=Filters(top_k=2))
    text = printed(out, "masked", sampler="first_hitting", filters=Filters(top_k=2))
    assert text == f"{decoded(out, ids)}\n"
    short = printed(out, "masked", length=8, steps=3)
    assert len(short) < len(text)
    assert len(printed(out, "block", length=96)) > 2 * len(printed(out, "block"))


def read_labels(out: Path, monkeypatch: pytest.MonkeyPatch, labels: Labels) -> FinishedRun:
    """From now on the masked run has label vectors, as a run with labels would leave them."""
    run = load_run(find_run(run_of(out, "masked").key, out))
    spec = replace(run.spec, labels=labels)
    family = spec.build_family()
    model = family.build_model(spec.size, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(
                0.15 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            )
    labelled = FinishedRun(spec, family, model)
    monkeypatch.setattr("sweeps.sample.run.load_run", lambda *_, **__: labelled)
    return labelled


def test_a_label_guides_the_texts_of_a_run_that_reads_labels(out, monkeypatch):
    run = read_labels(out, monkeypatch, Labels(of="kind"))
    texts = {label: printed(out, "masked", label=label, scale=3.0) for label in ("source", "0", "test")}
    assert texts["source"] == texts["0"] != texts["test"]
    guidance = Guidance(label=1, scale=3.0)
    (ids,) = generate(run.model, run.family, text_seeds(0, 1), 32, guidance=guidance).ids.numpy()
    assert texts["test"] == f"{decoded(out, ids)}\n"
    with pytest.raises(UserError, match="label 'poem'"):
        printed(out, "masked", label="poem")


def test_packages_are_labels_by_the_names_that_training_saw(out, monkeypatch, tmp_path):
    (folder,) = (path.parent for path in (out / "data").glob("*/documents.json"))
    named = tmp_path / "data" / folder.name
    shutil.copytree(folder, named)
    documents = json.loads((folder / "documents.json").read_text())
    for entries in documents.values():
        entries[:] = [(end, f"{'json' if n else 'asyncio'}/{n}.py") for n, (end, _) in enumerate(entries)]
    (named / "documents.json").write_text(json.dumps(documents))
    labels = Labels(of="package", classes=3)
    names = open_dataset(named).label_names(labels)
    assert set(names) == {"asyncio", "json"}
    data = read_labels(out, monkeypatch, labels).spec.data
    assert label_names(labels, data, [tmp_path / "none", tmp_path / "data"]) == names
    with pytest.raises(UserError, match="names of packages stand in the corpus that the run was trained on"):
        label_names(labels, data, [tmp_path])
    monkeypatch.setattr("sweeps.sample.run.prepared_folder", lambda *_: named)
    texts = [printed(out, "masked", label=label, scale=3.0) for label in (*names, "0", "1")]
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]
    with pytest.raises(
        UserError, match=f"unknown label 'jsn'; did you mean 'json'.*known: {', '.join(names)}"
    ):
        printed(out, "masked", label="jsn")


@pytest.mark.parametrize("of", ["topic", "clusters"])
def test_topics_and_clusters_are_numbers(out, monkeypatch, of):
    read_labels(out, monkeypatch, Labels(of=of, classes=4))
    assert printed(out, "masked", label="3")
    with pytest.raises(UserError, match=f"labels of '{of}' have no names; give --label a number from 0 to 3"):
        printed(out, "masked", label="sports")
    with pytest.raises(UserError, match="label 4 is unknown: the network has labels 0 to 3"):
        printed(out, "masked", label="4")


def test_words_are_wished_for_and_away(out, monkeypatch):
    """A wish reaches the sampler in the run's tokens, and makes the word likelier."""
    calls = []

    def noting(*arguments, **about):
        calls.append(about.get("wishes"))
        return generate(*arguments, **about)

    monkeypatch.setattr("sweeps.sample.run.generate", noting)
    plain = printed(out, "gaussian", count=8)
    many = printed(out, "gaussian", count=8, wishes=["quick fox", "the"], avoided=["dog"], wish_weight=4.0)
    run = run_of(out, "gaussian").spec["data"]
    tokenizer = prepare_data(run["corpus"], run["tokenizer"], out / "data")
    words = [(wish.token, *wish.then) for wish in calls[1]]
    assert [tokenizer.decode(np.array(word)) for word in words] == ["quick fox", "the", "dog"]
    assert [(wish.place, wish.absent, wish.weight) for wish in calls[1]] == [
        ("any", False, 4.0), ("any", False, 4.0), ("all", True, 4.0),
    ]  # fmt: skip
    assert calls[0] is None
    assert printed(out, "gaussian", wishes=["fox"])
    assert calls[2][0].weight == 2.0
    assert many.count("the") > plain.count("the")
    assert many.count("dog") <= plain.count("dog")


def test_control_characters_are_shown_and_change_no_terminal():
    assert escaped("a\x1b[2J\rb\n\tc") == "a\\x1b[2J\\rb\n        c"


@pytest.mark.parametrize("family", ["ar", "masked", "block", "gaussian"])
def test_a_prompt_is_the_beginning_of_every_text(out, family):
    text = printed(out, family, prompt="the lazy", count=3)
    assert text.count("\nthe lazy") == 3


def test_a_terminal_sees_places_fill_and_then_the_text_alone(out, monkeypatch):
    monkeypatch.setattr("sweeps.sample.run.FRAME_S", 0)
    frames = printed(out, "masked", terminal=True, prompt="the").split("calls of the network")
    assert len(frames) > 4
    hidden = [frame.count(HIDDEN) for frame in frames[:-1]]
    assert hidden == sorted(hidden, reverse=True)
    assert hidden[0] > hidden[-1] == 0
    assert all("the" in frame for frame in frames)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames[-1]).replace("\r", "").strip("\n")
    assert f"{last}\n" == printed(out, "masked", prompt="the").replace("\r", "")


def test_places_that_an_ar_network_has_not_reached_are_hidden(out):
    run = load_run(find_run(run_of(out, "ar").key, out))
    counts: list[int] = []
    generate(
        run.model, run.family, [1, 2], 32, prompt=torch.tensor([5, 6]),
        watch=lambda draft: counts.append(int(hidden_places(draft, len(counts))[1].sum())),
    )  # fmt: skip
    assert counts == list(range(30, -1, -1))


def test_many_texts_are_made_in_smaller_batches_if_memory_is_short(out, monkeypatch, capsys):
    def limited(model, family, seeds, *arguments, **options):
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(model, family, seeds, *arguments, **options)

    expected = printed(out, "masked", count=5)
    monkeypatch.setattr("sweeps.sample.run.generate", limited)
    assert printed(out, "masked", count=5) == expected
    assert "too little memory: 2 texts at once from here on" in capsys.readouterr().err


def test_too_little_memory_for_a_single_text_is_one_sentence(out, monkeypatch):
    def short(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sweeps.sample.run.generate", short)
    with pytest.raises(UserError, match="too little memory for one text of 32 tokens"):
        printed(out, "masked", count=1)


def test_a_run_is_found_by_key_sweep_or_folder(out):
    run = run_of(out, "ar")
    folder = out / "little" / "ar" / "runs" / run.key
    for target in (run.key[:6], run.key, str(folder)):
        assert find_run(target, out) == folder
    assert find_run(run.key, out, "little") == folder


def test_what_cannot_be_sampled_is_refused_in_a_sentence(out, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(out.parent)
    ar, masked, gaussian = (run_of(out, family).key for family in ("ar", "masked", "gaussian"))
    planned, short = run_of(out, "ar", finished=False).key, masked[:8]
    for arguments, sentence in [
        (("zzzz",), "there is no run 'zzzz': no folder of this name, and no run's key begins with it"),
        (("",), "runs' keys begin with ''"),
        ((planned,), f"run {planned[:8]} (ar 8x1) is planned; only a finished run has texts"),
        ((ar, "--steps", "5"), "samples one token a step: steps is 5, it must be 32"),
        ((masked, "--sampler", "first_hiting"), "no sampler 'first_hiting'; did you mean 'first_hitting'"),
        ((masked, "--steps", "0"), "steps is 0, it must be at least 1"),
        ((masked, "--steps", "2", "--steps", "4"), "--steps is given 2 times; a run takes one value"),
        ((masked, "--length", "33"), "--length is 33, but run"),
        ((masked, "--length", "2", "--prompt", "dog " * 9), "tokens, the text only 2"),
        ((masked, "--temperature", "0"), "temperature is 0.0, it must be above 0"),
        ((masked, "--top-p", "2"), "top_p is 2.0, it must be in (0, 1]"),
        ((masked, "--label", "source"), "label 'source': the network was trained without labels"),
        ((masked, "--wish", "fox"), f"family gaussian, whose steps follow a gradient; run {short}"),
        ((gaussian, "--wish-weight", "1"), "--wish-weight is 1, it says how strong a wish is; add --wish"),
        ((gaussian, "--avoid", ""), "--avoid is '', it must be a word"),
        ((gaussian, "--wish", "fox " * 40), "wishes: it has "),
        ((gaussian, "--wish", "fox", "--wish-weight", "nan"), "wishes: weight is nan, it must be finite"),
        ((masked, "--scale", "2"), "--scale is 2, it says how strongly a label guides; add --label"),
        (("texts",), "texts is no folder of a run: it has no spec.json"),
        ((ar, "--sweep", "nix"), "unknown sweep 'nix'"),
    ]:  # fmt: skip
        assert sentence in refused(capsys, "sample", *arguments), arguments
    empty = tmp_path / "none"
    assert "which are: none" in refused(capsys, "sample", "abcd", "--out", str(empty))


def test_a_run_without_checkpoint_or_tokenizer_is_refused(out, tmp_path):
    folder = find_run(run_of(out, "masked").key, out)
    copy = tmp_path / "little" / "masked" / "runs" / folder.name
    shutil.copytree(folder, copy)
    with pytest.raises(UserError, match="tokenizer bpe:280 of the run is not there"):
        sample_run(str(copy), tmp_path, None, TextOptions())
    for checkpoint in copy.rglob("checkpoint-*.pt"):
        checkpoint.unlink()
    with pytest.raises(UserError, match=r"cannot be loaded: .* has no checkpoint of it"):
        sample_run(str(copy), tmp_path, None, TextOptions())


def test_the_command_prints_a_text(out, monkeypatch, capsys):
    monkeypatch.chdir(out.parent)
    key = run_of(out, "masked").key
    assert scaling("sample", key[:6], "--steps", "4", "--prompt", "the fox", "--count", "2") == 0
    captured = capsys.readouterr()
    assert captured.out.count("the fox") == 2
    assert f"{key[:8]} masked 8x1, sampler ancestral: 64 tokens in" in captured.err
