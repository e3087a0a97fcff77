"""A config becomes a list of planned runs: tokens, steps, FLOPs, memory, expected time, and what is done.

The plan decides nothing about where or when a run happens. A spec's key identifies it: a config changed
under the same name plans new keys, and the runs of the old ones are left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.text import flops_text
from scaling.errors import UserError
from scaling.families import FAMILIES, family_class, get_family
from scaling.flops import sequence_flops, sequences_for
from scaling.ladder import Size
from scaling.spec import DataSpec, RunSpec
from sweeps.config.model import Resources, SweepConfig
from sweeps.config.sizes import size_params, sizes_per_budget
from sweeps.ledger.types import RETRIED, SETTLED, Entry, Needs, Run, State
from sweeps.plan import memory, timing
from sweeps.plan.diff import why_new
from sweeps.plan.rows import spec_columns
from sweeps.pools.devices import is_cpu, kind_of

FEW_STEPS = 200
"""Below this a run says more about warm-up and batch size than about its size."""
FEW_BUDGETS, FEW_SIZES = 3, 4
"""A frontier needs three budgets to show a power law, a parabola four sizes to have one to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What a plan needs to know of the data; `fingerprint` is "" while the data is not prepared."""

    corpus: str
    tokenizer: str
    fingerprint: str
    num_token_ids: int
    train_tokens: int | None = None
    """None: endless, or not known yet."""
    heldout_tokens: int | None = None

    @property
    def prepared(self) -> bool:
        return bool(self.fingerprint)

    @classmethod
    def of(cls, dataset: Any) -> DataFacts:
        """The facts of a prepared dataset."""
        return cls(
            corpus=dataset.corpus,
            tokenizer=dataset.tokenizer,
            fingerprint=dataset.fingerprint,
            num_token_ids=dataset.num_token_ids,
            train_tokens=dataset.num_tokens("train"),
            heldout_tokens=dataset.num_tokens("heldout"),
        )


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of the grid. Not slotted, because key and label are worked out once and kept."""

    spec: RunSpec
    params: int
    """Non-embedding parameters, the N of the law."""
    state: str = "planned"
    """What the ledger says: finished, running, diverged, failed, ...; planned if it does not have it."""
    memory_bytes: float
    """On the GPU where it uses one, else of the process."""
    needs: Needs
    expected_s: float
    """On the plan's kind of device."""

    @cached_property
    def key(self) -> str:
        return self.spec.key

    @cached_property
    def label(self) -> str:
        return label(self.spec)

    @property
    def to_do(self) -> bool:
        return State(self.state) not in SETTLED - RETRIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    config: SweepConfig
    families: tuple[str, ...]
    data: DataFacts
    runs: tuple[PlannedRun, ...]
    warnings: tuple[str, ...]
    kind: str
    """Of device, that the expected times are for."""
    experience: timing.Experience
    """Of runs already done; what the expected times rest on beside a guess."""
    news: tuple[str, ...] = ()
    """Why runs count as new although the ledger has some like them."""

    @property
    def specs(self) -> tuple[RunSpec, ...]:
        return tuple(run.spec for run in self.runs)

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(run.key for run in self.runs)

    @property
    def to_do(self) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.runs if run.to_do)

    def of_family(self, family: str) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.runs if run.spec.family == family)

    def entry(self, run: PlannedRun, dataset: Path | str) -> Entry:
        """A planned run as the scheduler takes it."""
        how = self.config.training
        options: dict[str, Any] = {"checkpoint_every_s": how.checkpoint_every_s, "samples": how.samples}
        if how.micro_batch_size is not None:
            options[memory.OPTION] = how.micro_batch_size
        if how.compile:
            options["compile_trunk"] = True
        return Entry(
            spec=run.spec,
            dataset=str(Path(dataset).absolute()),
            predicted_s=run.expected_s,
            needs=run.needs,
            sequence_bytes=memory.sequence_bytes(run.spec) / _shared_by(self.config.resources),
            columns=spec_columns(run.spec, unique_tokens=self.data.train_tokens),
            options=options,
        )

    def seconds_on(self, kind: str) -> dict[str, float]:
        """Key -> expected seconds on another kind of device."""
        specs = {run.key: run.spec for run in self.runs}
        return _expected_s(self.config, specs, kind, self.experience)


def label(spec: RunSpec) -> str:
    """How messages call a run: family, size and budget, and the seed where it is not the usual one."""
    return f"{spec.family} {spec.size.name} at {flops_text(spec.budget)} FLOPs (seed {spec.seed})"


