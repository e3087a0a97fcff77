"""IsoFLOP curves: loss against size at every budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.figures import axes, parts, theme
from analysis.text import count_text, flops_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.isoflop import IsoflopLaw

NUMBERS = (
    "flops", "params", "params_low", "params_high", "tokens", "tokens_per_param", "loss", "loss_low",
    "loss_high", "loss_se",
)  # fmt: skip


def isoflop_table(law: IsoflopLaw) -> pd.DataFrame:
    """What `isoflop` shows: rows of kind "curve" (fitted parabola), "run" and "minimum", budget by budget.

    Columns kind, flops (the budget), params, params_low, params_high, tokens, tokens_per_param, loss,
    loss_low, loss_high, loss_se (nats per token), status and reason (of the budget), label and key (of the
    run).
    """
    import pandas as pd

    minima = law.minima.sort_values("flops").astype(object)
    by_budget = parts.with_labels(parts.by_budget(law, minima["flops"].tolist()))
    by_budget = by_budget[[name for name in (*NUMBERS, "near", "label", "key") if name in by_budget]]
    rows: list[dict[str, Any]] = []
    for minimum in minima.to_dict(orient="records"):
        shared = {name: minimum[name] for name in ("flops", "status", "reason")}
        curve = law.curves(minimum["flops"])[["params", "loss"]]
        rows += [{"kind": "curve"} | row | shared for row in curve.to_dict(orient="records")]
        runs = (
            by_budget[by_budget["near"] == minimum["flops"]].sort_values("params").to_dict(orient="records")
        )
        rows += [{"kind": "run"} | row | shared for row in runs]
        rows.append({"kind": "minimum"} | minimum)
    table = pd.DataFrame(rows).reindex(columns=["kind", *NUMBERS, "status", "reason", "label", "key"])
    table = table if table["key"].notna().any() else table.drop(columns="key")
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in NUMBERS})


def isoflop(laws: IsoflopLaw | Mapping[str, IsoflopLaw], *, own_scale: bool = False) -> go.Figure:
    """Loss against size at every budget, with the fitted parabolas and their minima; one panel per family.

    A budget without a usable minimum is drawn hollow and dotted, and says why under the pointer. With
    `own_scale` each family has a loss axis of its own.
    """
    named = parts.named(laws)
    tables = {name: isoflop_table(law) for name, law in named.items()}
    columns = 2 if len(named) == 4 else min(len(named), 3)
    rows = -(-len(named) // columns)
    titles = [
        (
            parts.marked(theme.family_style(law.family), f"<b>{parts.safe(name)}</b>"),
            parts.belongs(name) or "",
        )
        for name, law in named.items()
    ]
    row_px = 460 if rows == 1 else 300
    apart = 0.1 if columns == 2 or own_scale else 0.04
    figure = parts.panels(rows, columns, row_px=row_px, titles=titles if len(named) > 1 else (), apart=apart)
    budgets = sorted({float(flops) for table in tables.values() for flops in table["flops"]})
    colours, entries = parts.budget_entries(budgets)
    parts.add(figure, entries)
    params = [value for table in tables.values() for value in table["params"]]
    everywhere = _loss_range(tables.values())
    width_px = (parts.WIDTH_PX - 190) * (1 - apart * (columns - 1)) / columns
    for number, (name, table) in enumerate(tables.items()):
        row, column = number // columns + 1, number % columns + 1
        x_axis = axes.log_axis("", params, count_text, room=axes.LABELS_WIDE / columns)
        x_axis["range"][1] += 0.07 * columns * (x_axis["range"][1] - x_axis["range"][0])
        losses = _loss_range([table]) if own_scale else everywhere
        limits = (10 ** x_axis["range"][0], 10 ** x_axis["range"][1])
        family = name or named[name].family
        traces, ends = [], []
        for flops, part in table.groupby("flops"):
            colour = colours[float(flops)]
            tags = {"family": family, "budget": float(flops), "group": flops_text(float(flops))}
            traces += _budget_traces(part, colour, named[name].level, limits, losses, tags)
            end = part[part["kind"] != "minimum"].sort_values("params").iloc[-1]
            owner = parts.belongs(budget=float(flops))
            # an annotation on a logarithmic axis has the power of ten as its place
            ends.append((axes.compute_text(float(flops)), owner, math.log10(end["params"]), end["loss"]))
        minima = table[table["kind"] == "minimum"]
        usable = minima[minima["status"] == parts.BRACKETED].sort_values("flops")
        dashed = {"color": theme.NEUTRAL, "width": 1.5, "dash": "dash"}
        traces.append(
            parts.scatter("line", usable["params"], usable["loss"], family=family, mode="lines", line=dashed)
        )
        parts.add(figure, traces, row, column)
        lowest = number + columns >= len(tables)  # nothing stands below it
        x_axis["title"]["text"] = axes.params_title(law.runs for law in named.values()) if lowest else ""
        figure.update_xaxes(**x_axis, row=row, col=column)
        figure.update_yaxes(tickformat=axes.LOSS_DIGITS, range=list(losses), row=row, col=column)
        if column == 1:
            figure.update_yaxes(title_text=axes.LOSS, row=row, col=column)
        elif not own_scale:
            figure.update_yaxes(showticklabels=columns == 2, row=row, col=column)
        if number and not own_scale:
            figure.update_yaxes(matches="y", row=row, col=column)
        parts.label_ends(figure, number + 1, ends, (x_axis["range"], losses), (width_px, row_px))
    refused = any((table["status"] != parts.BRACKETED).any() for table in tables.values())
    level = next(iter(named.values())).level
    shared = any(table["loss_se"].notna().any() for table in tables.values())
    arrows = any(8 in (trace.marker.size or ()) for trace in figure.data if trace.meta["role"] == "interval")
    caption = (
        f"Circles: runs. Curves: fitted parabolas. Diamonds: their minima with {level:.0%} intervals"
        + (" (arrow: goes on)" if arrows else "")
        + (", the vertical ones with the error of the held-out text that all share" if shared else "")
        + ". Dashed: through the minima."
        + (" Hollow and dotted: budget without a usable minimum." if refused else "")
    )
    title = parts.titled("IsoFLOP curves", "" if len(named) > 1 else next(iter(named)))
    provenance = parts.law_provenance(named.values())
    return parts.finish(figure, "isoflop", title, caption, provenance, legend="Budget (FLOPs)")


def _loss_range(tables: Any) -> tuple[float, float]:
    """The losses of runs and minima with a margin; ends of a steep parabola or a wide interval may leave."""
    losses = [loss for table in tables for loss in table.loc[table["kind"] != "curve", "loss"].dropna()]
    margin = 0.06 * (max(losses) - min(losses)) or 0.05
    return min(losses) - margin, max(losses) + margin


def _budget_traces(
    part: pd.DataFrame, colour: str, level: float, sizes: tuple[float, float], losses: tuple[float, float],
    tags: Mapping[str, Any],
) -> list[go.Scatter]:  # fmt: skip
    """Parabola, runs and minimum of one budget."""
    used = part["status"].iloc[0] == parts.BRACKETED
    reason = "" if used else f"<br>{parts.safe(part['reason'].iloc[0])}"
    runs, curve, minimum = (part[part["kind"] == kind] for kind in ("run", "curve", "minimum"))
    # unsimplified: Plotly would straighten a smooth curve into a visible polygon
    line = {"color": colour, "width": 1.8, "dash": "solid" if used else "dot", "simplify": False}
    texts = [text + reason for text in parts.run_texts(runs, tags["budget"])]
    traces = [
        parts.scatter("line", curve["params"], curve["loss"], mode="lines", line=line, **tags),
        parts.scatter(
            "points", runs["params"], runs["loss"], keys=runs, text=texts, mode="markers",
            marker=parts.marker(colour, "circle" if used else "circle-open", 8), **tags,
        ),
    ]  # fmt: skip
    if not used:
        return traces
    for along, name, limits in (("x", "params", sizes), ("y", "loss", losses)):
        ends = (minimum[f"{name}_low"], minimum[f"{name}_high"])
        traces += parts.intervals(along, minimum["params"], minimum["loss"], *ends, limits, colour, **tags)
    texts = [parts.optimum_text("minimum", row, level) for row in minimum.to_dict(orient="records")]
    traces.append(
        parts.scatter(
            "minimum", minimum["params"], minimum["loss"], text=texts, mode="markers",
            marker=parts.marker(colour, "diamond", 12), **tags,
        )
    )  # fmt: skip
    return traces
