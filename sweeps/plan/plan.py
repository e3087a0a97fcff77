"""A config becomes a list of planned runs: tokens, steps, FLOPs, memory, expected time and state.

The plan does not decide when or on which node a run happens. A spec's key identifies a run: a config that has
changed under the same name plans new keys, and the runs under the old keys stay as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from analysis.text import count_text, flops_text
from scaling.errors import UserError
from scaling.families import FAMILIES, family_class, family_name, get_family
from scaling.flops import sequence_flops, sequences_for
from scaling.ladder import Size
from scaling.spec import DataSpec, RunSpec
from sweeps.config.model import Resources, SweepConfig
from sweeps.config.rules import Extent, outside
from sweeps.config.sizes import size_params, sizes_per_budget
from sweeps.ledger.types import RETRIED, SETTLED, Entry, Needs, Run, State
from sweeps.plan import memory, replicas, timing
from sweeps.plan.diff import why_new
from sweeps.plan.distilled import distilled_specs
from sweeps.plan.rows import spec_columns
from sweeps.pools.devices import gpu, is_cpu, kind_of

FEW_STEPS = 200
"""Below this a run says more about warm-up and batch size than about its size."""
FEW_BUDGETS, FEW_SIZES = 3, 4
"""A frontier needs three budgets to show a power law, a parabola four sizes to have one to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The data, as far as a plan needs it; `fingerprint` is "" while it is not prepared."""

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
    """One run of the grid. Not slotted, because its key is computed once and kept."""

    spec: RunSpec
    params: int
    """Non-embedding parameters, the N of the law."""
    state: str = "planned"
    """In the ledger: finished, running, diverged, failed, ...; planned if the ledger does not have it."""
    memory_bytes: float
    """On the GPU if it uses one, else of the process."""
    needs: Needs
    expected_s: float
    """On the plan's kind of device."""

    @cached_property
    def key(self) -> str:
        return self.spec.key

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
    """The kind of device for which times are expected."""
    experience: timing.Experience
    """Finished runs, which correct the guessed times."""
    news: tuple[str, ...] = ()
    """Why runs count as new although the ledger has similar ones."""

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(run.key for run in self.runs)

    @property
    def to_do(self) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.runs if run.to_do)

    def of_family(self, family: str) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.runs if run.spec.family == family)

    def entry(self, run: PlannedRun, dataset: Path | str) -> Entry:
        """A planned run, ready for the driver."""
        how, evaluation = self.config.training, self.config.evaluation
        options: dict[str, Any] = {"checkpoint_every_s": how.checkpoint_every_s, "samples": how.samples}
        if how.micro_batch_size is not None:
            options[memory.OPTION] = how.micro_batch_size
        if how.compile:
            options["compile_trunk"] = True
        if not how.keep_weights:
            options["keep_weights"] = False
        if evaluation.during:
            options |= {"during": evaluation.during, "during_sequences": evaluation.during_sequences}
        return Entry(
            spec=run.spec,
            dataset=str(Path(dataset).absolute()),
            predicted_s=run.expected_s,
            needs=run.needs,
            sequence_bytes=memory.sequence_bytes(run.spec) / _gpu_share(self.config.resources),
            columns=spec_columns(run.spec, unique_tokens=self.data.train_tokens),
            options=options,
        )

    def seconds_on(self, kind: str) -> dict[str, float]:
        """Key -> expected seconds on another kind of device."""
        specs = [run.spec for run in self.runs]
        seconds = _expected_s(self.config, specs, kind, self.experience)
        return {run.key: expected_s for run, expected_s in zip(self.runs, seconds, strict=True)}


