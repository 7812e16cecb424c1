"""The heat map of a sweep: what was measured over the two numbers that vary most."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tsam_jax.train.choice import ranked, shown, varied
from tsam_jax.train.numbers import arguments_of

_CELL = 0.85, 0.42  # inches
_COLUMNS = 3
_FONT_SIZE = 9.0
_COLOURS = "cividis"  # even in lightness, also for the colour-blind


def heat_map(found: dict[str, Any]) -> Figure:
    """A panel for each method: the best value over whatever else was varied.

    Args:
      found: the content of sweep.json.

    Returns:
      A figure. The two arguments with the most values are the axes; the chosen setting's cell has
      a frame. Colours are the same in all panels, from the lowest to the highest value.
    """
    metric = found["metric"]
    methods = {
        method: [row for row in found["settings"] if row["method"] == method]
        for method, tried in found["settings_tried"].items()
        if tried > 1
    }
    tables = {method: _table(rows, metric) for method, rows in methods.items()}
    known = np.concatenate([table[2].ravel() for table in tables.values()] or [np.zeros(1)])
    known = known[np.isfinite(known)]
    scale = Normalize(known.min(initial=np.inf), known.max(initial=-np.inf)) if known.size else None
    figure, panels = _figure([table[2].shape for table in tables.values()])
    for panel, (method, table) in zip(panels, tables.items(), strict=False):
        best = arguments_of(found["chosen"][method])
        rest = ", ".join(varied(methods[method])[2:])
        title = f"{method}, best over {rest}" if rest else method
        _draw(panel, title, table, best, metric, scale)
    figure.supxlabel(f"validation {metric}, mean over seeds", fontsize=_FONT_SIZE)
    if not tables:
        panels[0].text(0.5, 0.5, "no method has two settings", ha="center")
        panels[0].set_axis_off()
    return figure


def _table(rows: list[Any], metric: str) -> tuple[tuple[str, str], tuple[list[str], ...], Any]:
    """Names of the vertical and the horizontal axis, their values, and the table of the best."""
    names = varied(rows)
    across, down = (*names, "", "")[:2]
    cells: dict[tuple[str, str], Any] = {}
    for row in ranked(rows, metric):  # the best one of a cell comes first
        arguments = arguments_of(row["setting"])
        place = arguments.get(down, ""), arguments.get(across, "")
        cells.setdefault(place, np.nan if row["diverged"] else row["mean"])
    values = tuple(sorted({place[axis] for place in cells}, key=_order) for axis in (0, 1))
    table = np.array([[cells.get((y, x), np.nan) for x in values[1]] for y in values[0]], float)
    return (down, across), values, table


def _order(text: str) -> tuple[float, str]:
    """Numbers in their order, then words."""
    try:
        return float(text), ""
    except ValueError:
        return np.inf, text


def _figure(shapes: list[tuple[int, ...]]) -> tuple[Figure, list[Axes]]:
    columns = max(1, min(_COLUMNS, len(shapes)))
    rows = max(1, -(-len(shapes) // columns))
    wide = max((shape[1] for shape in shapes), default=2)
    high = max((shape[0] for shape in shapes), default=1)
    size = columns * (_CELL[0] * wide + 1.4), rows * (_CELL[1] * high + 1.0) + 0.3
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for panel in panels[max(1, len(shapes)) :]:
        panel.set_axis_off()
    return figure, panels


def _draw(
    panel: Axes,
    title: str,
    table: tuple[tuple[str, str], tuple[list[str], ...], Any],
    best: dict[str, str],
    metric: str,
    scale: Normalize | None,
) -> None:
    (down, across), (ys, xs), values = table
    colours = colormaps[_COLOURS].with_extremes(bad="#DDDDDD")
    panel.imshow(values, cmap=colours, norm=scale, aspect="auto")
    panel.set_title(title, fontsize=_FONT_SIZE + 1)
    panel.set_xlabel(across, fontsize=_FONT_SIZE)
    panel.set_ylabel(down, fontsize=_FONT_SIZE)
    panel.set_xticks(range(len(xs)), [_wrapped(x) for x in xs])
    panel.set_yticks(range(len(ys)), [_wrapped(y) for y in ys])
    panel.tick_params(labelsize=_FONT_SIZE - 1, length=0)
    panel.spines[:].set_visible(False)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            dark = scale is not None and np.isfinite(value) and scale(value) < 0.5
            text = shown(value, metric) if np.isfinite(value) else "-"
            chosen = (ys[y], xs[x]) == (best.get(down, ""), best.get(across, ""))
            panel.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                fontsize=_FONT_SIZE,
                color="white" if dark else "black",
                fontweight="bold" if chosen else "normal",
            )
            if chosen:
                panel.add_patch(_frame(x, y))


def _frame(x: int, y: int) -> Rectangle:
    corner = (x - 0.47, y - 0.46)
    return Rectangle(corner, 0.94, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.5)


def _wrapped(text: str) -> str:
    """A law of the noise in two lines."""
    return text.replace("(", "(\n", 1) if len(text) > 12 else text
