"""Plots as SVG; the rim of pygal.

No script, no font and no address of another host is in them; their text is readable on white and on black.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import pygal
from pygal import style

WIDTH, HEIGHT = 760, 240

COLUMNS, LEGEND = 2, 20
"""Of the legend: names in a row, height of a row."""

GOOD, BAD = "#2f9e6e", "#d9485f"
KINDS = (BAD, "#e08a1e", "#7a6ff0", "#2b8fd9", "#b04fb0", "#8a8f2a", "#4aa3a2", "#c77b58", "#7d8590", "#a35d8a")
"""Colours of result types, in their order."""

_TEXT, _LINES = "#7d8590", "#7d859055"


def stacked(days: Sequence[dt.date], series: Mapping[str, Sequence[int]], colours: Sequence[str]) -> bytes:
    """Return a plot of numbers by day, one upon the other.

    Args:
        days: oldest first.
        series: for each name a number for each day.
        colours: for each name, as CSS has them.
    """
    look = style.Style(
        background="transparent",
        plot_background="transparent",
        foreground=_TEXT,
        foreground_strong=_TEXT,
        foreground_subtle=_LINES,
        guide_stroke_color=_LINES,
        major_guide_stroke_color=_LINES,
        colors=tuple(colours) or KINDS,
        font_family="sans-serif",
        label_font_size=15,
        major_label_font_size=15,
        legend_font_size=15,
        opacity="1",
        opacity_hover="1",
    )
    chart = pygal.StackedBar(
        style=look,
        js=[],
        width=WIDTH,
        height=HEIGHT + LEGEND * -(-len(series) // COLUMNS),
        no_prefix=True,
        show_legend=len(series) > 1,
        legend_at_bottom=True,
        legend_at_bottom_columns=COLUMNS,
        legend_box_size=10,
        truncate_legend=-1,
        x_labels_major_every=7,
        show_minor_x_labels=False,
        truncate_label=-1,
        max_scale=6,
        margin=6,
        spacing=6,
        show_y_guides=True,
        value_formatter=lambda number: f"{number:,.0f}",
        no_data_text="no sessions",
        disable_xml_declaration=True,
        range=None if any(any(numbers) for numbers in series.values()) else (0, 1),
    )
    chart.x_labels = [day.strftime("%-d %b") for day in days]
    for name, numbers in series.items():
        chart.add(name, list(numbers))
    chart.add_xml_filter(_without_scripts)
    drawn: str | bytes = chart.render()
    return drawn if isinstance(drawn, bytes) else drawn.encode()


def _without_scripts(root: Any) -> Any:
    """Take out what pygal tells its script, which we leave out; the tree is that of ElementTree."""
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag == "script"]:
            parent.remove(child)
    return root