def choose_families(config: SweepConfig, only: Sequence[str] = ()) -> tuple[str, ...]:
    """The families to plan: `only` these, else all of the config.

    A family that the config does not list runs with its own defaults. UserError for an unknown family.
    """
    names = tuple(dict.fromkeys(map(family_name, only))) or tuple(choice.name for choice in config.families)
    for name in names:
        if name not in FAMILIES:
            try:
                family_class(name)  # says which are known, and the nearest
            except UserError as error:
                raise UserError(f"{error}" if only else f"{config.source}: {error}") from None
    return names


def plan_specs(
    config: SweepConfig,
    data: DataFacts,
    families: Sequence[str],
    *,
    past: Iterable[Run] = (),
    choose: replicas.Choose = replicas.one_each,
) -> tuple[tuple[RunSpec, ...], list[str]]:
    """Every run's spec, by family, budget, size and seed, with sentences about windows off the ladder.

    past, choose: see `replicas.pack`. UserError for a budget that does not pay for one optimizer step, and
    for a context longer than the data.
    """
    for split, tokens in (("training", data.train_tokens), ("held-out", data.heldout_tokens)):
        if tokens is not None and tokens < config.context_length:
            raise UserError(
                f"{config.source}: context_length is {config.context_length} and the {split} text of "
                f"{data.corpus!r} has {tokens} tokens; it must fit at least once"
            )
    cells: list[list[RunSpec]] = []
    notes: list[str] = []
    for family in families:
        by_budget, off = sizes_per_budget(config, family, data.num_token_ids)
        notes += off
        cells += [
            [_spec(config, data, family, size, budget, seed) for seed in config.seeds_of(family, budget)]
            for budget, sizes in by_budget.items()
            for size in sizes
        ]
    specs = replicas.pack(config, cells, past, choose)
    if config.distillation is not None:
        specs += distilled_specs(config, specs)
    return tuple(specs), list(dict.fromkeys(notes))


def _spec(config: SweepConfig, data: DataFacts, family: str, size: Size, budget: float, seed: int) -> RunSpec:
    cls, options = family_class(family), config.family(family).options
    vocab_size = cls.vocab_size_for(data.num_token_ids, **options)
    convention, length = config.flop_convention, config.context_length
    try:
        built = get_family(family, vocab_size=vocab_size, **options)
        built.labels = config.labels
        built.check_context(length)
    except UserError as error:
        raise UserError(f"{config.source}: {error}") from None
    work = built.training_work(length)
    sequences = sequences_for(budget, size, vocab_size, length, convention, work=work)
    # in this order, so that no rule is circular: tokens, batch, steps, learning rate
    extent = Extent(size_params(size, data.num_token_ids), sequences * length)
    batch_size = config.batch_rule(family)(budget, length, extent)
    if sequences < batch_size:
        per_sequence = sequence_flops(size, vocab_size, length, convention, work=work)
        raise UserError(
            f"{config.source}: run {family} {size.name} at {flops_text(budget)} FLOPs: the budget is too "
            f"small for one optimizer step of {batch_size} sequences, which costs "
            f"{flops_text(batch_size * per_sequence)} FLOPs"
        )
    steps = -(-sequences // batch_size)
    extent = extent._replace(batch=batch_size * length, steps=steps)
    learning_rate = float(f"{config.rate_rule(family)(extent):.6g}")
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
            optimizer=config.optimizer_rule(family).spec(learning_rate, steps),
            evaluation=config.evaluation.spec,
            precision=config.precision,
            seed=seed,
            labels=config.labels,
        )
    except UserError as error:
        raise UserError(f"{config.source}: {error}") from None


def extent_of(spec: RunSpec) -> Extent:
    """The quantities of a run that the rules see."""
    params = size_params(spec.size, spec.data.num_token_ids)
    batch = spec.batch_size * spec.data.context_length
    return Extent(params, spec.tokens, batch=batch, steps=spec.steps)


