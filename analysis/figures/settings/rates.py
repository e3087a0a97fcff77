"""The best learning rate: loss against rate at every point, and the law through the minima."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from analysis.figures import axes, parts, theme
from analysis.text import count_text, interval_text, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.response import Response

RATE = "Peak learning rate"
CURVE_POINTS = 60
COLUMNS = ("kind", "point", "params", "steps", "tokens", "learning_rate", "low", "high", "loss")
TITLES = {"params": "Parameters without embeddings", "steps": "Optimizer steps"}


def tuning_table(response: Response) -> pd.DataFrame:
    """What `tuning` shows: rows of kind "trial" (its loss with the other settings at their middle), "curve"
    (the parabola of the point), "minimum" (with interval), and "params" and "steps" (the law along one
    quantity, the other where the law has its reference).

    Columns kind, point, params, steps, tokens, learning_rate, low, high (of the rate), loss (nats per token).
    """
    import numpy as np
    import pandas as pd

    trials = response.trials[response.trials["fitted"]]
    tables = [trials.assign(kind="trial", loss=trials["adjusted"])]
    for best in response.optima.to_dict("records"):
        rates = trials.loc[trials["point"] == best["point"], "learning_rate"]
        rates = np.geomspace(rates.min(), rates.max(), CURVE_POINTS)
        losses = best["loss"] + 0.5 * best["curvature"] * np.log(rates / best["learning_rate"]) ** 2
        columns = {"kind": "curve", "point": best["point"], "learning_rate": rates, "loss": losses}
        tables.append(pd.DataFrame(columns))
    tables.append(response.optima.assign(kind="minimum"))
    law = response.laws["learning_rate"]
    for name in law.reference:
        low, high = law.tried[name]
        rows = []
        for value in np.geomspace(low, high, CURVE_POINTS):
            rate = law.best(**{**law.reference, name: float(value)})
            rows.append({name: value, "learning_rate": float(rate), "low": rate.low, "high": rate.high})
        tables.append(pd.DataFrame(rows).assign(kind=name))
    return pd.concat([table.reindex(columns=COLUMNS).astype(object) for table in tables], ignore_index=True)


def tuning(response: Response) -> go.Figure:
    """Loss against learning rate at every point with the parabola and its minimum, then the law through the
    minima against size and against steps.

    Losses have the other settings at the middle of their point. In the panels of the law the minima are moved
    along the law to the reference of the quantity that is not on the axis.
    """
    table = tuning_table(response)
    law = response.laws["learning_rate"]
    points, along = list(response.optima["point"]), list(law.reference)
    titles = [(f"<b>{parts.safe(point)}</b>", "") for point in points]
    for name in along:
        others = [f"{other} {_text(other, law.reference[other])}" for other in along if other != name]
        titles.append((f"<b>best rate</b>{f' at {others[0]}' if others else ''}", ""))
    columns = 2 if len(titles) > 1 else 1
    figure = parts.panels(len(titles), columns, row_px=260, titles=titles, apart=0.1)
    style = theme.family_style(response.family)
    if response.family:
        parts.legend_entry(figure, style, family=response.family)
    owner: dict[str, Any] = {"family": response.family}
    # the rates tried; an interval that goes on ends in an arrow
    rates = axes.log_axis(RATE, table["learning_rate"], number_text, room=5)
    for panel, point in enumerate(points, start=1):
        part = table[table["point"] == point]
        visible = part[part["kind"].isin(["trial", "minimum"])]
        y_axis = axes.loss_axis(axes.LOSS if panel % columns else "", map(float, visible["loss"]))
        parts.add(
            figure, _point_traces(part, response, style, owner, rates, y_axis), panel, x=rates, y=y_axis
        )
    for panel, name in enumerate(along, start=len(points) + 1):
        line = table[table["kind"] == name]
        x_axis = axes.log_axis(TITLES[name], line[name], lambda value, name=name: _text(name, value), room=5)  # type: ignore[misc]
        y_axis = rates | {"title": {"text": RATE if panel % columns else ""}}
        traces = _law_traces(table, response, name, style, owner, axes.limits_of(y_axis))
        parts.add(figure, traces, panel, x=x_axis, y=y_axis)
    left_out = len(response.trials) - int(response.trials["fitted"].sum())
    caption = (
        "Circles: trials, means over seeds. Curves: parabolas, which share one curvature. Diamonds: minima "
        f"with {law.level:.0%} intervals. Lines and bands: the law. "
    )
    caption += f"Not shown: {left_out} trials that diverged or lie far above the best." if left_out else ""
    return parts.finish(
        figure, "tuning", "Tuning of the learning rate", caption,
        parts.run_provenance([response.trials], what="trials"), of=response.family,
    )  # fmt: skip


def _text(name: str, value: float) -> str:
    return count_text(value) if name == "params" else number_text(value, 3)


def _point_traces(
    part: pd.DataFrame, response: Response, style: theme.Style, owner: dict[str, Any], x: Any, y: Any
) -> list[go.Scatter]:
    trials, curve, minimum = (part[part["kind"] == kind] for kind in ("trial", "curve", "minimum"))
    texts = [
        f"rate {number_text(row['learning_rate'], 3)}<br>loss {row['loss']:.4f} nats per token"
        for row in trials.to_dict("records")
    ]
    line = {"color": style.colour, "width": 1.8, "simplify": False}
    best = minimum.iloc[0]
    rate = interval_text(best["learning_rate"], best["low"], best["high"], number_text)
    text = [f"best rate {rate}<br>loss {best['loss']:.4f} nats per token"]
    place = (minimum["learning_rate"], minimum["loss"])
    limits = axes.limits_of(x)
    return [
        parts.scatter("line", curve["learning_rate"], curve["loss"], line=line, **owner),
        parts.scatter(
            "reference", trials["learning_rate"], trials["loss"], mark=(style.colour, "circle-open", 7),
            text=texts, **owner,
        ),
        *parts.intervals("x", *place, minimum["low"], minimum["high"], limits, style.colour, **owner),
        parts.scatter("minimum", *place, mark=(style.colour, "diamond", 11), text=text, **owner),
    ]  # fmt: skip


def _law_traces(
    table: pd.DataFrame, response: Response, name: str, style: theme.Style, owner: dict[str, Any],
    limits: tuple[float, float],
) -> list[go.Scatter]:  # fmt: skip
    law = response.laws["learning_rate"]
    line, minima = table[table["kind"] == name], table[table["kind"] == "minimum"]
    dashes = {"color": style.colour, "width": 1.8, "simplify": False}
    # along the law to where the line is drawn
    moves = [
        math.prod(
            (at / row[other]) ** float(law.exponents[other])
            for other, at in law.reference.items()
            if other != name
        )
        for row in minima.to_dict("records")
    ]
    moved = {
        column: [
            None if value is None else value * move for value, move in zip(minima[column], moves, strict=True)
        ]
        for column in ("learning_rate", "low", "high")
    }
    texts = [
        f"<b>{parts.safe(point)}</b><br>best rate {number_text(rate, 3)}"
        for point, rate in zip(minima["point"], minima["learning_rate"], strict=True)
    ]
    place = (minima[name], moved["learning_rate"])
    return [
        *parts.band(line[name], line["low"], line["high"], limits, style.colour, **owner),
        parts.scatter("line", line[name], line["learning_rate"], line=dashes, **owner),
        *parts.intervals("y", *place, moved["low"], moved["high"], limits, style.colour, **owner),
        parts.scatter("minimum", *place, mark=(style.colour, "diamond", 11), text=texts, **owner),
    ]
