"""Power laws through the minima of budgets, and how far minima lie from them beyond their noise."""

from __future__ import annotations

import numpy as np
from scipy.special import fdtrc

from analysis.estimate import spread
from analysis.laws.powerlaws import PowerLaw
from analysis.laws.solver.budget import BudgetFit
from analysis.text import flops_text

ONE_SIGMA = 0.682689
BENT = 0.01


def power_law(log_flops: np.ndarray, log_values: np.ndarray, usable: np.ndarray) -> PowerLaw:
    """Least squares of log_values (1 + R, B) on log_flops (B,), each row over its usable budgets (two or
    more) alone."""
    reference = float(log_flops.mean())
    weight = usable.astype(np.float64)
    count = weight.sum(axis=1)
    centred = log_flops - reference
    mean_x = weight @ centred / count
    mean_y = np.sum(weight * log_values, axis=1) / count
    dx = centred[None, :] - mean_x[:, None]
    exponent = np.sum(weight * dx * log_values, axis=1) / np.sum(weight * dx**2, axis=1)
    return PowerLaw(middle=mean_y - exponent * mean_x, exponent=exponent, log_reference=reference)


def widen(
    usable: list[BudgetFit], laws: dict[str, PowerLaw], freedom: float, last: int, *, fixed_noise: bool
) -> tuple[dict[str, PowerLaw], dict[str, str]]:
    """Widen a power law whose minima lie farther from it than their noise explains.

    Noise within the budgets says nothing about a bent frontier. If an F test at 1% finds the minima too far
    off, the resamples are stretched about the estimate by the ratio of the observed distance to the expected
    one; if the user has given the noise, only the warning is given.
    """
    widened = dict(laws)
    warnings: dict[str, str] = {}
    spare = len(usable) - 2
    if spare < 1 or not all(fit.convex[1:last].any() for fit in usable):
        return widened, warnings
    flops = np.array([fit.flops for fit in usable])
    for name, law in laws.items():
        fitted = law.log_at(flops)[0]
        rows = [
            fit.loss / np.exp(at) if name == "loss" else getattr(fit, f"log_{name}") - at
            for fit, at in zip(usable, fitted.tolist(), strict=True)
        ]
        off = np.array([row[0] for row in rows]) - (name == "loss")
        ends = [
            spread(row[1:last][fit.convex[1:last]], ONE_SIGMA) for row, fit in zip(rows, usable, strict=True)
        ]
        sd = np.array([(high - low) / 2 for low, high in ends])
        if not np.all((sd > 0) & np.isfinite(sd)):
            continue
        # about the line that fits these noises best: a noisy budget must not make its neighbours look far off
        x = np.log(flops / flops[0])
        off -= np.polyval(np.polyfit(x, off, 1, w=1 / sd), x)
        ratio = float(np.sum((off / sd) ** 2) / spare)
        if fdtrc(spare, freedom or 1e6, ratio) < BENT:
            stretch = float(np.sqrt(ratio))
            if not fixed_noise:
                widened[name] = law.stretched(stretch)
            warnings[name] = (
                f"the minima lie farther from the power law of {name} than their noise explains (most at "
                f"{flops_text(flops[np.argmax(np.abs(off / sd))])} FLOPs); its intervals "
                f"are {f'{stretch:.1f} times too narrow' if fixed_noise else f'multiplied by {stretch:.1f}'}"
            )
    return widened, warnings
