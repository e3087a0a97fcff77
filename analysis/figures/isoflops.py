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
    curves = [law.curves(flops)[["params", "loss"]].assign(near=flops) for flops in minima["flops"]]
    runs = parts.with_labels(parts.by_budget(law, minima["flops"])).sort_values("params")
    kinds = {"curve": pd.concat(curves), "run": runs, "minimum": minima.assign(near=minima["flops"])}
    columns = ["kind", *NUMBERS, "status", "reason", "label", "key"]
    rows = [part.assign(kind=kind).reindex(columns=[*columns, "near"]) for kind, part in kinds.items()]
    table = pd.concat([part.astype(object) for part in rows]).sort_values("near", kind="stable")
    of_budget = minima.set_index("flops").loc[table["near"], ["status", "reason"]].reset_index()
    table = table.reset_index(drop=True).assign(**of_budget)[columns]
    table = table if table["key"].notna().any() else table.drop(columns="key")
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in NUMBERS})


def isoflop(laws: IsoflopLaw | Mapping[str, IsoflopLaw], *, own_scale: bool = False) -> go.Figure:
    """Loss against size at every budget, with the fitted parabolas and their minima; one panel per family.

    A budget without a usable minimum is drawn hollow and dotted, and says why under the pointer. With
    `own_scale` each family has a loss axis of its own.
    """
    import pandas as pd

    by_name = parts.laws_by_name(laws)
    tables = {name: isoflop_table(law) for name, law in by_name.items()}
    together = pd.concat(tables.values())
    columns = 2 if len(by_name) == 4 else min(len(by_name), 3)
    row_px = 460 if len(by_name) <= columns else 300
    apart = 0.1 if columns == 2 or own_scale else 0.04
    width_px = (parts.WIDTH_PX - 190) * (1 - apart * (columns - 1)) / columns
    titles = [parts.family_title(name, law.family) for name, law in by_name.items()]
    titles = titles if len(by_name) > 1 else []
    figure = parts.panels(len(by_name), columns, row_px=row_px, titles=titles, apart=apart)
    colours = parts.budget_legend(figure, sorted(map(float, together["flops"].unique())))
    for panel, (name, table) in enumerate(tables.items(), start=1):
        room = axes.LABELS_WIDE / columns
        lowest = panel + columns > len(tables)  # nothing stands below it
        x_title = axes.params_title(law.runs for law in by_name.values()) if lowest else ""
        x_axis = axes.log_axis(x_title, together["params"], count_text, room=room, beyond=0.07 * columns)
        # ends of a steep parabola or of a wide interval may leave the panel
        measured = table if own_scale else together
        left = panel % columns == 1 or columns == 1
        losses = measured.loc[measured["kind"] != "curve", "loss"].dropna()
        y_axis = axes.loss_axis(axes.LOSS if left else "", losses)
        if not own_scale:
            y_axis |= {"showticklabels": left or columns == 2} | ({"matches": "y"} if panel > 1 else {})
        law = by_name[name]
        family = name or law.family
        traces, ends = [], []
        for flops, part in table.groupby("flops"):
            owner = {"family": family, "budget": float(flops), "group": flops_text(float(flops))}
            limits = axes.limits_of(x_axis), axes.limits_of(y_axis)
            traces += _budget_traces(part, colours[float(flops)], law.level, *limits, owner)
            end = part[part["kind"] != "minimum"].sort_values("params").iloc[-1]
            label, of_budget = axes.compute_text(float(flops)), parts.belongs(budget=float(flops))
            ends.append((label, of_budget, math.log10(end["params"]), end["loss"]))
        minima = table[(table["kind"] == "minimum") & (table["status"] == parts.BRACKETED)]
        dashed = {"color": theme.NEUTRAL, "width": 1.5, "dash": "dash"}
        traces.append(parts.scatter("line", minima["params"], minima["loss"], family=family, line=dashed))
        parts.add(figure, traces, panel, x=x_axis, y=y_axis)
        parts.label_ends(figure, panel, ends, (x_axis["range"], y_axis["range"]), (width_px, row_px))
    intervals = [trace for trace in figure.data if trace.meta["role"] == "interval"]
    notes = {
        " (arrow: goes on)": any(8 in trace.marker.size for trace in intervals),
        ", the vertical ones with the error of the held-out text that all share":
            together["loss_se"].notna().any(),
        ". Dashed: through the minima.": True,
        " Hollow and dotted: budget without a usable minimum.": (together["status"] != parts.BRACKETED).any(),
    }  # fmt: skip
    caption = f"Circles: runs. Curves: fitted parabolas. Diamonds: minima with {law.level:.0%} intervals"
    caption += "".join(note for note, applies in notes.items() if applies)
    provenance = parts.law_provenance(by_name.values())
    return parts.finish(
        figure, "isoflop", "IsoFLOP curves", caption, provenance, legend="Budget (FLOPs)",
        of=name if len(by_name) == 1 else None,
    )  # fmt: skip


def _budget_traces(
    part: pd.DataFrame, colour: str, level: float, sizes: tuple[float, float], losses: tuple[float, float],
    owner: Mapping[str, Any],
) -> list[go.Scatter]:  # fmt: skip
    """Parabola, runs and minimum of one budget."""
    usable = part["status"].iloc[0] == parts.BRACKETED
    reason = "" if usable else f"<br>{parts.safe(part['reason'].iloc[0])}"
    runs, curve, minimum = (part[part["kind"] == kind] for kind in ("run", "curve", "minimum"))
    # unsimplified: Plotly would straighten a smooth curve into a visible polygon
    line = {"color": colour, "width": 1.8, "dash": "solid" if usable else "dot", "simplify": False}
    mark = (colour, "circle" if usable else "circle-open", 8)
    traces = [
        parts.scatter("line", curve["params"], curve["loss"], line=line, **owner),
        parts.run_points(runs, "params", "loss", mark, more=lambda run: reason, **owner),
    ]
    if not usable:
        return traces
    place = (minimum["params"], minimum["loss"])
    for along, name, limits in (("x", "params", sizes), ("y", "loss", losses)):
        ends = (minimum[f"{name}_low"], minimum[f"{name}_high"])
        traces += parts.intervals(along, *place, *ends, limits, colour, **owner)
    texts = [parts.optimum_text("minimum", row, level) for row in minimum.to_dict("records")]
    traces.append(parts.scatter("minimum", *place, mark=(colour, "diamond", 12), text=texts, **owner))
    return traces
