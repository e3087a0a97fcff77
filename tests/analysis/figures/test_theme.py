"""Colours that differ for every eye on both backgrounds, and axes with few, round ticks."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.figures import axes, theme
from analysis.text import count_text


class TestTheme:
    @staticmethod
    def linear(colour: str) -> np.ndarray:
        values = np.array(theme.rgb(colour)) / 255
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)

    def contrast(self, a: str, b: str) -> float:
        """WCAG 2.2, relative luminance and contrast ratio."""
        light = sorted(float(self.linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
        return (light[1] + 0.05) / (light[0] + 0.05)

    def lab(self, linear: np.ndarray) -> np.ndarray:
        to_xyz = [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.072175],
            [0.0193339, 0.119192, 0.9503041],
        ]
        xyz = np.array(to_xyz) @ linear / [0.95047, 1, 1.08883]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    @pytest.mark.parametrize("name", ["light", "dark"])
    def test_contrast(self, name: str) -> None:
        palette = theme.PALETTES[name]
        data = [style.colour for style in theme.FAMILY_STYLES.values()] + [theme.NEUTRAL, *theme.RAMP[name]]
        for colour in data:  # 3:1 for graphics and 4.5:1 for text: WCAG 2.2, 1.4.11 and 1.4.3
            assert self.contrast(colour, palette.paper) >= 3.0, colour
        for colour in (palette.text, palette.muted):
            assert self.contrast(colour, palette.paper) >= 4.5, colour

    # Machado, Oliveira, Fernandes 2009, severity 1.0: protan, deutan, tritan
    DEFICIENCIES = (
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    )

    @pytest.mark.parametrize("matrix", DEFICIENCIES)
    def test_families_differ_for_every_eye(self, matrix: Any) -> None:
        colours = [
            self.lab(np.clip(np.array(matrix) @ self.linear(style.colour), 0, 1))
            for style in theme.FAMILY_STYLES.values()
        ]
        # 16.1 is what seven colours of Okabe and Ito reach
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) > 16.1
        assert len({style.symbol for style in theme.FAMILY_STYLES.values()}) == len(colours)

    def test_unknown_family_is_grey_and_stable(self) -> None:
        assert theme.family_style("mystery").colour == theme.NEUTRAL
        code = "from analysis.figures.theme import family_style as f; print(f('mystery').symbol)"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert other.stdout.strip() == theme.family_style("mystery").symbol
        assert theme.family_order(["zeta", "uniform", "ar"]) == ["ar", "uniform", "zeta"]

    def test_ramp(self) -> None:
        assert theme.budget_colours(1) == [theme.RAMP["light"][0]]
        assert theme.budget_colours(6)[::5] == [theme.RAMP["light"][0], theme.RAMP["light"][-1]]
        assert len(set(theme.budget_colours(40))) == 40
        assert theme.budget_colours(0) == []

    @pytest.mark.parametrize("name", ["light", "dark"])
    @pytest.mark.parametrize("matrix", DEFICIENCIES)
    def test_budgets_rise_in_lightness_for_every_eye(self, name: str, matrix: Any) -> None:
        ramp = [theme.RAMP[name][round(i * 95 / 4)] for i in range(5)]
        shades = [self.lab(np.clip(np.array(matrix) @ self.linear(colour), 0, 1)) for colour in ramp]
        assert (np.diff([shade[0] for shade in shades]) > 7).all()
        assert min(np.linalg.norm(a - b) for a, b in itertools.pairwise(shades)) > 10


class TestAxes:
    @given(st.floats(-12, 25), st.floats(0.05, 12), st.sampled_from([3.0, 5.0, 7.0, 10.0]))
    def test_log_ticks_are_few_inside_and_in_order(self, start: float, span: float, room: float) -> None:
        low, high = 10.0**start, 10.0 ** (start + span)
        labelled, unlabelled = axes.log_ticks(low, high, room)
        assert len(labelled) <= room
        for ticks in (labelled, unlabelled):
            assert ticks == sorted(ticks)
            assert all(low * 0.999999 <= tick <= high * 1.000001 for tick in ticks)
        assert not set(labelled) & set(unlabelled)
        assert len(labelled) >= (2 if span < 1 or span > 2 else 1)

    def test_compute_ticks_are_the_budgets_and_tens_beyond(self) -> None:
        axis = axes.compute_axis("", [6e18, 1e19, 3e19, 1e20], [6e18, 1e21], room=8)
        assert axis["tickvals"] == [6e18, 3e19, 1e20, 1e21]  # the ends first: 1e19 finds no room
        assert axis["ticktext"] == ["6e18", "3e19", "1e20", "1e21"]
        assert axis["minor"]["tickvals"] == [1e19]

    def test_axis_of_nothing(self) -> None:
        assert axes.log_axis("", [], count_text)["range"] == [-0.05, 1.05]
