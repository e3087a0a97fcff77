"""Speed against quality: each family's front, who leads at which speed and entropy, with intervals.

    comparison = analysis.speed_quality(analysis.load_samples("runs/desk"))
    print(comparison)                         # who leads where, crossings, fronts
    comparison.at(tokens_per_s=5000)          # the best of each family at that speed
    comparison.plot()

Perplexity under a judge falls when texts repeat themselves, so it never stands alone: every row has the
entropy of its texts beside it, and a lead that comes with lower entropy is named as such.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Rule, interval
from analysis.plotted import Plotted
from analysis.printed import Printed, TextTable, notes_html
from analysis.speed.fronts import Contest, contest, non_dominated, offers_of
from analysis.speed.samples import comparable, sampler_text
from analysis.text import count_text, flops_text, interval_text, is_missing, number_text

MANY, ONE = "many texts", "one text"
"""Throughput of a batch, and speed of a text alone: caches help the second, few steps the first."""
LESS = 0.05
"""Nats by which a leader's entropy has to be lower, beyond its interval, to be named."""
VARIED = 0.9
"""Share of held-out text's entropy that texts must have to stand on a front."""
SURE = 0.95
"""A family that is ahead in fewer draws than this is not told apart from the next one."""
FEWEST_DRAWS = 40
LEAD_COLUMNS = (
    *("at", "family", "above", "fastest", "gen_ppl_slowest", "gen_ppl_fastest", "entropy_slowest"),
    *("entropy_fastest", "share", "runner_up", "entropy_difference", "entropy_low", "entropy_high"),
)
CROSSING_COLUMNS = ("at", "slower", "faster", "speed", "low", "high", "runs_out")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SpeedQuality(Plotted, Printed):
    """Samples of several families: fronts of speed against generative perplexity, and who leads where.

    Speeds are in tokens per second: of many texts at once (`MANY`), or of one text alone (`ONE`, its length
    over its latency).
    """

    figure: ClassVar[str] = "speed_quality"
    points: pd.DataFrame
    """The samples, one row per run, sampler and steps, with gen_ppl and entropy (mean over texts, nats), each
    with _low and _high; speed_one (tokens per second of one text); dull: whether its entropy is below
    `least_entropy`; front_many and front_one: whether it is not, and no other point of its family is at least
    as fast and at least as good."""
    leads: pd.DataFrame
    """One row per range of speeds with one family ahead: at (`MANY` or `ONE`), family, above and fastest
    (tokens/s: the range is above the first, up to the second), gen_ppl and entropy of its points at both
    ends, share (of the draws in which it is ahead at the middle of the range), runner_up there, and
    entropy_difference (its entropy less the runner-up's, nats, with interval)."""
    crossings: pd.DataFrame
    """One row per change of the lead: at, slower (ahead up to `speed`), faster, speed, low, high (tokens/s;
    0 or infinite: open), runs_out (`slower` has no faster point)."""
    level: float
    judge: str
    length: int
    least_entropy: float
    """Nats: texts with less stand on no front, however likely the judge finds them."""
    left_out: tuple[str, ...]
    """Rows that are on no front, and why."""
    _speeds: Mapping[str, np.ndarray]
    """At -> (R+1, points) speeds, the estimate first."""
    _nats: np.ndarray
    """(R+1, points) log perplexities."""

    @property
    def families(self) -> list[str]:
        """The families that were sampled."""
        return list(dict.fromkeys(self.points["family"]))

    def front(self, family: str, at: str = MANY) -> pd.DataFrame:
        """The points of a family that no other of its points beats, the slowest first.

        UserError for a family without samples and for another `at` than "many texts" and "one text".
        """
        if family not in self.families:
            raise UserError(f"family = {family!r} has no samples: there are {', '.join(self.families)}")
        if at not in (MANY, ONE):
            raise UserError(f"at = {at!r}: give {MANY!r} or {ONE!r}")
        column, mark = _columns(at)
        own = self.points[(self.points["family"] == family) & self.points[mark]]
        return own.sort_values(column, ignore_index=True)

    def at(self, *, tokens_per_s: float | None = None, latency_s: float | None = None) -> pd.DataFrame:
        """What each family offers at a speed, the best first: its point with the lowest perplexity among
        those at least that fast; offered, the perplexity at just that speed (between two numbers of steps of
        one sampler the line through them, in logs), with _low and _high; best_share, of the draws in which
        the family offers the best.

        tokens_per_s: of many texts at once. latency_s: seconds for one text of the samples' length. Families
        without a point that fast are left out. UserError unless one of the two is given, and if no family is
        that fast.
        """
        if (tokens_per_s is None) == (latency_s is None):
            raise UserError("give tokens_per_s or latency_s, one of the two")
        name, value = ("tokens_per_s", tokens_per_s) if latency_s is None else ("latency_s", latency_s)
        if isinstance(value, str | bool) or not 0 < float(value or 0) < np.inf:
            raise UserError(f"{name} = {value!r}: give a number above 0")
        at, speed = (MANY, float(value)) if latency_s is None else (ONE, self.length / float(value))  # type: ignore[arg-type]
        column, _ = _columns(at)
        kept = self.points[~self.points["dull"]]
        fast = kept[kept[column] >= speed * (1 - 1e-9)]
        if not len(fast):
            best = kept[column].max()
            most = f"{count_text(best)} tokens/s" if at == MANY else f"{number_text(self.length / best)} s"
            raise UserError(f"{name} = {value:g}: no sampler is that fast; the fastest one does {most}")
        families, places = kept["family"].tolist(), kept.index
        # just below, for a speed may be one that a point has to the last bit
        grid = np.array([speed * (1 - 1e-9)])
        drawn = self._speeds[at][:, places], self._nats[:, places]
        offers = offers_of(families, _ladders(kept), *drawn, grid)[:, :, 0]
        rows = fast.loc[fast.groupby("family")["gen_ppl"].idxmin()]
        order = list(dict.fromkeys(families))
        own = np.stack([offers[order.index(name)] for name in rows["family"]])
        ends = interval(own.T, Rule(level=self.level))
        assert ends is not None, "there are draws"
        won = own[:, 1:].argmin(axis=0)
        table = rows.assign(
            offered=np.exp(own[:, 0]), offered_low=np.exp(ends[0]), offered_high=np.exp(ends[1]),
            best_share=[float(np.mean(won == place)) for place in range(len(rows))],
        )  # fmt: skip
        return table.sort_values("offered", ignore_index=True)

    def answer(self, *, tokens_per_s: float | None = None, latency_s: float | None = None) -> str:
        """`at` as a sentence."""
        table = self.at(tokens_per_s=tokens_per_s, latency_s=latency_s)
        best = table.iloc[0]
        if latency_s is None:
            need = f"{count_text(tokens_per_s)} tokens/s of many texts"
        else:
            need = f"one text of {self.length} tokens within {number_text(latency_s)} s"
        text = f"For {need} use {best['family']}: {_offer(best)}"
        if len(table) == 1:
            return f"{text}; no other family is that fast."
        other = table.iloc[1]
        share = f"it is the best in {best['best_share']:.0%} of resamples"
        return f"{text}; {share}. Next is {other['family']}: {_offer(other)}."

    @property
    def sentence(self) -> str:
        """Who leads at which speed."""
        parts = [f"{' or '.join(names)} {_range_text(rows)}" for names, rows in self._stretches(MANY)]
        return f"The best samples at a speed (tokens/s of many texts): {', '.join(parts)}."

    @property
    def notes(self) -> list[str]:
        """What to mind, each a sentence."""
        lines = []
        if count := int(self.points["dull"].sum()):
            lines.append(
                f"{count} samples have less entropy than {number_text(self.least_entropy)} nats"
                f"{self._least_from}: they repeat themselves, and stand on no front."
            )
        if (self.leads["share"] < SURE).any():
            lines.append(f"Families named together lead in fewer than {SURE:.0%} of resamples each.")
        sure = self.leads[self.leads["share"] >= SURE]
        less = sure[sure["entropy_high"].astype(float) < -LESS]
        for (family, other), part in less.groupby(["family", "runner_up"], sort=False):
            row = part.loc[part["entropy_difference"].astype(float).idxmin()]
            ends = -row["entropy_difference"], -row["entropy_high"], -row["entropy_low"]
            lines.append(
                f"{family} leads {other} with less entropy (up to {interval_text(*ends, digits=2)} nats): "
                "part of its lead may be repetition."
            )
        return [*lines, *(f"left out: {reason}" for reason in self.left_out)]

    @property
    def _least_from(self) -> str:
        heldout = self.points["heldout_entropy"].mean()
        is_usual = abs(self.least_entropy - VARIED * heldout) < 1e-9
        return f" ({VARIED:.0%} of held-out text's)" if is_usual else ""

    def _stretches(self, at: str) -> list[tuple[list[str], list[dict[str, Any]]]]:
        """Rows of `leads` with the families that lead there: one, or several that are not told apart."""
        stretches: list[tuple[list[str], list[dict[str, Any]]]] = []
        unsure_before = False
        for row in self.leads[self.leads["at"] == at].to_dict("records"):
            unsure = row["share"] < SURE and not is_missing(row["runner_up"])
            if not (unsure and unsure_before):
                stretches.append(([], []))
            names, rows = stretches[-1]
            rows.append(row)
            rivals = [row["family"], row["runner_up"]] if unsure else [row["family"]]
            names += [name for name in rivals if name not in names]
            unsure_before = unsure
        return stretches

    def summary(self) -> pd.DataFrame:
        """`leads`."""
        return self.leads

    def text_table(self) -> TextTable:
        """The fronts of all families at many texts, as they are printed."""
        rows = []
        for family in self.families:
            for row in self.front(family).to_dict("records"):
                perplexity = interval_text(row["gen_ppl"], row["gen_ppl_low"], row["gen_ppl_high"])
                budget = "" if is_missing(row["budget"]) else flops_text(row["budget"])
                rows.append((
                    family, budget, sampler_text(row), count_text(row["tokens_per_s"]),
                    number_text(row["latency_s"], 2), perplexity, number_text(row["entropy"]),
                ))  # fmt: skip
        heads = ("family", "budget", "sampler", "tok/s", "s/text", "perplexity", "entropy")
        return TextTable(columns=heads, rows=tuple(rows))

    def leads_table(self, at: str = MANY) -> TextTable:
        """Who leads where, as it is printed: each range by its upper end, with the crossing's interval."""
        rows = []
        ends = self.crossings[self.crossings["at"] == at].set_index("speed")
        for names, own in self._stretches(at):
            first, last = own[0], own[-1]
            upper = count_text(last["fastest"])
            if last["fastest"] in ends.index:
                end = ends.loc[last["fastest"]]
                upper = interval_text(last["fastest"], end["low"], end["high"], count_text)
            alone = len(names) == 1
            rows.append((
                "/".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else ""), upper,
                _span(first["gen_ppl_slowest"], last["gen_ppl_fastest"]),
                _span(first["entropy_slowest"], last["entropy_fastest"]),
                f"{first['share']:.0%}" if alone else "",
                str(first["runner_up"]) if alone and not is_missing(first["runner_up"]) else "",
            ))  # fmt: skip
        heads = ("best", f"tokens/s, {at}", "perplexity", "entropy", "share", "second")
        return TextTable(columns=heads, rows=tuple(rows))

    @property
    def head(self) -> str:
        """What the numbers are, in one line."""
        return (
            f"speed against quality: {len(self.points)} samples of {len(self.families)} families, texts of "
            f"{self.length} tokens, judged by {self.judge}"
        )

    def __str__(self) -> str:
        import textwrap

        leads = [str(self.leads_table(at)) for at in (MANY, ONE)]
        pieces = [self.head, *leads, *self.notes, "the front of each family:"]
        wrapped = [
            piece if piece.startswith("  ") else textwrap.fill(piece, 80, break_on_hyphens=False)
            for piece in pieces
        ]
        return "\n".join([*wrapped, str(self.text_table())])

    def _repr_html_(self) -> str:
        leads = "".join(self.leads_table(at).to_html() for at in (MANY, ONE))
        tables = leads + self.text_table().to_html()
        return f"<p>{html.escape(self.head)}</p>{tables}{notes_html(self.notes)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types at full precision, without the lists of texts; None: missing or open."""
        tables = {}
        for name in ("points", "leads", "crossings"):
            table = getattr(self, name)
            lists = [column for column in table if str(column).startswith("text_")]
            table = table.drop(columns=lists).astype(object)
            table = table.where(table.notna() & ~table.isin([np.inf, -np.inf]), None)
            tables[name] = table.to_dict("records")
        return {**tables, "level": self.level, "judge": self.judge, "length": self.length,
                "least_entropy": self.least_entropy, "sentence": self.sentence, "notes": self.notes,
                "left_out": list(self.left_out)}  # fmt: skip


