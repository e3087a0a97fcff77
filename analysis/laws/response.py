"""Laws of the best settings from trials that vary several settings at once: a response surface.

At every point (a size and a number of training tokens) trials try a learning rate, a batch and perhaps more.
In logs (x the rate, b the batch, n params, d tokens, s steps) all trials together are fitted by

    loss = level of the point + k2 x^2 + (k1 + kn n + ks s) x + h2 b^2 + (h1 + hd d) b + ...

one parabola per setting, whose minimum moves with size and length, a power law: the best rate is
exp(-(k1 + kn n + ks s) / 2 k2), and the best batch that at the best rate. Argmin of single runs would pick
luck: seeds scatter by as much as settings do. Linear least squares of the trials' means over seeds; intervals
from wild resamples of whole trials: each keeps its settings, and its residual, divided by 1 - leverage, takes
a random sign (Davidson and Flachaire 2008, J. Econometrics 146, 162), so that no trial needs to scatter as
another does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from analysis.errors import UserError
from analysis.estimate import Estimate, Rule, estimate_of
from analysis.laws.powerfit import positive_column
from analysis.laws.solver.bootstrap import check_options
from analysis.plotted import Plotted
from analysis.text import number_text

KNOBS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("params", "steps"),
    "batch": ("tokens",),
    "warmup_fraction": (),
    "weight_decay": (),
}
"""Settings, and the quantities that their best value is a power of."""
QUANTITIES = ("params", "tokens", "steps")
WITHIN = 0.2
"""Nats above its point's best from which a trial counts no more: a parabola only holds near its minimum."""
FLAT_SHARE = 0.025
"""Share of resamples that may curve downwards before a setting counts as without effect."""
WIDEST = 1.0
"""Width of an exponent's 95% interval from which the trials count as silent about it."""
SPARE_TRIALS = 4
"""Trials there must be beyond the number of coefficients."""
POOR_FIT = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class SettingLaw:
    """The best value of one setting: value = at_reference * product of (x / reference) ** exponent."""

    knob: str
    reference: Mapping[str, float]
    """Where `value` holds: the geometric mean over the trials, of each quantity that the law depends on."""
    draws: np.ndarray
    """(1 + R, 1 + quantities): log value at the reference, exponents; the estimate first."""
    tried: Mapping[str, tuple[float, float]]
    """Smallest and largest of each quantity, and of the setting itself, among the trials."""
    kept: tuple[str, ...] = ()
    """Quantities whose exponent the trials do not determine: it is the one that was to be kept then."""
    level: float = 0.95

    @property
    def value(self) -> Estimate:
        """At the reference."""
        return estimate_of(np.exp(self.draws[:, 0]), Rule(level=self.level))

    @property
    def exponents(self) -> dict[str, Estimate]:
        columns = enumerate(self.reference, start=1)
        return {name: estimate_of(self.draws[:, i], Rule(level=self.level)) for i, name in columns}

    def best(self, **quantities: float) -> Estimate:
        """The best value for a run; the quantities that the law depends on, others are ignored."""
        logs = [math.log(quantities[name] / at) for name, at in self.reference.items()]
        with np.errstate(over="ignore"):
            values = np.exp(self.draws[:, 0] + self.draws[:, 1:] @ np.array(logs))
        return estimate_of(values, Rule(level=self.level))

    def __str__(self) -> str:
        factors = [
            f"({name} / {number_text(at, 3)})^"
            + (f"{self.exponents[name]:.3g} (kept)" if name in self.kept else str(self.exponents[name]))
            for name, at in self.reference.items()
        ]
        return f"{self.knob} = {' x '.join([str(self.value), *factors])}"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Response(Plotted):
    """Settings that have a law, those that have none and why, and the best rate at each point."""

    figure: ClassVar[str] = "tuning"
    family: str | None
    laws: dict[str, SettingLaw]
    refused: dict[str, str]
    """Setting -> why it has no law."""
    trials: pd.DataFrame
    """One row per trial: its mean loss, how many seeds, whether it was fitted, and `adjusted`: its loss with
    all settings but the learning rate at their point's middle."""
    optima: pd.DataFrame
    """One row per point: params, tokens, steps, the best learning rate by its own parabola with interval, the
    loss there; the `curve` through the adjusted losses is loss + curvature / 2 (log rate - log best)^2."""
    gains: dict[str, Estimate]
    """Point -> nats that the laws gain there over its first trial, the settings of the sweep's rules."""
    noise: float
    """Standard deviation of one seed's loss about its trial's mean; nan with one seed."""
    misfit: float
    """Probability of as much lack of fit if the surface were true; nan with one seed."""
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The laws, optima and gains in plain JSON types."""
        laws = {
            knob: {
                "value": law.value.to_dict(),
                "reference": dict(law.reference),
                "exponents": {name: exponent.to_dict() for name, exponent in law.exponents.items()},
                "kept": list(law.kept),
                "tried": {name: [float(end) for end in ends] for name, ends in law.tried.items()},
            }
            for knob, law in self.laws.items()
        }
        return {
            "laws": laws,
            "refused": self.refused,
            "optima": self.optima.astype(object).to_dict(orient="records"),
            "gains": {point: gain.to_dict() for point, gain in self.gains.items()},
            "noise": None if math.isnan(self.noise) else self.noise,
            "misfit": None if math.isnan(self.misfit) else self.misfit,
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        lines = [str(law) for law in self.laws.values()]
        lines += [f"no law of {knob}: {reason}" for knob, reason in self.refused.items()]
        lines += [f"gain at {point}: {gain} nats" for point, gain in self.gains.items()]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def fit_response(
    runs: pd.DataFrame,
    *,
    exponents: Mapping[str, Mapping[str, float]] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    within: float = WITHIN,
) -> Response:
    """Laws of the best learning rate and batch, and the best of further settings, from trials.

    runs: one row per run: point (a name), trial (a number; 0 has the settings of the sweep's rules), params,
    tokens, steps, learning_rate, those of batch (tokens per step), warmup_fraction and weight_decay that were
    varied, loss, and perhaps family; a trial with a missing loss has diverged and is not fitted. exponents:
    setting -> quantity -> the exponent to keep if the trials do not determine it (an interval wider than
    `WIDEST`); 0 by default. UserError if the trials are too few, or the rate has no law.
    """
    check_options(bootstrap, seed, level)
    several = runs.groupby("point").nunique().max()
    knobs = [knob for knob in KNOBS if several.get(knob, 0) > 1]
    if "learning_rate" not in knobs:
        raise UserError("learning_rate: the trials have one rate only; a law needs several at every point")
    trials = _means(runs, knobs, within)
    surface = _Surface(trials[trials["fitted"]], knobs, bootstrap=bootstrap, seed=seed)
    # an exponent that is not determined is kept, a setting without a minimum keeps a slope; each time the
    # others are fitted again beside it
    refused, warnings = dict[str, str](), list[str]()
    while True:
        if silent := surface.undetermined():
            knob, name = silent
            exponent = float((exponents or {}).get(knob, {}).get(name, 0.0))
            warnings.append(
                f"the trials do not determine how the best {knob} changes with {name}: "
                f"the exponent {exponent:g} is kept"
            )
            fixed = {**surface.fixed, knob: {**surface.fixed.get(knob, {}), name: exponent}}
            surface = replace(surface, fixed=fixed)
        elif reasons := surface.refusals():
            knob, reason = next(iter(reasons.items()))
            refused[knob] = reason
            surface = replace(surface, flat=(*surface.flat, knob))
        else:
            break
    if "learning_rate" in refused:
        raise UserError(f"no law of learning_rate: {refused['learning_rate']}")
    laws = {knob: surface.law(knob, level) for knob in knobs if knob not in refused}
    noise, misfit = _misfit(runs, trials, surface)
    warnings = [warning for warning in warnings if not any(f"best {knob} " in warning for knob in refused)]
    if misfit < POOR_FIT:
        warnings.append(
            f"the trials scatter about the parabolas by more than their seeds do (p = {misfit:.1g}): "
            "narrower ranges, or points more alike, would fit better; the intervals know of this scatter"
        )
    optima, adjusted = _own_optima(surface, level)
    families = list(runs["family"].unique()) if "family" in runs.columns else []
    return Response(
        family=str(families[0]) if len(families) == 1 else None,
        laws=laws,
        refused=refused,
        trials=trials.assign(adjusted=adjusted),
        optima=optima,
        gains=surface.gains(trials, laws, level),
        noise=noise,
        misfit=misfit,
        warnings=tuple(warnings),
    )


def _means(runs: pd.DataFrame, knobs: list[str], within: float) -> pd.DataFrame:
    """Trials with their mean loss; `fitted` if no seed diverged and the loss is near the point's best."""
    for name in ("params", "tokens", "steps", *knobs):
        positive_column(runs, name)
    kept = ["params", "tokens", "steps", *knobs]
    grouped = runs.groupby(["point", "trial"], sort=False)
    trials = grouped[kept].first()
    losses = grouped["loss"]
    trials["seeds"] = grouped.size()
    trials["loss"] = losses.mean().where(losses.count() == trials["seeds"])
    trials = trials.reset_index()
    best = trials.groupby("point")["loss"].transform("min")
    trials["fitted"] = (trials["loss"] <= best + within).fillna(False).astype(bool)
    return trials


@dataclass(frozen=True, eq=False)
class _Surface:
    """The regression: its design, its coefficients and their resamples."""

    trials: pd.DataFrame
    knobs: list[str]
    bootstrap: int
    seed: int
    flat: tuple[str, ...] = ()
    """Settings without a minimum."""
    fixed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Setting -> quantity -> an exponent that is not fitted."""
    per_point: bool = False
    """Whether each point has a best rate of its own, instead of one law."""
    means: dict[str, float] = field(init=False)
    names: list[str] = field(init=False)
    draws: np.ndarray = field(init=False)
    """(1 + R, coefficients); the estimate first."""

    def __post_init__(self) -> None:
        logs = np.log(self.trials[[*QUANTITIES, *self.knobs]])
        object.__setattr__(self, "means", {name: float(logs[name].mean()) for name in logs})
        columns = self.design(self.trials)
        names, matrix = list(columns), np.stack(list(columns.values()), axis=1)
        object.__setattr__(self, "names", names)
        count, free = matrix.shape
        if count < free + SPARE_TRIALS:
            raise UserError(
                f"{count} trials that can be fitted for {free} coefficients; train at least "
                f"{free + SPARE_TRIALS}, or vary fewer settings"
            )
        if np.linalg.matrix_rank(matrix / np.linalg.norm(matrix, axis=0)) < free:
            raise UserError("the settings of the trials do not vary on their own; let each have its range")
        losses = self.trials["loss"].to_numpy()
        inverse = np.linalg.pinv(matrix)
        estimate = inverse @ losses
        leverage = np.sum(matrix * inverse.T, axis=1)
        # a trial alone in deciding its own fit has no residual
        residuals = (losses - matrix @ estimate) / np.maximum(1 - leverage, 1e-6)
        signs = np.random.default_rng(self.seed).choice([-1.0, 1.0], size=(self.bootstrap, count))
        draws = np.concatenate([estimate[None], estimate + (signs * residuals) @ inverse.T])
        object.__setattr__(self, "draws", draws)

    def log(self, table: pd.DataFrame | Mapping[str, Any], name: str) -> np.ndarray:
        """The log of a quantity or setting, about its mean; of a setting, over its fixed powers."""
        logs = np.log(np.asarray(table[name], dtype=np.float64)) - self.means[name]
        for quantity, exponent in self.fixed.get(name, {}).items():
            logs = logs - exponent * self.log(table, quantity)
        return np.asarray(logs)

    def powers(self, knob: str) -> tuple[str, ...]:
        """The quantities that the best value of a setting is a power of, as far as they vary on their own."""
        columns, names = [np.ones(len(self.trials))], list[str]()
        for name in KNOBS[knob]:
            if name in self.fixed.get(knob, {}):
                continue
            wider = [*columns, self.log(self.trials, name)]
            if np.linalg.matrix_rank(np.stack(wider), tol=1e-6 * len(self.trials)) == len(wider):
                columns, names = wider, [*names, name]
        return tuple(names)

    def design(self, table: pd.DataFrame, points: bool = True) -> dict[str, np.ndarray]:
        """Name of coefficient -> its column."""
        columns: dict[str, np.ndarray] = {}
        names = list(dict.fromkeys(self.trials["point"]))
        if points:
            columns |= {f"level {name}": (table["point"] == name).to_numpy(float) for name in names}
        for knob in self.knobs:
            x = self.log(table, knob)
            if knob not in self.flat:
                columns[f"{knob} squared"] = x**2
            if self.per_point and knob == "learning_rate":
                columns |= {f"{knob} {name}": x * (table["point"] == name).to_numpy(float) for name in names}
                within = self.log(table, "steps")
                within -= pd.Series(within).groupby(table["point"].to_numpy()).transform("mean").to_numpy()
                if np.ptp(within) > 1e-6:  # at each point the best rate is that of its mean steps
                    columns["steps within"] = x * within
                continue
            columns[knob] = x
            if knob not in self.flat:
                columns |= {f"{knob} {name}": x * self.log(table, name) for name in self.powers(knob)}
            if knob == "batch" and "params" in self.powers("learning_rate"):
                # a rate that falls with params and with steps, tokens / batch, brings these two together
                columns["batch params"] = x * self.log(table, "params")
        return columns

    def of(self, name: str) -> np.ndarray:
        """The resamples of a coefficient; 0 for one that the surface does not have."""
        return self.draws[:, self.names.index(name)] if name in self.names else np.zeros(len(self.draws))

    def law_draws(self, knob: str) -> np.ndarray:
        """(1 + R, 1 + quantities): log best value at the means, and exponents; nan where it curves down."""
        slopes = [self.of(knob), *(self.of(f"{knob} {name}") for name in self.powers(knob))]
        curve = self.of(f"{knob} squared")
        if knob == "batch" and "learning_rate" not in self.flat:
            # at the best rate, which falls with steps = tokens / batch: rate = r0 + rs (d - b)
            fall, rate_curve = self.of("learning_rate steps"), self.of("learning_rate squared")
            level = self.of("learning_rate")
            shift = self.means["tokens"] - self.means["batch"] - self.means["steps"]
            with np.errstate(divide="ignore", invalid="ignore"):
                curve = curve - fall**2 / (4 * rate_curve)
                slopes[0] = slopes[0] + fall * (level + fall * shift) / (2 * rate_curve)
                if len(slopes) > 1:
                    slopes[1] = slopes[1] + fall**2 / (2 * rate_curve)
        with np.errstate(divide="ignore", invalid="ignore"):
            best = np.stack([-slope / (2 * curve) for slope in slopes], axis=1)
        best[curve <= 0] = np.nan
        best[:, 0] += self.means[knob]
        return best

    def undetermined(self) -> tuple[str, str] | None:
        """The setting and quantity of the exponent with the widest interval; None if all are narrow."""
        widths = {}
        for knob in self.knobs:
            draws = self.law_draws(knob)[1:] if knob not in self.flat else np.zeros((0, 0))
            draws = draws[~np.isnan(draws).any(axis=1)]
            for column, name in enumerate(self.powers(knob), start=1):
                if knob not in self.flat and self.bootstrap:
                    low, high = np.quantile(draws[:, column], (0.025, 0.975)) if len(draws) else (0, np.inf)
                    widths[knob, name] = float(high - low)
        widest = max(widths, key=lambda place: widths[place], default=None)
        return widest if widest is not None and widths[widest] > WIDEST else None

    def refusals(self) -> dict[str, str]:
        """Setting -> why the trials show no best value of it; those with a law are left out."""
        reasons: dict[str, str] = {}
        for knob in reversed(self.knobs):  # the rate last, beside what the others turn out to be
            if knob in self.flat:
                continue
            best = self.law_draws(knob)
            if np.isnan(best[:, 0]).mean() > FLAT_SHARE or np.isnan(best[0, 0]):
                reasons[knob] = "the loss does not curve upwards in it by more than noise"
                continue
            for point, rows in self.trials.groupby("point", sort=False):
                logs = [self.log(rows, name).mean() for name in self.powers(knob)]
                middle = math.exp(best[0, 0] + best[0, 1:] @ np.array(logs))
                settings = np.exp(self.log(rows, knob) + self.means[knob])
                low, high = settings.min(), settings.max()
                if not low <= middle <= high:
                    end = "smallest" if middle < low else "largest"
                    tried = number_text(low if middle < low else high, 3)
                    reasons[knob] = f"at {point} the best lies beyond the {end} tried, {tried}"
                    break
        return reasons

    def law(self, knob: str, level: float) -> SettingLaw:
        draws = self.law_draws(knob)
        draws = np.concatenate([draws[:1], draws[1:][~np.isnan(draws[1:]).any(axis=1)]])
        fixed, free = self.fixed.get(knob, {}), self.powers(knob)
        names = [name for name in KNOBS[knob] if name in fixed or name in free]
        columns = [
            np.full(len(draws), fixed[name]) if name in fixed else draws[:, 1 + free.index(name)]
            for name in names
        ]
        return SettingLaw(
            knob=knob,
            reference={name: math.exp(self.means[name]) for name in names},
            draws=np.stack([draws[:, 0], *columns], axis=1),
            kept=tuple(fixed),
            tried={name: (self.trials[name].min(), self.trials[name].max()) for name in (*names, knob)},
            level=level,
        )

    def gains(self, trials: pd.DataFrame, laws: dict[str, SettingLaw], level: float) -> dict[str, Estimate]:
        """Point -> what the laws gain over its first trial, by the surface and its resamples."""
        gains = {}
        for point, rows in trials.groupby("point", sort=False):
            first = rows.iloc[[0]]
            if not first["fitted"].iloc[0]:
                continue
            best = first.copy()
            tokens, steps = float(first["tokens"].iloc[0]), float(first["steps"].iloc[0])
            if "batch" in laws:
                best["batch"] = float(laws["batch"].best(tokens=tokens))
                steps *= float(first["batch"].iloc[0] / best["batch"].iloc[0])
            best["steps"] = steps
            for knob in laws.keys() - {"batch"}:
                best[knob] = float(laws[knob].best(params=float(first["params"].iloc[0]), steps=steps))
            columns = [self.design(table, points=False) for table in (first, best)]
            names = list(columns[0])
            change = np.array([columns[0][name][0] - columns[1][name][0] for name in names])
            draws = np.stack([self.of(name) for name in names], axis=1) @ change
            gains[str(point)] = estimate_of(draws, Rule(level=level))
        return gains


def _misfit(runs: pd.DataFrame, trials: pd.DataFrame, surface: _Surface) -> tuple[float, float]:
    """Noise of a seed, and the F test of lack of fit against it; nan with one seed."""
    fitted = runs.merge(trials.loc[trials["fitted"], ["point", "trial"]], on=["point", "trial"])
    within = fitted["loss"] - fitted.groupby(["point", "trial"])["loss"].transform("mean")
    spare = len(fitted) - len(surface.trials)
    if spare < 1:
        return math.nan, math.nan
    pure = float((within**2).sum() / spare)
    columns = np.stack(list(surface.design(surface.trials).values()), axis=1)
    residuals = surface.trials["loss"].to_numpy() - columns @ surface.draws[0]
    freedom = len(residuals) - columns.shape[1]
    lack = float(np.sum(surface.trials["seeds"].to_numpy() * residuals**2) / freedom)
    probability = float(f_distribution.sf(lack / pure, freedom, spare)) if pure > 0 else math.nan
    return math.sqrt(pure), probability


def _own_optima(surface: _Surface, level: float) -> tuple[pd.DataFrame, pd.Series]:
    """The best rate at each point by a parabola of its own, and losses adjusted for the other settings."""
    own = replace(surface, per_point=True)
    trials, curve = own.trials, own.of("learning_rate squared")
    columns = own.design(trials)
    others = [name for name in columns if not name.startswith(("level", "learning_rate"))]
    effects = sum((columns[name] * own.of(name)[0] for name in others), np.zeros(len(trials)))
    effects = pd.Series(effects, index=trials.index)
    middle = effects.groupby(trials["point"]).transform("mean")
    rows = []
    for point, part in trials.groupby("point", sort=False):
        slope, level_here = own.of(f"learning_rate {point}"), own.of(f"level {point}")
        with np.errstate(divide="ignore", invalid="ignore"):
            best = -slope / (2 * curve)
        draws = np.concatenate([best[:1], best[1:][curve[1:] > 0]]) + own.means["learning_rate"]
        for name, exponent in own.fixed.get("learning_rate", {}).items():
            draws = draws + exponent * own.log(part, name).mean()
        best_rate = estimate_of(np.exp(draws), Rule(level=level))
        row: dict[str, Any] = {"point": point} | {
            name: math.exp(float(np.log(part[name]).mean())) for name in QUANTITIES
        }
        row |= {"learning_rate": float(best_rate), "low": best_rate.low, "high": best_rate.high}
        loss = level_here[0] + middle[part.index[0]] - slope[0] ** 2 / (4 * curve[0])
        rows.append(row | {"loss": float(loss), "curvature": float(2 * curve[0])})
    return pd.DataFrame(rows), trials["loss"] - effects + middle