def choose_families(config: SweepConfig, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """The families to plan: those asked for, else all of the config.

    A family that the product knows but the config does not list runs with its own defaults. UserError
    lists the known ones otherwise.
    """
    names = tuple(dict.fromkeys(asked)) or tuple(choice.name for choice in config.families)
    for name in names:
        if name not in FAMILIES:
            try:
                family_class(name)  # says which are known, and the nearest
            except UserError as error:
                raise UserError(f"{error}" if asked else f"{config.source}: {error}") from None
    return names


def plan_specs(
    config: SweepConfig, data: DataFacts, families: Sequence[str]
) -> tuple[tuple[RunSpec, ...], list[str]]:
    """Every run's spec, by family, budget, size and seed, with sentences about windows off the ladder.

    Raises UserError naming the run whose budget does not pay for one optimizer step, and for a context longer
    than the data.
    """
    _check_context(config, data)
    specs: list[RunSpec] = []
    notes: list[str] = []
    for family in families:
        by_budget, off = sizes_per_budget(config, family, data.num_token_ids)
        notes += off
        specs += [
            _spec(config, data, family, size, budget, seed)
            for budget, sizes in by_budget.items()
            for size in sizes
            for seed in config.seeds
        ]
    return tuple(specs), list(dict.fromkeys(notes))


def _check_context(config: SweepConfig, data: DataFacts) -> None:
    for split, tokens in (("training", data.train_tokens), ("held-out", data.heldout_tokens)):
        if tokens is not None and tokens < config.context_length:
            raise UserError(
                f"{config.source}: context_length is {config.context_length} and the {split} text of "
                f"{data.corpus!r} has {tokens} tokens; it must fit at least once"
            )


def _spec(config: SweepConfig, data: DataFacts, family: str, size: Size, budget: float, seed: int) -> RunSpec:
    cls, options, override = family_class(family), config.family(family).options, config.override(family)
    vocab_size = cls.vocab_size_for(data.num_token_ids, **options)
    convention, length = config.flop_convention, config.context_length
    try:
        built = get_family(family, vocab_size=vocab_size, **options)
        built.check_context(length)
    except UserError as error:
        raise UserError(f"{config.source}: {error}") from None
    work = built.work(length)
    sequences = sequences_for(budget, size, vocab_size, length, convention, work=work)
    batch_size = (override.batch or config.batch)(budget, length)
    if sequences < batch_size:
        per_sequence = sequence_flops(size, vocab_size, length, convention, work=work)
        raise UserError(
            f"{config.source}: run {family} {size.name} at {flops_text(budget)} FLOPs: the budget is too "
            f"small for one optimizer step of {batch_size} sequences, which costs "
            f"{flops_text(batch_size * per_sequence)} FLOPs"
        )
    rate = override.learning_rate or config.learning_rate
    learning_rate = float(f"{rate(size_params(size, data.num_token_ids)):.6g}")
    try:
        return RunSpec(
            family=family,
            family_options=options,
            size=size,
            budget=budget,
            flop_convention=convention,
            sequences=sequences,
            batch_size=batch_size,
            data=DataSpec.of(data, length),
            optimizer=config.optimizer.spec(learning_rate, -(-sequences // batch_size)),
            evaluation=config.evaluation,
            precision=config.precision,
            seed=seed,
        )
    except UserError as error:
        raise UserError(f"{config.source}: {error}") from None


def make_plan(
    config: SweepConfig, data: DataFacts, families: Sequence[str], *, past: Iterable[Run] = (), kind: str = ""
) -> Plan:
    """The whole plan. `past`: the ledger's runs, which say what is done and how long it took.

    kind: of device, that expected times are for (default: this machine's, see `timing.usual_kind`). Raises
    what `plan_specs` raises.
    """
    specs, notes = plan_specs(config, data, families)
    by_key = {spec.key: spec for spec in specs}
    past = tuple(past)
    done = [run for run in past if run.state == State.FINISHED and run.device]
    kind = kind or timing.usual_kind(config.resources.gpus, [str(run.device) for run in done])
    experience = _experience(config, done, by_key)
    seconds = _expected_s(config, by_key, kind, experience)
    states = {run.key: str(run.state) for run in past}
    runs = []
    for key, spec in by_key.items():
        needed = memory.memory_bytes(spec, config.training.micro_batch_size)
        runs.append(
            PlannedRun(
                spec=spec,
                params=spec.param_count("non_embedding"),
                state=states.get(key, "planned"),
                memory_bytes=needed,
                needs=_needs(config, needed),
                expected_s=seconds[key],
            )
        )
    return Plan(
        config=config,
        families=tuple(families),
        data=data,
        runs=tuple(runs),
        warnings=(*_warnings(config, data, runs), *notes),
        kind=kind,
        experience=experience,
        news=tuple(why_new([spec.to_dict() for spec in by_key.values()], by_key, past)),
    )


def _needs(config: SweepConfig, needed: float) -> Needs:
    wanted = config.resources
    return Needs(
        cpus=wanted.cpus,
        gpus=wanted.gpus,
        memory_bytes=0.0 if wanted.gpus else needed,
        gpu_memory_bytes=needed / _shared_by(wanted) if wanted.gpus else 0.0,
        resources=tuple(sorted((name, float(amount)) for name, amount in wanted.custom.items())),
    )


def _shared_by(wanted: Resources) -> float:
    """Share of a GPU that a run has: runs that share one share its memory."""
    return min(wanted.gpus, 1.0) or 1.0


def _expected_s(
    config: SweepConfig, specs: Mapping[str, RunSpec], kind: str, experience: timing.Experience
) -> dict[str, float]:
    wanted = config.resources
    guesses = timing.guesses_s(list(specs.values()), kind=kind, cpus=wanted.cpus, gpus=wanted.gpus)
    return {
        key: experience.seconds(guess, spec.family, spec.param_count("non_embedding"), kind)
        for (key, spec), guess in zip(specs.items(), guesses, strict=True)
    }


def _experience(config: SweepConfig, done: Sequence[Run], known: Mapping[str, RunSpec]) -> timing.Experience:
    """What finished runs teach, those of another config's specs as well."""
    alike: dict[tuple[str, float, float], list[tuple[RunSpec, Run]]] = defaultdict(list)
    for run in done:
        kind = kind_of(str(run.device))
        if run.worked_s > 0 and is_cpu(kind) == (config.resources.gpus <= 0):
            spec = known.get(run.key) or RunSpec.from_dict(run.spec)
            alike[kind, run.needs.cpus, run.needs.gpus].append((spec, run))
    found: list[tuple[Run, float]] = []
    for (kind, cpus, gpus), runs in alike.items():
        guesses = timing.guesses_s([spec for spec, _ in runs], kind=kind, cpus=cpus, gpus=gpus)
        found += [(run, guess_s) for (_, run), guess_s in zip(runs, guesses, strict=True)]
    return timing.Experience(found)


# --- warnings


def _some(runs: Sequence[PlannedRun], limit: int = 3) -> str:
    names = [
        f"{run.spec.family} {run.spec.size.name} at {flops_text(run.spec.budget)}" for run in runs[:limit]
    ]
    more = f" and {len(runs) - limit} more" if len(runs) > limit else ""
    return ", ".join(names) + more


def _warnings(config: SweepConfig, data: DataFacts, runs: Sequence[PlannedRun]) -> list[str]:
    out = []
    few = [run for run in runs if run.spec.steps < FEW_STEPS]
    if few:
        out.append(
            f"{_count(few)} fewer than {FEW_STEPS} optimizer steps: {_some(few)}; a smaller batch gives more"
        )
    if data.train_tokens is not None:
        long = [run for run in runs if run.spec.tokens > data.train_tokens]
        if long:
            most = max(run.spec.tokens for run in long) / data.train_tokens
            out.append(
                f"{_count(long)} more tokens than the corpus has ({data.train_tokens:,}), "
                f"up to {most:.1f} epochs: {_some(long)}"
            )
    if data.heldout_tokens is not None:
        windows = data.heldout_tokens // config.context_length
        if windows < config.evaluation.sequences:
            out.append(
                f"evaluation asks for {config.evaluation.sequences} held-out sequences "
                f"and the data has {windows}; the bound will use those"
            )
    out += _rate_warnings(config, runs)
    thin = [
        b
        for b in config.grid.budgets
        if 0 < len({r.spec.size for r in runs if r.spec.budget == b}) < FEW_SIZES
    ]
    if thin:
        which = ", ".join(flops_text(b) for b in sorted(thin))
        out.append(f"fewer than {FEW_SIZES} sizes at {which} FLOPs; a parabola needs more")
    if len(config.grid.budgets) < FEW_BUDGETS:
        out.append(f"only {len(config.grid.budgets)} budgets; a frontier needs at least {FEW_BUDGETS}")
    return out


def _rate_warnings(config: SweepConfig, runs: Sequence[PlannedRun]) -> list[str]:
    clipped = []
    for run in runs:
        rule = config.override(run.spec.family).learning_rate or config.learning_rate
        rate = rule.unclipped(size_params(run.spec.size, run.spec.data.num_token_ids))
        if not rule.smallest <= rate <= rule.largest:
            clipped.append(run)
    if not clipped:
        return []
    return [
        f"the learning-rate rule leaves its range (and is held at its end) for {len(clipped)} of {len(runs)} "
        f"runs: {_some(clipped)}"
    ]


def _count(runs: Sequence[PlannedRun]) -> str:
    return "1 run has" if len(runs) == 1 else f"{len(runs)} runs have"
