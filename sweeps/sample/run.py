"""`scaling sample RUN`: texts of one finished run, shown while they are made."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from torch import Tensor

from analysis.text import count_text, duration, printable
from scaling.data import open_dataset
from scaling.data.tokenizers import ByteTokenizer, Tokenizer, open_tokenizer
from scaling.errors import UserError
from scaling.families.block import Block
from scaling.families.gaussian import Gaussian
from scaling.labels import KINDS, Labels
from scaling.sampling import Draft, Filters, generate
from scaling.sampling.guidance import Guidance
from scaling.sampling.latents import TokenWish
from scaling.sampling.speed import finished, is_short_of_memory, text_seeds
from scaling.spec import DataSpec
from scaling.training import FinishedRun, load_run
from sweeps.attempt.journal import run_folder
from sweeps.config.load import swept_names
from sweeps.ledger.status import open_ledger
from sweeps.ledger.types import Run, State
from sweeps.sample.corpora import prepared_folder
from sweeps.sample.stored import folder_with_weights
from sweeps.show.tables import console, short

if TYPE_CHECKING:
    from scaling.families.base import Family

T = TypeVar("T", int, str)
HIDDEN = "░"
"""A place without a token yet."""
BATCH = 64
"""Texts made at once."""
FRAME_S = 1 / 15


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """Options of `scaling sample RUN`."""

    prompt: str | None = None
    steps: int | None = None
    sampler: str | None = None
    count: int = 1
    seed: int = 0
    length: int | None = None
    """Tokens of a text; None: as many as the run read at once in training."""
    filters: Filters = field(default_factory=Filters)
    label: str | None = None
    """By number, or by its name where the labels have some; None: texts of no label."""
    scale: float | None = None
    """How strongly a label guides; None: as the network reads it."""
    replica: int = 0
    """Of a run that trained several networks."""
    storage: str | None = None
    """URI of the storage with the run's weights; None: the one that its sweep names."""
    wishes: Sequence[str] = ()
    """Words that a text should have somewhere; of `gaussian`."""
    avoided: Sequence[str] = ()
    """Words that it should have nowhere."""
    wish_weight: float | None = None
    """Of each wish; None: the published one."""


def sample_run(
    target: str, out: Path, sweep: str | None, how: TextOptions, terminal: Console | None = None
) -> None:
    """Print texts of a run, on a terminal also how they come about.

    target: the first characters of the key of a run of `sweep`, or of any sweep below `out`, or its folder.
    UserError for a run that is not there or has not finished, and for whatever of `how` does not fit it.
    """
    terminal = terminal or console()
    folder = find_run(target, out, sweep)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = load_run(folder_with_weights(folder, how.storage), replica=how.replica, device=device)
    places = [*(parent / "data" for parent in folder.absolute().parents[3:4]), out / "data"]
    words = _Words.of(run.spec.data, places)
    length = _length(run, how.length)
    if how.count < 1:
        raise UserError(f"--count is {how.count}; it must be at least 1")
    prompt = None if how.prompt is None else words.encode(how.prompt)
    wishes = _wishes(run, how, words)
    options: dict[str, Any] = {"wishes": wishes} if wishes else {}
    guidance = _guidance(run, how, places)
    notes = console(stderr=True)
    batch, number, started, calls = min(BATCH, how.count), 0, time.perf_counter(), 0
    while number < how.count:
        seeds = text_seeds(how.seed, min(batch, how.count - number), number)
        try:
            with _Picture(terminal, words, len(prompt) if prompt is not None else 0) as picture:
                texts = generate(
                    run.model, run.family, seeds, length, sampler=how.sampler, steps=how.steps,
                    prompt=prompt, filters=how.filters, guidance=guidance, device=device,
                    watch=picture.show if terminal.is_terminal else None,
                    **options,
                )  # fmt: skip
        except (MemoryError, RuntimeError) as error:
            if not is_short_of_memory(error):
                raise
            if batch == 1:
                raise UserError(f"too little memory for one text of {length} tokens; free some") from error
            batch = batch // 2
            notes.print(f"too little memory: {batch} texts at once from here on", style="yellow")
            continue
        calls += texts.calls
        for ids in finished(texts):
            number += 1
            if how.count > 1:
                terminal.print(Text(f"text {number} of {how.count}", style="dim"))
            terminal.print(
                words.text(ids.numpy(), beginning=0 if prompt is None else len(prompt)), soft_wrap=True
            )
    sampler = how.sampler or next(iter(run.family.samplers))
    spec = run.spec
    notes.print(
        f"{short(spec.key)} {spec.family} {spec.size.name}, sampler {sampler}: "
        f"{count_text(how.count * length)} tokens in {duration(time.perf_counter() - started)}, "
        f"{calls} calls of the network",
        style="dim",
    )  # fmt: skip


