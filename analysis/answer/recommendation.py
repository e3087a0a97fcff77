"""Which family, which size, how sure: the answer for a budget, in sentences, as a ranking, with a grade.

answer = analysis.recommend(runs, flops=1e20)
print(answer)                    # the sentences and the ranking
answer.table, answer.grade       # numbers
answer.at(1e21)                  # the same runs, another budget: no law is fitted again
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.answer.budget import budget_text, flops_of, number_of
from analysis.answer.grade import EVEN, FAR, FARTHEST, REFUSED, SAME, grade_of, in_reach
from analysis.answer.methods import (
    DRAWS,
    METHODS,
    FamilyLaws,
    Outcome,
    best_run,
    fit_families,
    flops_for,
    given_run,
    interval_of,
    limited_run,
    paired_losses,
    shares_won,
    size_range,
)
from analysis.answer.shown import NAMES, difference_text, percent_text, range_text, ranking_table
from analysis.errors import UserError
from analysis.plotted import Plotted
from analysis.speed.comparison import speed_quality
from analysis.text import MISSING, flops_text, interval_text, is_missing, number_text

REFERENCE = "ar"
WITHIN = 0.005
"""Sizes whose loss is within this share of the best one's are as good as the best."""
COLUMNS = (
    *("family", "params", "params_low", "params_high", "tokens", "tokens_low", "tokens_high"),
    *(
        "loss",
        "loss_low",
        "loss_high",
        "difference",
        "difference_low",
        "difference_high",
        "best_share",
        "bound",
    ),
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Recommendation(Plotted):
    """The answer for one budget."""

    figure: ClassVar[str] = "answer"
    flops: float
    budget: str
    """The budget in words."""
    reference: str | None
    level: float
    table: pd.DataFrame
    """One row per family, best first: params, tokens (low and high: between them the loss is within 0.5% of
    the best), loss with its interval, difference to the best family (nats, paired, with interval; 0 for the
    best), best_share (of the draws in which it is the best), bound ("exact", "upper" or "")."""
    methods: pd.DataFrame
    """One row per family and method: params, tokens, loss, difference (as the method estimates them) and
    best_share (of the method's draws)."""
    order_share: float
    """Share of the draws with all families in the order of the table."""
    grade: str
    cause: str
    """The one cause of the grade."""
    causes: tuple[str, ...]
    """All that hold, the weightiest first."""
    refused: Mapping[str, str]
    """Families without any law, or with a broken one, and why."""
    families: Mapping[str, FamilyLaws]
    limits: Mapping[str, Any]
    """What was given beside the budget: params, tokens, unique_tokens, epochs."""
    speed: str = ""
    """What samples say of speed, in a sentence; "" without samples. It belongs to no budget."""

    @property
    def best(self) -> str:
        """The family with the lowest loss."""
        return str(self.table["family"].iloc[0])

    @property
    def sentence(self) -> str:
        """What to train, in one to four sentences; the grade and its cause are in `confidence`."""
        return " ".join(self.sentences)

    @property
    def sentences(self) -> list[str]:
        """The parts of `sentence`: the best family, then the best other one or the reference."""
        if self.sentence_only:
            return [self._refusal()]
        several = len(self.table) > 1
        sentences = [f"{self._contest(self.table, f'For {self.budget} train')}."]
        rest = self.table[self.table["family"] != self.reference]
        if several and self.best == self.reference and len(rest):
            sentences.append(f"{self._contest(rest, 'Best other family:')}.")
        elif several and self.reference is not None and self.reference in set(self.table["family"]):
            row = self.table.set_index("family").loc[self.reference]
            sentences.append(f"{self.reference} ends {difference_text(row)} nats above it.")
        text = self.limits.get("unique_tokens", np.inf)
        whole = self.table.loc[self.table["tokens"] > text * 0.999, "family"]
        if once := [name for name in whole if self.families[name].repeats is None]:
            which = f" of {', '.join(once)}" if any(once) else ""
            sentences.append(f"The runs{which} do not show what repeated text is worth, so it is read once.")
        return [*sentences, self.speed] if self.speed else sentences

    @property
    def confidence(self) -> str:
        """ "Confidence: with care. ..." """
        if self.sentence_only:
            return f"Confidence: {self.grade}."
        return f"Confidence: {self.grade}. {self.cause[:1].upper()}{self.cause[1:]}."

    @property
    def sentence_only(self) -> bool:
        """The answer is refused: its numbers are not to be shown."""
        return self.grade == REFUSED

    def difference_text(self, row: Mapping[str, Any] | pd.Series) -> str:
        """How far a family ends above the best one, in nats; "" for the best."""
        return "" if row["family"] == self.best else difference_text(row)

    @staticmethod
    def share_text(share: float | None) -> str:
        """A share of draws as a percentage."""
        return MISSING if is_missing(share) else percent_text(float(share or 0.0))

    def _refusal(self) -> str:
        largest = max(family.largest_budget for family in self.families.values())
        smallest = min(family.smallest_budget for family in self.families.values())
        if self.flops > largest * FARTHEST:
            beyond = number_text(self.flops / largest, 2)
            return (
                f"These runs cannot answer {self.budget}: the largest budget measured is "
                f"{flops_text(largest)}, {beyond} times below. "
                f"Add budgets up to about {flops_text(self.flops / FARTHEST, 1)} FLOPs."
            )
        if self.flops * FARTHEST * SAME < smallest:
            return (
                f"These runs cannot answer {self.budget}: the budget lies far below what was measured; "
                f"the smallest budget measured is {flops_text(smallest)} FLOPs."
            )
        return f"These runs cannot answer {self.budget}: {self.cause}."

    def _contest(self, table: pd.DataFrame, opening: str) -> str:
        """The first family of a table, or those that cannot be told apart."""
        names = [str(name) for name in table["family"]]
        won = {method: shares_won(self._outcomes, names, method) for method in METHODS}
        won = {method: shares for method, shares in won.items() if shares}
        paired = paired_losses(self._outcomes)
        drawn = np.stack([paired[name][1:] for name in names])
        share = float(np.mean(drawn.argmin(axis=0) == 0))
        lead = {method: max(shares, key=shares.__getitem__) for method, shares in won.items()}
        contest = list(dict.fromkeys([names[0], *lead.values()]))
        if len(contest) == 1 and len(names) > 1 and share < EVEN:
            contest.append(names[1])
        rows = table.set_index("family", drop=False)
        if len(contest) == 1:
            text = f"{opening} {names[0]}{': ' if names[0] else ''}{self._run(rows.loc[names[0]])}"
            if len(names) == 1:
                return text
            ahead = float(np.mean(drawn[0] <= drawn[1]))
            return f"{text}; it beats {names[1]} in {percent_text(ahead)} of resamples"
        if len(set(lead.values())) > 1:
            why = ", ".join(
                f"{NAMES[method]} prefers {family} ({percent_text(won[method][family])} of resamples)"
                for method, family in lead.items()
            )
        else:
            why = f"{names[0]} is the better one in {percent_text(share)} of resamples"
        runs = "; ".join(f"{name}: {self._run(rows.loc[name])}" for name in contest)
        return f"{opening} {' or '.join(contest)}. {why[:1].upper()}{why[1:]}. Their best runs are {runs}"

    _outcomes: Mapping[str, Outcome]

    def _run(self, row: pd.Series) -> str:
        params, tokens = (
            range_text(row[f"{name}_low"], row[f"{name}_high"]) for name in ("params", "tokens")
        )
        loss = interval_text(row["loss"], row["loss_low"], row["loss_high"], digits=4)
        epochs = row["tokens"] / self.limits.get("unique_tokens", np.inf)
        often = f"{epochs:.1f}".removesuffix(".0")
        again = f" ({often} epochs)" if epochs > 1.001 else ""
        return f"{params} parameters on {tokens} tokens{again}, loss about {loss}"

    def at(self, flops: float | str | None = None, **limits: Any) -> Recommendation:
        """The answer of the same laws for another budget; arguments as of `recommend`."""
        answer = answer_from(
            self.families, self.refused, flops, reference=self.reference, level=self.level, **limits
        )
        return replace(answer, speed=self.speed)

    def budget_for(self, loss: float) -> pd.DataFrame:
        """What a loss costs (nats per token): see `analysis.budget_for`."""
        return _budget_for(self.families, self.level, loss)

    def summary(self) -> pd.DataFrame:
        return self.table

    def __str__(self) -> str:
        lines = [*self.sentences, self.confidence]
        if not self.sentence_only:
            lines += ["", *(line.removeprefix("  ") for line in str(ranking_table(self)).splitlines())]
        lines += [f"no law: {name or 'these runs'}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        sentences, _, rows = str(self).partition("\n\n")
        text = "".join(f"<p>{html.escape(line)}</p>" for line in sentences.split("\n"))
        return f'{text}<pre style="font-family: monospace">{html.escape(rows)}</pre>' if rows else text

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types at full precision; a missing number is None."""
        tables = {}
        for name in ("table", "methods"):
            table = getattr(self, name).astype(object)
            table = table.where(table.notna() & ~table.isin([np.inf, -np.inf]), None)
            tables[name] = table.to_dict(orient="records")
        return {
            "flops": self.flops, "budget": self.budget, "sentence": self.sentence, "grade": self.grade,
            "cause": self.cause, "causes": list(self.causes), "confidence": self.confidence,
            "reference": self.reference, "level": self.level, "order_share": self.order_share,
            "ranking": tables["table"], "methods": tables["methods"], "refused": dict(self.refused),
            "limits": dict(self.limits), "speed": self.speed,
        }  # fmt: skip


def recommend(
    runs: pd.DataFrame,
    flops: float | str | None = None,
    *,
    gpus: float | str | None = None,
    days: float | None = None,
    utilisation: float | None = None,
    params: float | str | None = None,
    tokens: float | str | None = None,
    unique_tokens: float | str | None = None,
    epochs: float | None = None,
    reference: str | None = REFERENCE,
    samples: pd.DataFrame | None = None,
    tokens_per_s: float | None = None,
    latency_s: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
    report: Callable[[str, int, int], None] | None = None,
) -> Recommendation:
    """Which family should get a budget, at which size, and how sure that is.

    runs has the columns of `fit_law`, and family. The budget is flops (a number, or "1e20 FLOPs", "10^20"),
    or gpus (64, "64xH100") for days at a utilisation (MFU, default 0.4). params or tokens: the run must have
    that size, or read that many tokens. unique_tokens: so much text there is, read at most epochs times
    (without epochs as often as pays) by families whose runs tell a law of repeated text, and once by others.
    reference: the family the others are measured against, if it has runs. samples: of these runs, see
    `load_samples`; the answer then says which family samples best at which speed, or at just this one:
    tokens_per_s of many texts at once, or latency_s, seconds for one. draws: resamples of each law;
    level: of the intervals; report(family, number, of) is called before each family is fitted.

    UserError for a budget that is missing, given twice or no number, for limits that exclude each other, for
    a reference other than ar that has no runs, for a speed without samples or that no sampler has, for fewer
    than 40 draws, and if no family has a law. Families without a law, or whose law is broken, are left out
    and named in `refused`.
    """
    question = {"gpus": gpus, "days": days, "utilisation": utilisation, "params": params, "tokens": tokens,
                "unique_tokens": unique_tokens, "epochs": epochs}  # fmt: skip
    question = {name: value for name, value in question.items() if value is not None}
    _question(flops, question)  # a bad question is refused before the laws are fitted
    speed = _speed_sentence(samples, tokens_per_s, latency_s, level)
    families, refused = fit_families(runs, draws=draws, seed=seed, level=level, report=report)
    if reference not in (None, REFERENCE, *families, *refused) and any(families):
        raise UserError(f"reference = {reference!r}: the runs have {', '.join([*families, *refused])}")
    answer = answer_from(families, refused, flops, reference=reference, level=level, **question)
    return replace(answer, speed=speed)


def _speed_sentence(
    samples: pd.DataFrame | None, tokens_per_s: float | None, latency_s: float | None, level: float
) -> str:
    if samples is None and (tokens_per_s, latency_s) == (None, None):
        return ""
    if samples is None:
        name = "latency_s" if tokens_per_s is None else "tokens_per_s"
        raise UserError(f"{name} needs samples of the runs: `scaling sample SWEEP` makes them")
    comparison = speed_quality(samples, level=level)
    if (tokens_per_s, latency_s) == (None, None):
        return comparison.sentence
    return comparison.answer(tokens_per_s=tokens_per_s, latency_s=latency_s)


def budget_for(
    runs: pd.DataFrame, loss: float, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """What a loss costs: one row per family, cheapest first: family, flops (of the compute-optimal run that
    reaches `loss`, nats per token), low, high (infinite: perhaps never), params, tokens, reached (share of
    the draws that get there at all), extrapolated (beyond the family's budgets). UserError unless loss is
    above 0."""
    _check_loss(loss)
    families, _ = fit_families(runs, draws=draws, seed=seed, level=level)
    return _budget_for(families, level, loss)


def usual_budget(families: Mapping[str, FamilyLaws]) -> float:
    """The budget to answer for where none is given: ten times the largest one measured in every family, which
    is as far as an answer can be reliable."""
    return FAR * min(family.largest_budget for family in families.values())


def _question(flops: float | str | None, extras: Mapping[str, Any]) -> tuple[float, str, dict[str, float]]:
    """FLOPs, the budget in words, and limits as numbers."""
    limits = {name: number_of(extras[name], name) for name in ("params", "tokens", "unique_tokens", "epochs")
              if name in extras}  # fmt: skip
    if "params" in limits and "tokens" in limits:
        raise UserError("params and tokens fix the budget; give one of the two beside it")
    if "unique_tokens" in limits and ("params" in limits or "tokens" in limits):
        raise UserError("unique_tokens limits the text; give it without params and tokens")
    if "epochs" in limits and "unique_tokens" not in limits:
        raise UserError(f"epochs = {extras['epochs']!r} needs unique_tokens: how much text there is")
    if limits.get("epochs", 1) < 1:
        raise UserError(f"epochs = {extras['epochs']!r}: how often unique_tokens may be read, 1 or more")
    pool = {name: extras.get(name) for name in ("gpus", "days", "utilisation")}
    total = flops_of(flops, **pool)
    return total, budget_text(total, gpus=pool["gpus"], days=pool["days"]), limits


# broken laws have their optimum at infinity; the grade says so
@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def answer_from(
    families: Mapping[str, FamilyLaws],
    refused: Mapping[str, str],
    flops: float | str | None = None,
    *,
    reference: str | None = REFERENCE,
    level: float = 0.95,
    **extras: Any,
) -> Recommendation:
    """The answer of laws as `fit_families` gives them; the rest as of `recommend`."""
    total, words, limits = _question(flops, extras)
    count = max(family.draws for family in families.values())
    outcomes: dict[str, Outcome] = {}
    sound, broken = _sound(families)
    within = {name: family for name, family in sound.items() if in_reach(family, total)}
    far = {name: f"its budgets end too far from {words}" for name in sound if within and name not in within}
    left_out = {**refused, **broken, **far}
    for name, family in (within or sound).items():
        try:
            if "unique_tokens" in limits:
                epochs = limits.get("epochs", np.inf)
                outcomes[name] = limited_run(
                    family, total, count, unique_tokens=limits["unique_tokens"], epochs=epochs
                )
            elif "params" in limits or "tokens" in limits:
                cost = next(iter(family.laws.values())).cost
                size = limits.get("params") or (total / (cost.k * limits["tokens"])) ** (1 / cost.q)
                outcomes[name] = given_run(family, size, total / (cost.k * size**cost.q), count)
            else:
                outcomes[name] = best_run(family, total, count)
        except UserError as problem:
            left_out[name] = str(problem)
    if not outcomes:
        raise UserError("; ".join(left_out.values()))

    paired = paired_losses(outcomes)
    ranking = sorted(outcomes, key=lambda name: paired[name][0])
    drawn = np.stack([paired[name][1:] for name in ranking])
    won = drawn.argmin(axis=0)
    order = float(np.mean(np.all(np.diff(drawn, axis=0) >= 0, axis=0)))
    rows, by_method = [], []
    for number, name in enumerate(ranking):
        outcome, family = outcomes[name], families[name]
        params, tokens = (float(np.exp(values[0])) for values in (outcome.log_params, outcome.log_tokens))
        sizes = size_range(family, total, WITHIN) if outcome.free else (params, params)
        cost = next(iter(family.laws.values())).cost
        loss = outcome.loss_interval(level)
        difference = interval_of(paired[name] - paired[ranking[0]], level)
        spent = (tokens, tokens)
        if outcome.free:
            spent = tuple(total / (cost.k * size**cost.q) for size in sizes[::-1])
        values = (name, params, *sizes, tokens, *spent, float(loss), loss.low, loss.high, float(difference),
                  difference.low, difference.high, float(np.mean(won == number)), family.bound)  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for method in METHODS:
        having = [name for name in ranking if method in outcomes[name].estimates]
        won_by = shares_won(outcomes, having, method)
        for name in having:
            params, tokens, value = outcomes[name].estimates[method]
            least = min(outcomes[other].estimates[method][2] for other in having)
            by_method.append({
                "family": name, "method": method, "params": params, "tokens": tokens, "loss": value,
                "difference": value - least, "best_share": won_by[name],
            })  # fmt: skip
    methods = pd.DataFrame(by_method)
    free = all(outcomes[name].free for name in ranking)
    grade, causes = grade_of(families, table, methods, total, limited=not free, left_out=left_out)
    return Recommendation(
        flops=total, budget=words, reference=reference if reference in families else None, level=level,
        table=table, methods=methods, order_share=order, grade=grade, cause=causes[0], causes=tuple(causes),
        refused=left_out, families=families, limits=limits, _outcomes=outcomes,
    )  # fmt: skip


def _sound(families: Mapping[str, FamilyLaws]) -> tuple[Mapping[str, FamilyLaws], dict[str, str]]:
    """Families whose laws are not broken, and for the others why; all of them if none is sound, for the grade
    to refuse."""
    broken = {name: family.fault for name, family in families.items() if family.fault}
    if len(broken) == len(families):
        return families, {}
    return {name: family for name, family in families.items() if name not in broken}, broken


@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def _budget_for(families: Mapping[str, FamilyLaws], level: float, loss: float) -> pd.DataFrame:
    _check_loss(loss)
    count = max(family.draws for family in families.values())
    rows = []
    for name, family in _sound(families)[0].items():
        drawn = flops_for(family, loss, count)
        cost = interval_of(drawn, level)
        run = best_run(family, float(cost), 0) if np.isfinite(cost) else None
        rows.append({
            "family": name, "flops": float(cost), "low": cost.low, "high": cost.high,
            "params": float(np.exp(run.log_params[0])) if run else pd.NA,
            "tokens": float(np.exp(run.log_tokens[0])) if run else pd.NA,
            "reached": float(np.isfinite(drawn[1:]).mean()) if count else pd.NA,
            "extrapolated": not family.smallest_budget / SAME <= cost <= family.largest_budget * SAME,
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("flops", ignore_index=True)


def _check_loss(loss: float) -> None:
    if isinstance(loss, str | bool) or not 0 < loss < np.inf:
        raise UserError(f"loss = {loss!r}: give a loss in nats per token, above 0")
