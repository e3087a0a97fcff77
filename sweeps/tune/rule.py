"""Laws of the best settings as YAML: overrides of a family for a config to include, or to paste there."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.laws.response import Response, SettingLaw
from analysis.text import count_text, number_text
from sweeps.tune.space import Space

DIGITS = 4


def rule_text(space: Space, response: Response, table: pd.DataFrame) -> str:
    """The file `rule.yaml`, with the numbers behind it as comments."""
    laws, family = response.laws, space.family
    trials = table.groupby(["point", "trial"]).ngroups
    lines = [
        f"# Rules of {family} by `scaling tune`: {trials} trials of {len(space.rule.every_seed)} seeds at "
        f"{len(space.points)} points, text {space.data.corpus}.",
        "# With 95% intervals:",
        *(f"#   {law}" for law in laws.values()),
        *(f"#   no law of {knob}: {reason}" for knob, reason in response.refused.items()),
        *(f"# warning: {warning}" for warning in response.warnings),
        "overrides:",
        f"  {family}:",
        f"    learning_rate: {_flow(_rate(space, laws['learning_rate']))}",
    ]
    if "batch" in laws:
        lines.append(f"    batch: {_flow(_batch(laws['batch']))}")
    names: tuple[str, ...] = ("warmup_fraction", "weight_decay")
    own = {name: float(laws[name].value) for name in names if name in laws}
    if own:
        optimizer = {**(space.config.override(family).optimizer or {}), **own}
        if "warmup_fraction" in own:
            optimizer["warmup_steps"] = 0
        lines.append(f"    optimizer: {_flow(optimizer)}")
    return "\n".join(lines) + "\n"


def own_exponents(space: Space) -> dict[str, dict[str, float]]:
    """Exponents of the sweep's own rule, which stay where the trials are silent about them."""
    rule = space.config.rate_rule(space.family)
    steps = rule.steps.exponent if rule.steps is not None else 0.0
    return {"learning_rate": {"params": rule.exponent, "steps": steps}}


def _rate(space: Space, law: SettingLaw) -> dict[str, Any]:
    own = space.config.rate_rule(space.family)
    rule: dict[str, Any] = {"base": float(law.value)}
    if "params" in law.reference:
        rule |= {"at_params": law.reference["params"], "exponent": float(law.exponents["params"])}
    if float(law.exponents.get("steps", 0.0)) != 0:
        rule["steps"] = {"at": law.reference["steps"], "exponent": float(law.exponents["steps"])}
    largest = law.tried["learning_rate"][1]  # nothing is known of higher rates
    return rule | {"smallest": min(own.smallest, largest), "largest": largest, "tried": _tried(law)}


def _batch(law: SettingLaw) -> dict[str, Any]:
    rule: dict[str, Any] = {"base_tokens": float(law.value)}
    if float(law.exponents.get("tokens", 0.0)) != 0:
        rule["tokens"] = {"at": law.reference["tokens"], "exponent": float(law.exponents["tokens"])}
    return rule | ({"tried": _tried(law)} if law.reference else {})


def _tried(law: SettingLaw) -> dict[str, Any]:
    return {name: [float(end) for end in law.tried[name]] for name in law.reference}


def _flow(value: Any) -> str:
    """YAML in one line, numbers with few digits."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_flow(inner)}' for name, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.{DIGITS}g}" if isinstance(value, float | int) else str(value)


def summary_rows(response: Response) -> list[dict[str, str]]:
    """One row per point: where it is, the best rate there, and what the rules gain over the sweep's own."""
    rows = []
    for row in response.optima.to_dict(orient="records"):
        ends = "" if row["low"] is None else f" [{number_text(row['low'], 2)}, {number_text(row['high'], 2)}]"
        rows.append(
            {
                "point": str(row["point"]),
                "params": count_text(row["params"]),
                "tokens": count_text(row["tokens"]),
                "best rate": f"{number_text(row['learning_rate'], 3)}{ends}",
                "loss there": number_text(row["loss"], 4),
                "gain, nats": str(response.gains.get(str(row["point"]), "")),
            }
        )
    return rows