def _guidance(run: FinishedRun, how: TextOptions, places: Sequence[Path]) -> Guidance | None:
    """By the label that `how` names; places: folders of prepared corpora. UserError for a scale without a
    label, and for a name where labels have none."""
    if how.label is None:
        if how.scale is not None:
            raise UserError(f"--scale is {how.scale:g}, it says how strongly a label guides; add --label")
        return None
    scale = 1.0 if how.scale is None else how.scale
    if how.label.isdecimal() or run.spec.labels is None:
        return Guidance(label=int(how.label) if how.label.isdecimal() else how.label, scale=scale)
    return Guidance(label=how.label, scale=scale, names=label_names(run.spec.labels, run.spec.data, places))


def _wishes(run: FinishedRun, how: TextOptions, words: _Words) -> list[TokenWish]:
    """The words that `how` wishes for, and those it wishes away, in the run's tokens.

    UserError for a family that has no such guidance, a word without tokens, and a weight without a word.
    """
    named = [("--wish", word) for word in how.wishes] + [("--avoid", word) for word in how.avoided]
    if not named and how.wish_weight is None:
        return []
    if not named:
        raise UserError(f"--wish-weight is {how.wish_weight:g}, it says how strong a wish is; add --wish")
    if not isinstance(run.family, Gaussian):
        raise UserError(
            f"{named[0][0]} is for family gaussian, whose steps follow a gradient; "
            f"run {short(run.spec.key)} is one of {run.spec.family}"
        )
    wishes = []
    for name, word in named:
        tokens = words.encode(word, name).tolist()
        if not tokens:
            raise UserError(f"{name} is {word!r}, it must be a word")
        absent = name == "--avoid"
        wish = TokenWish(token=tokens[0], then=tuple(tokens[1:]), absent=absent,
                         place="all" if absent else "any")  # fmt: skip
        wishes.append(wish if how.wish_weight is None else replace(wish, weight=how.wish_weight))
    return wishes


def label_names(labels: Labels, data: DataSpec, places: Sequence[Path]) -> tuple[str, ...]:
    """What the labels of a run are called; places: folders of prepared corpora.

    UserError for labels that are numbers, and if the corpus that has the names is not there.
    """
    if labels.of == "kind":
        return KINDS
    if labels.of != "package":
        raise UserError(
            f"labels of {labels.of!r} have no names; give --label a number from 0 to {labels.classes - 1}"
        )
    folder = prepared_folder(data.fingerprint, places)
    if folder is None:
        raise UserError(
            f"names of packages stand in the corpus that the run was trained on, {data.corpus}, and it is "
            f"not below {' or '.join(map(str, places))}; give --label a number from 0 to {labels.classes - 1}"
        )
    return open_dataset(folder).label_names(labels)


def find_run(target: str, out: Path, sweep: str | None = None) -> Path:
    """The folder of a finished run; `sweep`: look there only. UserError if there is none, or several."""
    if target and Path(target).is_dir():
        return Path(target)
    names = (sweep,) if sweep else swept_names(out)
    matches: dict[str, tuple[Path, Run]] = {}
    for name in names:
        with open_ledger(out / name, name) as ledger:
            runs = ledger.runs(whole=False)
        for run in runs:
            # the same run may be part of two sweeps, and finished in one of them only
            if run.key.startswith(target) and (run.key not in matches or run.state == State.FINISHED):
                matches[run.key] = run_folder(out / name, run.family, run.key), run
    if not matches:
        where = (
            f"sweep {sweep}" if sweep else f"the sweeps below {out}, which are: {', '.join(names) or 'none'}"
        )
        raise UserError(
            f"there is no run {target!r}: no folder of this name, and no run's key begins with it in {where}"
        )
    if len(matches) > 1:
        keys = ", ".join(sorted(matches)[:4])
        raise UserError(f"{len(matches)} runs' keys begin with {target!r} ({keys}); give more of it")
    folder, run = next(iter(matches.values()))
    if run.state != State.FINISHED:
        raise UserError(
            f"run {short(run.key)} ({run.family} {run.size}) is {run.state}; only a finished run has texts"
        )
    return folder


def _length(run: FinishedRun, length: int | None) -> int:
    """The length of a text; UserError if the network did not learn such texts."""
    context = run.spec.data.context_length
    if length is None:
        return context
    if length < 1:
        raise UserError(f"--length is {length}; it must be at least 1")
    if length > context and not isinstance(run.family, Block):
        raise UserError(
            f"--length is {length}, but run {short(run.spec.key)} read {context} tokens at once in training; "
            "longer texts are for family block"
        )
    return length