def speed_quality(
    samples: pd.DataFrame, *, least_entropy: float | None = None, bootstrap: int = 1000,
    level: float = 0.95, seed: int = 0,
) -> SpeedQuality:  # fmt: skip
    """Each family's front of speed against generative perplexity, and which family leads at which speed.

    samples: a table as `load_samples` reads it: one row per run, sampler and steps. A front holds the points
    that no other point of the family beats in both; nothing is interpolated. least_entropy: unigram entropy
    (nats, mean over texts) that texts must have to stand on a front, by default 90% of held-out text's where
    the table has that: a judge finds a text that says one thing again and again very likely. bootstrap:
    draws of the texts; the texts of one number are drawn together for all points, because they share their
    random numbers. A speed is drawn from between its tokens_per_s_low and _high; that of one text from as
    wide a range.

    UserError for samples of several judges, lengths or devices, for missing columns, for a level outside
    (0, 1), for fewer than 40 draws, and if all texts have too little entropy.
    """
    if not 0 < level < 1:
        raise UserError(f"level = {level!r}: give a share between 0 and 1, such as 0.95")
    if bootstrap < FEWEST_DRAWS:
        raise UserError(f"bootstrap = {bootstrap!r}: give at least {FEWEST_DRAWS} draws")
    table, left_out = comparable(samples)
    rng = np.random.default_rng(seed)
    weights: dict[int, np.ndarray] = {}
    nats, entropy, ends = [], [], []
    for row in table.to_dict("records"):
        judged, tokens, varied = (
            np.asarray(row[name], dtype=np.float64) for name in ("text_nats", "text_tokens", "text_entropy")
        )
        count = len(judged)
        if count not in weights:
            weights[count] = _weights(count, bootstrap, rng)
        counts = weights[count]
        with np.errstate(divide="ignore", invalid="ignore"):
            own_nats = (counts @ judged) / (counts @ tokens)
        own_nats = np.where(np.isfinite(own_nats), own_nats, own_nats[0])  # a draw of texts without a token
        own_entropy = (counts @ varied) / counts.sum(axis=1)
        rule = Rule(level=level, leave_outs=count if count > 1 else 0)
        ends.append([*_ends(own_nats, rule, count), *_ends(own_entropy, rule, count)])
        nats.append(own_nats[: bootstrap + 1])
        entropy.append(own_entropy[: bootstrap + 1])
    quality, varied = np.stack(nats, axis=1), np.stack(entropy, axis=1)
    low, high, entropy_low, entropy_high = np.array(ends).T
    speed = {at: _speeds(table, at, bootstrap, rng) for at in (MANY, ONE)}
    table = table.assign(
        gen_ppl=np.exp(quality[0]), gen_ppl_low=np.exp(low), gen_ppl_high=np.exp(high),
        entropy=varied[0], entropy_low=entropy_low, entropy_high=entropy_high, speed_one=speed[ONE][0],
    )  # fmt: skip
    least = VARIED * float(table["heldout_entropy"].mean()) if least_entropy is None else least_entropy
    least = 0.0 if is_missing(least) else least
    table["dull"] = table["entropy"] < least
    kept = table[~table["dull"]]
    if not len(kept):
        raise UserError(
            f"samples have at most {number_text(table['entropy'].max())} nats of entropy, and "
            f"{number_text(least)} are needed to stand on a front; least_entropy sets another limit"
        )
    families = kept["family"].tolist()
    leads, crossings = [], []
    for at in (MANY, ONE):
        column, mark = _columns(at)
        table[mark] = False
        for family in dict.fromkeys(families):
            own = (table["family"] == family) & ~table["dull"]
            table.loc[own, mark] = non_dominated(
                table.loc[own, column].to_numpy(), table.loc[own, "gen_ppl"].to_numpy()
            )
        drawn = speed[at][:, kept.index], quality[:, kept.index]
        fought = contest(families, _ladders(kept), *drawn, level)
        leads += _leads(table[~table["dull"]], at, fought, varied, level)
        for crossing in fought.crossings:
            values = {name: getattr(crossing, name) for name in CROSSING_COLUMNS[1:]}
            crossings.append({"at": at, **values})
    return SpeedQuality(
        points=table, leads=pd.DataFrame(leads, columns=list(LEAD_COLUMNS)),
        crossings=pd.DataFrame(crossings, columns=list(CROSSING_COLUMNS)), level=level,
        judge=f"{table['judge'].iloc[0]} ({table['judge_rule'].iloc[0]})",
        length=int(table["length"].iloc[0]), least_entropy=least,
        left_out=left_out, _speeds=speed, _nats=quality,
    )  # fmt: skip


