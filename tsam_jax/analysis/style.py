"""One style for all figures: colours, lines, axes, and names at the ends of lines.

Figures are made with matplotlib's objects on an Agg canvas; pyplot and its global state are not
touched. Lines are told apart by colour (Okabe and Ito's, safe for the colour-blind) and by line
style (for print in grey).
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

# Okabe and Ito's palette, without the yellow that vanishes on white. Seven colours and four
# styles have no common factor: 28 lines are told apart.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
INK, FAINT = "#333333", "#E4E4E4"
FONT_SIZE = 9.0
PANEL_HEIGHT = 2.9  # inches
_LABEL_GAP = 1.3 * FONT_SIZE / 72  # inches between two labels
_MOST_DIRECT_LABELS, _LONGEST_LABEL = 6, 40


def line_style(place: int) -> dict[str, Any]:
    """The colour, dashes and width of the line at this place in the order of names."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": STYLES[place % len(STYLES)],
        "linewidth": 1.6,
    }


def new_figure(
    widths: Sequence[float], *, height: float = PANEL_HEIGHT, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of a row of panels with these relative widths; a width of 1 is 3.1 inches."""
    figure = Figure(
        figsize=(3.1 * sum(widths) + 0.5, height + 0.4),
        dpi=150,
        layout=ConstrainedLayoutEngine(wspace=0.06),
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        1, len(widths), width_ratios=list(widths), squeeze=False, sharex=share, sharey=share
    )
    panels = list(grid.ravel())
    for panel in panels:
        dress(panel)
    return figure, panels


def dress(panel: Axes) -> None:
    """Two spines, a faint grid, small labels."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(INK)
    panel.tick_params(colors=INK, labelsize=FONT_SIZE - 1)
    panel.grid(color=FAINT, linewidth=0.6)
    panel.set_axisbelow(True)
    for label in (panel.xaxis.label, panel.yaxis.label):
        label.set(color=INK, fontsize=FONT_SIZE)


def title(panel: Axes, text: str) -> None:
    """A title at the left, in the size of labels."""
    panel.set_title(text, loc="left", fontsize=FONT_SIZE, color=INK)


def caption(figure: Figure, text: str) -> None:
    """A caption below the panels, as wide as the figure."""
    width = int(figure.get_figwidth() * 72 / (0.56 * (FONT_SIZE - 1)))
    lines = textwrap.wrap(text, width)
    figure.set_figheight(figure.get_figheight() + 0.17 * len(lines))
    figure.supxlabel(
        "\n".join(lines), x=0.01, ha="left", fontsize=FONT_SIZE - 1, color=INK, linespacing=1.3
    )


def name_lines(figure: Figure, panels: Mapping[Axes, Mapping[str, Line2D]]) -> None:
    """Names lines at their ends, in every panel; too many or long names stand once, below."""
    names = dict.fromkeys(name for lines in panels.values() for name in lines)
    longest = _LONGEST_LABEL // min(len(panels), 2)  # what is left of narrow panels can be seen
    if len(names) <= _MOST_DIRECT_LABELS and max(map(len, names), default=0) <= longest:
        figure.draw_without_rendering()  # lays the panels out
        for panel, lines in panels.items():
            _name_ends(panel, lines, panel.get_window_extent().height / figure.dpi)
        return
    handles = {name: line for lines in panels.values() for name, line in lines.items()}
    columns = 3 if len(panels) > 2 or (len(panels) > 1 and max(map(len, names)) < 25) else 2
    rows = -(-len(handles) // columns) * max(name.count("\n") + 1 for name in names)
    figure.set_figheight(figure.get_figheight() + 0.2 + 0.2 * rows)
    figure.legend(
        handles=list(handles.values()),
        labels=list(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=FONT_SIZE - 1,
        labelcolor=INK,
        handlelength=2.6,
    )


def _name_ends(panel: Axes, lines: Mapping[str, Line2D], height: float) -> None:
    ends: dict[str, np.ndarray] = {}
    for name, line in lines.items():
        points = np.asarray(line.get_xydata(), float)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            ends[name] = points[-1]
    if not ends:
        return
    to_axes = panel.transData + panel.transAxes.inverted()
    places = np.array([to_axes.transform(end)[1] for end in ends.values()])
    for (name, end), y in zip(
        ends.items(), _spread(np.clip(places, 0, 1), _LABEL_GAP / height), strict=True
    ):
        colour = lines[name].get_color()
        panel.annotate(
            name,
            xy=(end[0], end[1]),
            xytext=(1.04, y),
            textcoords="axes fraction",
            va="center",
            fontsize=FONT_SIZE,
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 0,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )


def _spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Moves places on an axis apart, as little as needed and in order, to at least `gap`."""
    order = np.argsort(places, kind="stable")
    offsets = gap * np.arange(len(places))
    # Isotonic regression: without the offsets, places only have to be sorted.
    blocks: list[list[float]] = []
    for value in places[order] - offsets:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    spread = np.empty(len(places))
    spread[order] = np.concatenate([np.full(len(b), np.mean(b)) for b in blocks]) + offsets
    return spread