@dataclass(frozen=True, slots=True)
class _Words:
    """Ids as text; without a tokenizer, ids as numbers."""

    tokenizer: Tokenizer | None
    num_ids: int

    @classmethod
    def of(cls, data: DataSpec, places: Sequence[Path]) -> _Words:
        """places: folders of prepared corpora. UserError if none has the tokenizer."""
        if data.tokenizer == "ids":
            return cls(None, data.num_token_ids)
        if data.tokenizer == "bytes":
            return cls(ByteTokenizer(), data.num_token_ids)
        folder = prepared_folder(data.fingerprint, places)
        if folder is not None:
            return cls(open_tokenizer(data.tokenizer, folder), data.num_token_ids)
        raise UserError(
            f"tokenizer {data.tokenizer} of the run is not there: the corpus that it was trained on is not "
            f"below {' or '.join(map(str, places))}; give --out, the folder of results"
        )

    def encode(self, text: str, option: str = "--prompt") -> Tensor:
        """Ids of a text. UserError where ids are needed and it has something else."""
        if self.tokenizer is not None:
            (ids,) = self.tokenizer.encode([text.encode("utf-8", errors="replace")])
            return torch.from_numpy(ids[:-1].astype(np.int64))  # without the end of the document
        parts = text.split()
        if not all(part.isdecimal() and int(part) < self.num_ids for part in parts):
            raise UserError(
                f"{option} is {text!r}; this run was trained on ids without text, so give numbers below "
                f"{self.num_ids}, such as '3 1 2'"
            )
        return torch.tensor([int(part) for part in parts], dtype=torch.int64)

    def text(self, ids: np.ndarray, hidden: np.ndarray | None = None, beginning: int = 0) -> Text:
        """A text, its `beginning` first tokens bold, `hidden` places as HIDDEN."""
        out = Text()
        hidden = np.zeros(len(ids), dtype=bool) if hidden is None else hidden
        kinds = np.where(hidden, 2, np.arange(len(ids)) < beginning).tolist()
        place = 0
        for kind, group in itertools.groupby(kinds):
            count = len(list(group))
            part = ids[place : place + count]
            place += count
            if kind == 2:
                out.append(HIDDEN * count, style="dim")
            else:
                out.append(self._decoded(part, place == count), style="bold" if kind else "")
        return out

    def _decoded(self, ids: np.ndarray, first: bool) -> str:
        if self.tokenizer is not None:
            return escaped(self.tokenizer.decode(ids))
        return ("" if first else " ") + " ".join(map(str, ids.tolist()))


def escaped(text: str) -> str:
    """A text of a network, which may hold control characters, as a terminal can show it."""
    return "\n".join(printable(line.expandtabs()) for line in text.split("\n"))


class _Picture:
    """The texts of a batch in the making, in place, as far as the terminal is high."""

    def __init__(self, terminal: Console, words: _Words, beginning: int) -> None:
        self._live = Live(console=terminal, transient=True, auto_refresh=False)
        self._words, self._beginning = words, beginning
        self._steps, self._last = -1, 0.0

    def __enter__(self) -> _Picture:
        if self._live.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, draft: Draft) -> None:
        """The draft as it is, at most every FRAME_S seconds."""
        self._steps += 1
        now = time.monotonic()
        if now - self._last < FRAME_S:
            return
        self._last = now
        hidden = hidden_places(draft, self._steps)
        room = max(1, self._live.console.height // 4)
        rows = zip(draft.ids[:room].cpu().numpy(), hidden[:room].cpu().numpy(), strict=True)
        texts = [self._words.text(ids, places, self._beginning) for ids, places in rows]
        line = Text(f"{draft.reader.calls} calls of the network", style="dim")
        self._live.update(Group(*texts, line), refresh=True)


def hidden_places(draft: Draft, steps: int) -> Tensor:
    """(B, L) True where there is no token yet, after so many steps of the sampler."""
    family: Family = draft.family
    if isinstance(family, Gaussian):
        return draft.free & bool((draft.ids.where(draft.free, 0) == 0).all())
    if family.causal:
        filled = draft.free.cumsum(dim=1) <= steps
        return draft.free & ~filled
    return draft.free & (draft.ids == family.mask_id)


def one_of(values: Sequence[T] | None, name: str) -> T | None:
    """The only value of an option that a sweep takes several of; UserError for more."""
    if values is not None and len(values) > 1:
        raise UserError(f"{name} is given {len(values)} times; a run takes one value")
    return values[0] if values else None
