"""The figures of a study, in the style of `analysis.style`.

Bands run from the lowest seed to the highest: a 95 % interval of three seeds is so wide that it
leaves the range of an accuracy.
"""

import collections
import itertools
import textwrap
from collections.abc import Callable

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from tsam_jax.analysis import figures, style
from tsam_jax.train.metrics import metric
from tsam_jax.train.table import Results, Row, varied

Grid = collections.namedtuple("Grid", "title x y xs ys values best")
"""Two arguments `x` and `y`, their values, the results (ys, xs), the place (x, y) of the best."""


def learning_curves(results: Results) -> Figure:
    """The metric and the loss, on unseen and on training examples, over the gradients spent.

    A step of SAM costs two gradients and one of TSAM 2 s. Training curves are on the labels that
    were trained on: with noisy labels, a high accuracy means memorised noise. A mean ends where a
    seed diverged. A sweep shows the best setting of each method.
    """

    def measured(row: Row) -> Row:
        cost = row["gradient_evaluations"] / row["epochs"]
        return {**row["curve"], "x": cost * np.array(row["curve"].get("epoch", []))}

    study, panels = results.study, {}
    for name in dict.fromkeys([study["metric"], "loss"]):
        for part in (study["parts"][-1], "train"):
            noisy = " (noisy labels)" if part == "train" and study["task"]["label_noise"] else ""
            label = f"{part.replace('train', 'training').capitalize()} {name}{noisy}"
            panels[label] = f"{part}_{name}"
    figure = _lines(results, measured, panels, "Gradient evaluations")
    for panel, key in zip(figure.axes, panels.values(), strict=True):
        panel.set_xlim(left=0)
        panel.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        if metric(key).percent:
            panel.yaxis.set_major_formatter(lambda x, _: f"{100 * x:.6g} %")
    figure.align_ylabels()
    return figure


def sharpness(results: Results) -> Figure:
    """Mean rise and variance of the training loss over the size of the noise.

    The paper's Figure 2, with the loss at the solution subtracted from the mean, so that a method
    is not called sharp because its loss is high: flat solutions lie low in both panels.
    """

    def measured(row: Row) -> Row:
        flat: Row = {name: np.array(x, float) for name, x in (row["flatness"] or {}).items()}
        return flat and flat | {"x": flat["noise_rms"], "rise": flat["mean"] - flat["loss"]}

    panels = {"Mean rise of the training loss": "rise", "Variance of the training loss": "variance"}
    figure = _lines(results, measured, panels, "Noise per weight (rms)")
    for panel in figure.axes:
        figures.log_scale(panel)
    return figure


def heat_map(results: Results) -> Figure:
    """A panel for each of `grids`, in the same colours; a frame marks a method's best setting."""
    name, found = results.study["metric"], grids(results)
    known = [x for grid in found for x in grid.values.flat if np.isfinite(x)] or [0.0]
    scale = Normalize(min(known), max(known))
    colours = colormaps["cividis"].with_extremes(bad="#DDDDDD")  # even in lightness
    high, wide = np.max([grid.values.shape for grid in found], axis=0)
    labels = [line for grid in found for text in grid.xs for line in text.split("\n")]
    cell = max(0.85, 0.075 * max(map(len, labels)))  # inches
    widths, down = [(cell * wide + 1.4) / 3.4] * min(2, len(found)), -(-len(found) // 2)
    figure, panels = style.new_figure(widths, rows=down, height=0.42 * high + 1.0)
    for panel in panels[len(found) :]:
        panel.set_axis_off()
    for panel, grid in zip(panels, found, strict=False):
        style.title(panel, grid.title)
        panel.imshow(grid.values, colours, scale, aspect="auto")
        panel.set_xticks(range(len(grid.xs)), grid.xs)
        panel.set_yticks(range(len(grid.ys)), grid.ys)
        panel.tick_params(length=0, grid_alpha=0)
        panel.set(xlabel=grid.x, ylabel=grid.y, frame_on=False)
        for (row, column), value in np.ndenumerate(grid.values):
            # at 0.465 of the colours black and white have the same contrast
            look = {"color": "white" if scale(value) < 0.465 else "black", "size": style.FONT_SIZE}
            panel.text(column, row, metric(name).shown(value, 1), look, ha="center", va="center")
        corner = np.subtract(grid.best, (0.47, 0.46))
        panel.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, ec="#D55E00", lw=2.5))
    style.caption(figure, f"Validation {name} at the last epoch, mean over seeds.")
    return figure


def grids(results: Results) -> list[Grid]:
    """The best values of each method of a sweep over its two most varied arguments, if any vary."""
    found, key = [], results.columns[0].name
    first = {text: own[0] for text, own in results.runs.items() if own}
    for method in dict.fromkeys(row["method"] for row in first.values()):
        lines = [x for x in results.summary if x.seeds and first[x.setting]["method"] == method]
        given = [first[line.setting]["arguments"] for line in lines]
        x, y, *rest = (*varied(given), "", "")
        places = [(arguments.get(y, ""), arguments.get(x, "")) for arguments in given]
        ys, xs = (sorted(set(own), key=_order) for own in zip(*places, strict=True))
        values = np.full((len(ys), len(xs)), np.nan)
        for line, (down, across) in zip(lines[::-1], places[::-1], strict=True):
            best = xs.index(across), ys.index(down)  # of a cell, and of all, the last one
            values[best[::-1]] = line.estimates[key][0]
        xs, ys = ([textwrap.fill(x, 12, break_long_words=False) for x in own] for own in (xs, ys))
        over = ", ".join(filter(None, rest))
        title = style.method_name(method) + f", best over {over}" * bool(over)
        found += [Grid(title, x, y, xs, ys, values, best)] * bool(x)
    return found


def _lines(results: Results, measured: Callable, panels: dict[str, str], xlabel: str) -> Figure:
    """What `measured` finds in rows over its "x", in panels: label of the y axis -> key of y."""
    figure, axes = style.new_figure([1.0, 1.0], rows=len(panels) // 2)
    lines = {}
    for panel, (ylabel, key) in zip(axes, panels.items(), strict=True):
        panel.set(xlabel=xlabel, ylabel=ylabel)
        for text, look in results.looks.items():
            if runs := [run for run in map(measured, results.runs[text]) if key in run]:
                x = max((run["x"] for run in runs), key=len)
                seeds = itertools.zip_longest(*(run[key] for run in runs))
                y = np.array([*seeds], float)  # null becomes NaN
                span, name = np.stack([y.min(axis=1), y.max(axis=1)]), results.names[text]
                lines[name] = figures.band(panel, x, y.mean(axis=1), span, look)
        if not panel.lines:
            panel.text(0.5, 0.5, "no numbers", transform=panel.transAxes, ha="center")
            panel.set(xticks=[], yticks=[])
    style.legend(figure, lines)
    return figure


def _order(text: str) -> tuple[float, str]:
    """Numbers in their order, then words."""
    try:
        return float(text), ""
    except ValueError:
        return np.inf, text