def make_plan(
    config: SweepConfig,
    data: DataFacts,
    families: Sequence[str],
    *,
    past: Iterable[Run] = (),
    kind: str = "",
    slots: int = 1,
    memory_bytes: float = math.inf,
) -> Plan:
    """The whole plan. `past`: the ledger's runs, with their states and times.

    kind: of device, for which times are expected; "": see `timing.usual_kind`. slots: how many runs go at
    once. memory_bytes: of the largest node, or of its GPUs; infinite: those of the kind. UserError: see
    `plan_specs`, and for replicas that do not fit into memory.
    """
    past = tuple(past)
    done = [run for run in past if run.state == State.FINISHED and run.device]
    kind = kind or timing.usual_kind(config.resources.gpus, [str(run.device) for run in done])
    if config.resources.gpus:
        if math.isinf(memory_bytes) and (sheet := gpu(kind)):
            memory_bytes = sheet.memory_bytes
        memory_bytes *= _gpu_share(config.resources)
    choose: replicas.Choose = replicas.one_each
    if config.grid.chooses_replicas:
        seconds = partial(_expected_s, config, kind=kind, experience=_experience(config, done, {}))
        choose = partial(replicas.quickest, seconds=seconds, slots=slots, memory_bytes=memory_bytes)
    specs, notes = plan_specs(config, data, families, past=past, choose=choose)
    replicas.check_memory(config, specs, memory_bytes)
    return plan_of(config, data, families, specs, notes=notes, past=past, kind=kind)