def _columns(at: str) -> tuple[str, str]:
    """The columns of `points` with the speed and with the mark of the front."""
    return ("tokens_per_s", "front_many") if at == MANY else ("speed_one", "front_one")


def _ladders(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Of each point, what the points of one run and sampler share."""
    return list(table[["key", "sampler", "options"]].itertuples(index=False, name=None))


def _weights(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each text counts: in the estimate, in each draw, and without each text in turn."""
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    without = 1 - np.eye(count, dtype=drawn.dtype) if count > 1 else np.empty((0, count), dtype=drawn.dtype)
    return np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn, without]).astype(np.float64)


def _ends(values: np.ndarray, rule: Rule, count: int) -> tuple[float, float]:
    """The interval of one text is not known: (NaN, NaN)."""
    found_ends = interval(values, rule) if count > 1 else None
    return (
        (float("nan"), float("nan")) if found_ends is None else (float(found_ends[0]), float(found_ends[1]))
    )


def _speeds(table: pd.DataFrame, at: str, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(R+1, P): half of the draws between the low end and the median, half above it, evenly in log speed. The
    speed of one text has the same spread in logs, for its own is not in the table."""
    middle, low, high = (
        np.log(table[name].to_numpy(dtype=np.float64))
        for name in ("tokens_per_s", "tokens_per_s_low", "tokens_per_s_high")
    )
    below, above = np.fmax(middle - low, 0), np.fmax(high - middle, 0)
    place = rng.uniform(-1, 1, (draws + 1, len(table)))
    place[0] = 0
    median = table["tokens_per_s"] if at == MANY else table["length"] / table["latency_s"]
    return median.to_numpy(dtype=np.float64) * np.exp(np.where(place < 0, place * below, place * above))


def _leads(
    table: pd.DataFrame, at: str, contest: Contest, entropy: np.ndarray, level: float
) -> list[dict[str, Any]]:
    column, mark = _columns(at)
    rows = []
    for lead in contest.leads:
        own = table[(table["family"] == lead.family) & table[mark] & (table[column] > lead.above)]
        own = own.sort_values(column)
        inside = own[own[column] <= lead.fastest * (1 + 1e-9)]
        first, last = own.iloc[0], inside.iloc[-1] if len(inside) else own.iloc[0]
        row = {
            "at": at, "family": lead.family, "above": lead.above, "fastest": lead.fastest,
            "gen_ppl_slowest": first["gen_ppl"], "gen_ppl_fastest": last["gen_ppl"],
            "entropy_slowest": first["entropy"], "entropy_fastest": last["entropy"], "share": lead.share,
            "runner_up": lead.runner_up,
        }  # fmt: skip
        if lead.runner_up is not None:
            mine, other = (
                _offering(table, column, name, lead.middle) for name in (lead.family, lead.runner_up)
            )
            difference = entropy[:, mine] - entropy[:, other]
            ends = interval(difference, Rule(level=level))
            assert ends is not None, "there are draws"
            row |= {"entropy_difference": float(difference[0]), "entropy_low": float(ends[0]),
                    "entropy_high": float(ends[1])}  # fmt: skip
        rows.append(row)
    return rows


def _offering(table: pd.DataFrame, column: str, family: str, speed: float) -> int:
    """The row of the family's best point at least that fast; its fastest one if none is."""
    own = table[table["family"] == family]
    fast = own[own[column] >= speed * (1 - 1e-9)]
    return int(fast["gen_ppl"].idxmin() if len(fast) else own[column].idxmax())


def _offer(row: pd.Series) -> str:
    perplexity = interval_text(row["offered"], row["offered_low"], row["offered_high"])
    return f"perplexity {perplexity} at entropy {number_text(row['entropy'])} ({sampler_text(row.to_dict())})"


def _range_text(rows: list[dict[str, Any]]) -> str:
    above, fastest = rows[0]["above"], rows[-1]["fastest"]
    start = f"from {count_text(above)} " if above else ""
    return f"{start}up to {count_text(fastest)}"


def _span(first: float, last: float) -> str:
    """ "21.2–24.0", or one number where both are the same."""
    texts = number_text(first), number_text(last)
    return texts[0] if texts[0] == texts[1] else "–".join(texts)
