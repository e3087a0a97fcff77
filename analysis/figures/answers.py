"""The answer for a budget: how far every family ends above the best one, and at which sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme
from analysis.text import count_text, interval_text, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.answer.recommendation import Recommendation

ROW_PX = 44
LETTER_PX = 7.5
MARKS = {"surface": "circle", "allowance": "square", "isoflop": "diamond"}


def answer_table(answer: Recommendation) -> pd.DataFrame:
    """What `answer` shows: `answer.table`."""
    return answer.table


def answer(answer: Recommendation) -> go.Figure:
    """Families from the best down: loss above the best one, paired, and the sizes as good as the best."""
    table, methods = answer_table(answer), answer.methods
    names = [str(name) for name in table["family"]]
    labels = [parts.safe(name) or "these runs" for name in names]
    styles = dict(zip(names, (theme.family_style(name or None) for name in names), strict=True))
    figure = parts.panels(2, 2, row_px=ROW_PX * (len(names) + 1) + 60)
    y_axis = {"tickvals": [-row for row in range(len(names))], "range": [0.6 - len(names), 0.6]}

    above, sizes = [], []
    wide = (float("-inf"), float("inf"))
    for row, name in enumerate(names):
        colour, own = styles[name].colour, table.iloc[row]
        ends = [own["difference_low"]], [own["difference_high"]]
        above += parts.intervals("x", [own["difference"]], [-row], *ends, wide, colour, family=name or None)
        text = (
            f"{labels[row]}: {interval_text(own['difference'], ends[0][0], ends[1][0])} nats above the best"
        )
        above.append(parts.scatter("reference", [own["difference"]], [-row], family=name or None, text=[text],
                                   mark=(colour, styles[name].symbol, 11)))  # fmt: skip
        by_method = methods[methods["family"] == name]
        for method, difference in zip(by_method["method"], by_method["difference"], strict=True):
            text = f"{labels[row]} by {method}: {number_text(difference)} nats above the best"
            mark = (colour, f"{MARKS[method]}-open", 8)
            place = [difference], [-row - 0.25]
            above.append(parts.scatter("reference", *place, family=name or None, text=[text], mark=mark))
        text = (
            f"{labels[row]}: {count_text(own['params_low'])} to {count_text(own['params_high'])} parameters"
        )
        sizes.append(parts.scatter("line", [own["params_low"], own["params_high"]], [-row, -row],
                                   family=name or None, text=[text, text],
                                   line={"color": colour, "width": 7}))  # fmt: skip
        sizes.append(parts.scatter("reference", [own["params"]], [-row], family=name or None, text=[text],
                                   mark=(colour, styles[name].symbol, 11)))  # fmt: skip
    x_sizes = axes.log_axis("Parameters", [*table["params_low"], *table["params_high"]], count_text, room=6)
    x_above = {"title_text": "Loss above the best (nats per token)", "zeroline": True}
    parts.add(figure, above, 1, x=x_above, y=y_axis | {"ticktext": labels})
    parts.add(figure, sizes, 2, x=x_sizes, y=y_axis | {"ticktext": labels, "showticklabels": False})
    caption = (
        f"Left: {answer.level:.0%} intervals of the difference. Hollow: circle the surface, square its "
        "allowance, diamond IsoFLOP. Right: sizes within 0.5% of the best loss."
    )
    laws = [next(iter(answer.families[name].laws.values())) for name in names]
    parts.finish(
        figure, "answer", f"What {answer.budget} buy", caption, parts.law_provenance(laws),
        of=names[0] or None if len(names) == 1 else None,
    )  # fmt: skip
    return figure.update_layout(margin={"l": round(LETTER_PX * max(map(len, labels)) + 24)})