def plan_of(
    config: SweepConfig,
    data: DataFacts,
    families: Sequence[str],
    specs: Iterable[RunSpec],
    *,
    notes: Sequence[str] = (),
    past: Iterable[Run] = (),
    kind: str = "",
) -> Plan:
    """The plan of these runs, see `make_plan`."""
    by_key = {spec.key: spec for spec in specs}
    past = tuple(past)
    done = [run for run in past if run.state == State.FINISHED and run.device]
    kind = kind or timing.usual_kind(config.resources.gpus, [str(run.device) for run in done])
    experience = _experience(config, done, by_key)
    seconds = dict(zip(by_key, _expected_s(config, list(by_key.values()), kind, experience), strict=True))
    states = {run.key: str(run.state) for run in past}
    resources, runs = config.resources, []
    for key, spec in by_key.items():
        memory_bytes = memory.memory_bytes(spec, config.training.micro_batch_size)
        needs = Needs(
            cpus=resources.cpus,
            gpus=resources.gpus,
            memory_bytes=0.0 if resources.gpus else memory_bytes,
            gpu_memory_bytes=memory_bytes / _gpu_share(resources) if resources.gpus else 0.0,
            resources=tuple(sorted((name, float(amount)) for name, amount in resources.custom.items())),
        )
        runs.append(
            PlannedRun(
                spec=spec,
                params=spec.param_count("non_embedding"),
                state=states.get(key, "planned"),
                memory_bytes=memory_bytes,
                needs=needs,
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


def _gpu_share(resources: Resources) -> float:
    """Share of a GPU, and of its memory, that a run has."""
    return min(resources.gpus, 1.0) or 1.0


def _expected_s(
    config: SweepConfig, specs: Sequence[RunSpec], kind: str, experience: timing.Experience
) -> list[float]:
    guesses = _guesses_s(config, specs, kind, config.resources.cpus, config.resources.gpus)
    return [
        experience.seconds(guess, spec.family, spec.param_count("non_embedding"), kind)
        for spec, guess in zip(specs, guesses, strict=True)
    ]


def _guesses_s(
    config: SweepConfig, specs: Sequence[RunSpec], kind: str, cpus: float, gpus: float
) -> list[float]:
    during = config.evaluation.during * config.evaluation.during_sequences
    return timing.guesses_s(specs, kind=kind, cpus=cpus, gpus=gpus, during_sequences=during)


def _experience(config: SweepConfig, done: Sequence[Run], specs: Mapping[str, RunSpec]) -> timing.Experience:
    """Finished runs, also those of other configs, with the guessed time of each."""
    alike: dict[tuple[str, float, float], list[tuple[RunSpec, Run]]] = defaultdict(list)
    for run in done:
        kind = kind_of(str(run.device))
        if run.worked_s > 0 and is_cpu(kind) == (config.resources.gpus <= 0):
            spec = specs.get(run.key) or RunSpec.from_dict(run.spec)
            alike[kind, run.needs.cpus, run.needs.gpus].append((spec, run))
    guessed: list[tuple[Run, float]] = []
    for (kind, cpus, gpus), runs in alike.items():
        guesses = _guesses_s(config, [spec for spec, _ in runs], kind, cpus, gpus)
        guessed += [(run, guess_s) for (_, run), guess_s in zip(runs, guesses, strict=True)]
    return timing.Experience(guessed)


def _warnings(config: SweepConfig, data: DataFacts, runs: Sequence[PlannedRun]) -> list[str]:
    def examples(of: Sequence[PlannedRun], limit: int = 3) -> str:
        names = [f"{r.spec.family} {r.spec.size.name} at {flops_text(r.spec.budget)}" for r in of[:limit]]
        return ", ".join(names) + (f" and {len(of) - limit} more" if len(of) > limit else "")

    def count(of: Sequence[PlannedRun]) -> str:
        return "1 run has" if len(of) == 1 else f"{len(of)} runs have"

    out = []
    if short := [run for run in runs if run.spec.steps < FEW_STEPS]:
        out.append(
            f"{count(short)} fewer than {FEW_STEPS} optimizer steps: {examples(short)}; "
            "a smaller batch gives more"
        )
    if data.train_tokens and (long := [run for run in runs if run.spec.tokens > data.train_tokens]):
        most = max(run.spec.tokens for run in long) / data.train_tokens
        out.append(
            f"{count(long)} more tokens than the corpus has ({data.train_tokens:,}), "
            f"up to {most:.1f} epochs: {examples(long)}"
        )
    if data.heldout_tokens is not None:
        windows = data.heldout_tokens // config.context_length
        if windows < config.evaluation.sequences:
            out.append(
                f"evaluation asks for {config.evaluation.sequences} held-out sequences "
                f"and the data has {windows}; the bound will use those"
            )
    trained = [run for run in runs if run.spec.distillation is None]  # the others follow no rule
    clipped = []
    beyond: dict[tuple[str, str], list[PlannedRun]] = defaultdict(list)
    for run in trained:
        rate, batch = config.rate_rule(run.spec.family), config.batch_rule(run.spec.family)
        extent = extent_of(run.spec)
        if not rate.smallest <= rate.unclipped(extent) <= rate.largest:
            clipped.append(run)
        for word, rule in (("learning-rate", rate), ("batch", batch)):
            for name in outside(rule, extent):
                low, high = (rule.tried or {})[name]
                beyond[word, f"{name} from {count_text(low)} to {count_text(high)}"].append(run)
    if clipped:
        out.append(
            "the learning-rate rule leaves its range (and is held at its end) "
            f"for {len(clipped)} of {len(runs)} runs: {examples(clipped)}"
        )
    for (word, tried), some in beyond.items():
        out.append(
            f"the {word} rule was found at {tried} and is extrapolated "
            f"for {len(some)} of {len(runs)} runs: {examples(some)}"
        )
    sizes = {
        b: {run.spec.size for run in runs if run.spec.budget == b}
        for b in {run.spec.budget for run in trained}
    }
    if thin := sorted(budget for budget, some in sizes.items() if 0 < len(some) < FEW_SIZES):
        budgets = ", ".join(map(flops_text, thin))
        out.append(f"fewer than {FEW_SIZES} sizes at {budgets} FLOPs; a parabola needs more")
    if len(sizes) < FEW_BUDGETS:
        out.append(f"only {len(sizes)} budgets; a frontier needs at least {FEW_BUDGETS}")
    return out
