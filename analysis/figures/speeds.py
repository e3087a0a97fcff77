"""Speed against quality: perplexity and entropy of samples over the speed at which they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.figures import axes, parts, theme
from analysis.text import count_text, flops_text, interval_text, is_missing, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.speed.comparison import SpeedQuality

PANELS = (
    ("many texts", "gen_ppl", "tokens_per_s"), ("one text", "gen_ppl", "speed_one"),
    ("many texts", "entropy", "tokens_per_s"), ("one text", "entropy", "speed_one"),
)  # fmt: skip
"""Which speed, which quality, and the column of the speed."""
SPEED_TITLES = {
    "many texts": "Speed of many texts at once (tokens/s)",
    "one text": "Speed of one text (tokens/s)",
}
QUALITY_TITLES = {"gen_ppl": "Generative perplexity", "entropy": "Unigram entropy (nats)"}
ROW_PX = 300


def speed_quality_table(comparison: SpeedQuality) -> pd.DataFrame:
    """What `speed_quality` shows: `comparison.points` without those of too little entropy."""
    return comparison.points[~comparison.points["dull"]]


def speed_quality(comparison: SpeedQuality) -> go.Figure:
    """Generative perplexity (above) and entropy (below) over the speed of many texts (left) and of one
    (right), both with logarithmic speeds; a line joins each family's front."""
    table = speed_quality_table(comparison)
    families = theme.family_order(table["family"].unique())
    figure = parts.panels(4, 2, row_px=ROW_PX)
    for family in families:
        parts.legend_entry(figure, theme.family_style(family), dash="solid", family=family)
    y_axes = {
        "gen_ppl": axes.log_axis(QUALITY_TITLES["gen_ppl"], table["gen_ppl"], number_text, room=7),
        "entropy": axes.loss_axis(
            QUALITY_TITLES["entropy"],
            [end for name in ("entropy", "entropy_low", "entropy_high") for end in table[name].dropna()],
        ),
    }
    for panel, (at, quality, speed) in enumerate(PANELS, start=1):
        title = SPEED_TITLES[at]
        x_axis = axes.log_axis(title, table[speed], count_text, room=6)
        y_axis: dict[str, Any] = dict(y_axes[quality])
        if panel % 2 == 0:
            y_axis["title"] = {"text": ""}
        limits = axes.limits_of(y_axis)
        traces = []
        for family in families:
            traces += _family(comparison, family, (at, quality, speed), limits)
        if quality == "gen_ppl":
            traces += _crossings(comparison.crossings, at, axes.limits_of(x_axis), limits)
        parts.add(figure, traces, panel, x=x_axis, y=y_axis)
    caption = (
        f"Filled: no sampler of the family is at least as fast and as good. Bars: {comparison.level:.0%} "
        "intervals; grey ones where the lead changes. Lines run along the steps of one sampler. "
        f"Texts of {comparison.length} tokens, judged by {parts.safe(comparison.judge)}."
    )
    if dull := len(comparison.points) - len(table):
        caption += f" {dull} samples of too little entropy are not drawn."
    provenance = parts.run_provenance([table], what="samples")
    return parts.finish(figure, "speed_quality", "Speed against quality", caption, provenance)


def _family(
    comparison: SpeedQuality, family: str, panel: tuple[str, str, str], limits: tuple[float, float]
) -> list[go.Scatter]:
    """The points of a family, its front with intervals, and the line along it."""
    at, quality, speed = panel
    style, front = theme.family_style(family), comparison.front(family, at)
    table = speed_quality_table(comparison)
    own = table[table["family"] == family]
    others = own[~own["front_many" if at == "many texts" else "front_one"]]
    line = {"color": style.colour, "width": 1.8}
    ends = front[f"{quality}_low"], front[f"{quality}_high"]
    traces = [parts.scatter("line", *_line(front, speed, quality), line=line, family=family)]
    traces += parts.intervals("y", front[speed], front[quality], *ends, limits, style.colour, family=family)
    for points, symbol, size in ((front, style.symbol, 9), (others, f"{style.symbol}-open", 5)):
        if len(points):
            texts = [_text(row) for row in points.to_dict("records")]
            mark, place = (style.colour, symbol, size), (points[speed], points[quality])
            traces.append(parts.scatter("points", *place, mark=mark, keys=points, text=texts, family=family))
    return traces


def _line(front: pd.DataFrame, speed: str, quality: str) -> tuple[list[float], list[float]]:
    """A front, slowest first: straight along the steps of one run and sampler, with a corner between two of
    them, for up to a point's speed its quality holds."""
    xs: list[float] = []
    ys: list[float] = []
    ladders = front[["key", "sampler", "options"]].itertuples(index=False, name=None)
    before = None
    for x, y, ladder in zip(front[speed], front[quality], ladders, strict=True):
        if xs and ladder != before:
            xs.append(xs[-1])
            ys.append(float(y))
        xs.append(float(x))
        ys.append(float(y))
        before = ladder
    return xs, ys


def _crossings(
    crossings: pd.DataFrame, at: str, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> list[go.Scatter]:
    own = crossings[crossings["at"] == at]
    if not len(own):
        return []
    height = y_limits[0] ** 0.97 * y_limits[1] ** 0.03
    heights = [height] * len(own)
    bars = parts.intervals(
        "x",
        own["speed"],
        heights,
        own["low"].clip(lower=x_limits[0] / 10),
        own["high"],
        x_limits,
        theme.NEUTRAL,
    )
    texts = [
        f"{parts.safe(row['faster'])} takes the lead from {parts.safe(row['slower'])} at "
        f"{interval_text(row['speed'], row['low'], row['high'], count_text)} tokens/s"
        for row in own.to_dict("records")
    ]
    marks = parts.scatter("reference", own["speed"], heights, mark=(theme.NEUTRAL, "circle", 6), text=texts)
    return [*bars, marks]


def _text(row: Mapping[str, Any]) -> str:
    from analysis.speed.samples import sampler_text

    budget = "" if is_missing(row["budget"]) else f", run of {flops_text(row['budget'])} FLOPs"
    perplexity = interval_text(row["gen_ppl"], row["gen_ppl_low"], row["gen_ppl_high"])
    return (
        f"<b>{parts.safe(row['family'])}</b> {parts.safe(sampler_text(row))}{budget}<br>"
        f"perplexity {perplexity}, entropy "
        f"{interval_text(row['entropy'], row['entropy_low'], row['entropy_high'])}<br>"
        f"{count_text(row['tokens_per_s'])} tokens/s, {number_text(row['latency_s'])} s for one text"
    )
