"""How figures are drawn. Use `analysis.figures`, which lists them; this is what stands behind it.

theme       colours, markers, light and dark          axes       ticks, digits, units
parts       panels, bands, bars, words on hover       saving     files, safely written
isoflop, frontier, curves, multipliers, residuals,
rollout, diagnostics, against                         one figure each
static, static_layout                                 a Plotly figure drawn with matplotlib
"""
