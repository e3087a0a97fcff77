"""The printed figure shows what the Plotly figure says, and refuses what it cannot show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from analysis import compare, diagnose, fit_law, fit_laws, rollout
from analysis.errors import UserError
from analysis.figures import theme
from analysis.figures.static import colour_of, draw, numbers_of, render, text_of
from tests.analysis.planted import isoflop_table


def lines_of(drawing: Figure, plot: int = 0) -> list[Any]:
    return [line for line in drawing.axes[plot].get_lines() if len(line.get_xdata()) > 1]


class TestTraces:
    def test_line(self) -> None:
        line = {"color": "#cc1c2e", "width": 3, "dash": "dash"}
        (drawn,) = lines_of(
            draw(go.Figure(go.Scatter(x=[1, 2, 3], y=[1.0, None, 9.0], mode="lines", line=line)))
        )
        assert list(drawn.get_xdata()) == [1, 2, 3]
        assert np.isnan(drawn.get_ydata()[1])  # a gap stays a gap
        assert to_hex(drawn.get_color()) == "#cc1c2e"
        assert drawn.get_linewidth() == pytest.approx(3 * 0.72)
        assert drawn.get_linestyle() == "--"

    def test_hollow_and_filled_markers_in_one_trace(self) -> None:
        marker = {"symbol": ["circle", "circle", "square-open"], "color": "#3d8ef6", "size": 10}
        drawn = draw(go.Figure(go.Scatter(x=[1, 2, 3], y=[1, 2, 3], mode="markers", marker=marker)))
        filled, hollow = drawn.axes[0].get_lines()
        assert (filled.get_marker(), len(filled.get_xdata())) == ("o", 2)
        assert (hollow.get_marker(), hollow.get_markerfacecolor()) == ("s", "none")
        assert to_hex(hollow.get_markeredgecolor()) == "#3d8ef6"

    def test_every_family_has_a_printed_marker(self) -> None:
        for symbol in [style.symbol for style in theme.FAMILY_STYLES.values()] + list(theme.SPARE_SYMBOLS):
            trace = go.Scatter(x=[1], y=[1], mode="markers", marker={"symbol": symbol})
            assert len(draw(go.Figure(trace)).axes[0].get_lines()) == 1

    def test_bands(self) -> None:
        closed = go.Scatter(
            x=[1, 2, 2, 1], y=[1, 1, 2, 2], fill="toself", fillcolor="rgba(61, 142, 246, 0.2)"
        )
        (area,) = draw(go.Figure(closed)).axes[0].patches
        assert area.get_facecolor() == pytest.approx((61 / 255, 142 / 255, 246 / 255, 0.2))

    def test_horizontal_bars(self) -> None:
        bars = go.Bar(
            orientation="h", base=[1.0, 4.0], x=[2.0, 3.0], y=[0, 1], width=0.8, marker_color="#cc1c2e"
        )
        first, second = draw(go.Figure(bars)).axes[0].patches
        assert (first.get_x(), first.get_width()) == (1.0, 2.0)
        assert (second.get_x() + second.get_width(), second.get_height()) == (7.0, 0.8)
        assert to_hex(first.get_facecolor()) == "#cc1c2e"

    def test_a_mark_of_size_zero_is_not_drawn_and_arrows_are(self) -> None:
        marker = {"symbol": ["circle", "triangle-right"], "size": [0, 8], "color": "#cc1c2e"}
        trace = go.Scatter(x=[1, 2], y=[1, 1], mode="markers", marker=marker)
        none, arrow = draw(go.Figure(trace)).axes[0].get_lines()
        assert none.get_markersize() == 0
        assert arrow.get_marker() == ">"

    def test_hidden_traces_are_not_drawn(self) -> None:
        hidden = go.Scatter(x=[1, 2], y=[1, 2], name="h", visible="legendonly")
        drawn = draw(go.Figure([hidden, go.Scatter(x=[1, 2], y=[1, 2], mode="lines", name="shown")]))
        assert len(lines_of(drawn)) == 1
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["shown"]

    @pytest.mark.parametrize(
        ("trace", "sentence"),
        [
            (go.Pie(values=[1]), "scatter traces and horizontal bars, not 'pie'"),
            (go.Bar(x=[1], y=[1]), "not 'bar'"),
            (go.Scatter(x=[1], y=[1], fill="tozeroy"), "no 'tozeroy' of a trace"),
            (go.Scatter(x=[1], y=[1], mode="markers+text", text="a"), "no 'text' of a trace"),
            (go.Scatter(x=[1], y=[1], error_y={"array": [1]}), "no 'error_y' of a trace"),
            (go.Scatter(x=[1], y=[1], mode="markers", marker={"symbol": "y-up"}), "no marker 'y-up'"),
        ],
    )
    def test_refuses_what_it_cannot_show(self, trace: Any, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            draw(go.Figure(trace))

    def test_refuses_other_shapes(self) -> None:
        figure = go.Figure(go.Scatter(x=[1], y=[1])).add_shape(type="circle", x0=0, x1=1, y0=0, y1=1)
        with pytest.raises(UserError, match="not 'circle'"):
            draw(figure)

    def test_packed_numbers(self) -> None:
        packed = go.Figure(go.Scatter(x=np.array([1.5, 2.5]))).to_plotly_json()["data"][0]["x"]
        assert numbers_of(packed).tolist() == [1.5, 2.5]
        assert math.isnan(numbers_of([None])[0])


class TestAround:
    def test_log_axis_with_given_ticks(self) -> None:
        figure = go.Figure(go.Scatter(x=[1e18, 1e20], y=[1, 2]))
        figure.update_xaxes(
            type="log", range=[18, 20], tickvals=[1e18, 1e19], ticktext=["1e18", "1e19"],
            minor={"tickvals": [2e18, 6e18]}, title_text="Compute",
        )  # fmt: skip
        drawn = draw(figure)
        drawn.canvas.draw()
        axis = drawn.axes[0].xaxis
        assert drawn.axes[0].get_xlim() == pytest.approx((1e18, 1e20))
        assert [label.get_text() for label in axis.get_ticklabels()] == ["1e18", "1e19"]
        assert [label.get_text() for label in axis.get_ticklabels(minor=True)] == ["", ""]
        assert axis.get_label_text() == "Compute"

    def test_linear_axis_with_format_and_reversed_range(self) -> None:
        figure = go.Figure(go.Scatter(x=[3.6, 2.8], y=[-1, 1]))
        figure.update_xaxes(range=[3.6, 2.8], tickformat=".2f").update_yaxes(nticks=4)
        drawn = draw(figure)
        drawn.canvas.draw()
        assert drawn.axes[0].get_xlim() == (3.6, 2.8)
        assert "3.00" in [label.get_text() for label in drawn.axes[0].get_xticklabels()]
        assert "\u22121" in [label.get_text() for label in drawn.axes[0].get_yticklabels()]

    def test_subplots_share_axes_and_stand_where_plotly_puts_them(self) -> None:
        figure = make_subplots(1, 2, subplot_titles=["<b>left</b>", "right"])
        figure.add_scatter(x=[1, 2], y=[1, 2], row=1, col=1).add_scatter(x=[1, 2], y=[5, 9], row=1, col=2)
        figure.update_yaxes(matches="y", row=1, col=2)
        figure.update_layout(width=1000, margin={"l": 100, "r": 100})
        left, right = (drawn := draw(figure)).axes
        assert left.get_ylim() == right.get_ylim()
        assert left.get_ylim()[1] > 9
        domain = figure.layout.xaxis2.domain
        assert right.get_position().x0 == pytest.approx((100 + 800 * domain[0]) / 1000)
        titles = [(text.get_text(), text.get_fontweight()) for axes in drawn.axes for text in axes.texts]
        assert titles == [("left", "bold"), ("right", "normal")]

    def test_hidden_tick_labels_are_hidden(self) -> None:
        figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2])).update_yaxes(showticklabels=False)
        drawn = draw(figure)
        drawn.canvas.draw()
        assert not any(label.get_visible() for label in drawn.axes[0].get_yticklabels())
        assert all(label.get_visible() for label in drawn.axes[0].get_xticklabels())

    def test_annotations_on_log_axes_are_exponents(self) -> None:
        figure = go.Figure(go.Scatter(x=[1, 1000], y=[1, 2])).update_xaxes(type="log")
        figure.add_annotation(x=2, y=1.5, text="here", showarrow=True, ax=20, ay=-10)
        (note,) = draw(figure).axes[0].texts
        assert note.xy == (100.0, 1.5)
        assert note.get_position() == pytest.approx((20 * 0.72, 10 * 0.72))

    def test_shapes_keep_the_range(self) -> None:
        figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], mode="lines"))
        figure.add_hline(y=1.5).add_vrect(x0=1.2, x1=1.4, fillcolor="#cc1c2e", line_width=0)
        drawn = draw(figure)
        plain = draw(go.Figure(go.Scatter(x=[1, 2], y=[1, 2], mode="lines")))
        assert drawn.axes[0].axis() == plain.axes[0].axis()
        assert list(lines_of(drawn)[1].get_ydata()) == [1.5, 1.5]
        assert drawn.axes[0].patches[0].get_width() == pytest.approx(0.2)

    def test_legend_title_and_order(self) -> None:
        figure = go.Figure(
            [
                go.Scatter(x=[1], y=[1], name="one", mode="lines+markers"),
                go.Scatter(x=[1], y=[1], name="two", mode="markers"),
                go.Scatter(x=[1], y=[1], name="silent", showlegend=False),
                go.Scatter(x=[1, 2], y=[1, 1], name="band", fill="toself", line={"width": 0}, mode="lines"),
            ]
        )
        figure.update_layout(legend_title_text="Family")
        (legend,) = draw(figure).legends
        assert [text.get_text() for text in legend.get_texts()] == ["one", "two", "band"]
        assert legend.get_title().get_text() == "Family"
        assert not draw(figure.update_layout(showlegend=False)).legends

    def test_title_subtitle_size_and_theme(self) -> None:
        figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2]))
        figure.update_layout(title={"text": "Title", "subtitle": {"text": "sub"}}, width=700, height=300)
        drawn = draw(theme.set_theme(figure, "dark"))
        assert [text.get_text() for text in drawn.texts] == ["Title", "sub", ""]
        assert drawn.texts[0].get_fontsize() > drawn.texts[1].get_fontsize()
        assert to_hex(drawn.get_facecolor()) == theme.PALETTES["dark"].paper
        assert to_hex(drawn.texts[1].get_color()) == theme.PALETTES["dark"].muted
        assert drawn.get_size_inches().tolist() == [7.0, 3.0]

    def test_provenance_stands_below_and_takes_its_own_room(self) -> None:
        figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2])).update_layout(height=300)
        before = draw(figure).axes[0].get_position().height * 300
        drawn = draw(figure.update_layout(meta={"provenance": "3 runs; data 1234abcd " * 10}))
        assert "3 runs; data" in drawn.texts[-1].get_text()
        height = drawn.get_size_inches()[1] * 100
        assert height > 310
        assert drawn.axes[0].get_position().height * height == pytest.approx(before)

    def test_a_mark_before_a_name_keeps_its_colour(self) -> None:
        figure = go.Figure(go.Scatter(x=[1], y=[1]))
        figure.add_annotation(
            text='<span style="color:#cc1c2e">●</span> ar', x=1, y=1, xanchor="left", showarrow=False
        )
        whole, mark = draw(figure).axes[0].texts
        assert (whole.get_text(), mark.get_text()) == ("● ar", "●")
        assert to_hex(mark.get_color()) == "#cc1c2e"
        assert to_hex(whole.get_color()) != "#cc1c2e"

    def test_png_has_the_size_asked_for(self) -> None:
        figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2])).update_layout(width=400, height=300)
        data = render(figure, "png", scale=1.5)
        # width and height stand in the first chunk of a PNG file
        assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (600, 450)

    def test_empty_figure(self) -> None:
        assert render(go.Figure(), "svg").startswith(b"<?xml")

    def test_leaves_the_figure_alone(self) -> None:
        figure = theme.set_theme(go.Figure(go.Scatter(x=[1, 2], y=[1, 2])), "light")
        before = figure.to_json()
        draw(figure)
        assert figure.to_json() == before


@pytest.mark.parametrize(
    ("css", "expected"),
    [
        ("#ff0000", "#ff0000"),
        ("rgb(255, 0, 0)", (1.0, 0.0, 0.0)),
        ("rgba(0,255,0,0.5)", (0.0, 1.0, 0.0, 0.5)),
    ],
)
def test_colours(css: str, expected: Any) -> None:
    assert colour_of(css) == expected


def test_text_keeps_angle_brackets_of_users() -> None:
    assert text_of("<b>a</b> &lt;b&gt; <sup>2</sup>") == "a <b> 2"
    assert text_of(None) == ""


class TestOnAxesOfTheUser:
    """`plot(ax=...)` draws panels on matplotlib axes that somebody else made."""

    def test_one_axes_gets_the_first_panel_with_the_points_of_the_figure(self) -> None:
        law = fit_law(isoflop_table(noise=0.002, sizes=7), "isoflop", bootstrap=10)
        axes = Figure().add_subplot()
        assert law.plot(ax=axes) is axes
        drawn = np.concatenate([line.get_xdata() for line in axes.get_lines() if line.get_marker() == "o"])
        assert set(law.runs["params"]) <= set(drawn)
        assert axes.get_xscale() == "log"
        assert axes.get_xlabel() == "Parameters"
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            f"1.0e{exponent}" for exponent in range(17, 22)
        ]

    def test_several_axes_get_as_many_panels_in_their_order(self) -> None:
        law = fit_law(isoflop_table(noise=0.002, sizes=7), bootstrap=10)
        axes = Figure().subplots(2, 2)
        assert law.plot(ax=axes) is axes
        figure = law.plot()
        for place, plot in enumerate(axes.flat):
            title = figure.layout[f"yaxis{place + 1 if place else ''}"].title.text
            assert plot.get_ylabel() == text_of(title)
            assert plot.get_xlabel()  # though in the figure the upper panels leave it to the lower ones
            assert plot.get_lines()
        two = Figure().subplots(1, 2)
        law.plot(ax=list(two))
        assert [plot.get_ylabel() for plot in two] == [plot.get_ylabel() for plot in axes.flat][:2]

    def test_every_kind_of_result_has_it(self) -> None:
        runs = isoflop_table(noise=0.002, sizes=9, span=8)
        runs = pd.concat([runs.assign(family="ar"), runs.assign(family="masked", loss=1.1 * runs["loss"])])
        law = fit_law(runs, family="ar", bootstrap=0)
        results = [
            fit_laws(runs, bootstrap=0), compare(runs, bootstrap=0), diagnose(law),
            law.against("besiroglu2024"), rollout(runs[runs.family == "ar"], "isoflop", bootstrap=0),
        ]  # fmt: skip
        for result in results:
            axes = Figure().add_subplot()
            assert result.plot(ax=axes) is axes
            assert axes.get_lines()

    @pytest.mark.parametrize(
        ("ax", "sentence"),
        [
            (3, r"ax is a int; give axes of matplotlib, e\.g\. plt\.subplots\(\)\[1\]"),
            ([], "ax is a list; give axes of matplotlib"),
            (["x"], "ax is a list; give axes of matplotlib"),
            (Figure(), "ax is a Figure; give axes of matplotlib"),
            (Figure().subplots(1, 2), "ax: 2 axes for a figure of 1 panel; give 1 or fewer"),
        ],
    )
    def test_what_is_no_axes_gets_one_sentence(self, ax: Any, sentence: str) -> None:
        law = fit_law(isoflop_table(noise=0.002, sizes=7), "isoflop", bootstrap=0)
        with pytest.raises(UserError, match=sentence):
            law.plot(ax=ax)
