"""The figures of a study, in the style of `analysis.style`.

Bands run from the lowest seed to the highest: a 95 % interval of three seeds is so wide that it
leaves the range of an accuracy.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from tsam_jax.analysis import figures, style
from tsam_jax.train.metrics import metric
from tsam_jax.train.table import Row, Study, by_setting, choose, names, ranked, validated, varied

Curve = tuple[np.ndarray, np.ndarray]
"""x, shape (points,), and y, shape (seeds, points)."""


def looks(study: Study, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Setting -> its line, for what is drawn: in a sweep the best setting of each method."""
    if study["kind"] == "sweep":
        return style.looks(choose(rows, study["metric"]).values())
    return style.looks(text for text, own in by_setting(study, rows).items() if own)


def learning_curves(study: Study, rows: Sequence[Row]) -> Figure:
    """The metric and the loss, on unseen and on training examples, over the gradients spent.

    The budget is on the horizontal axis, because a step of SAM costs two gradients and one of TSAM
    2 s. Training curves are on the labels that were trained on: with noisy labels, a high accuracy
    means memorised noise. A mean ends where a seed diverged. A sweep shows the best setting of
    each method.
    """
    shown = list(dict.fromkeys([study["metric"], "loss"]))
    keys = [f"{part}_{name}" for name in shown for part in (study["parts"][-1], "train")]
    settings = by_setting(study, rows).items()
    panels = {key: {text: _curve(own, key) for text, own in settings} for key in keys}
    figure, axes = _lines(study, rows, panels, len(shown))
    for panel, key in zip(axes, keys, strict=True):
        noisy = " (noisy labels)" if key.startswith("train") and study["label_noise"] else ""
        part, _, name = key.replace("train", "training").partition("_")
        panel.set(xlabel="Gradient evaluations", ylabel=f"{part.capitalize()} {name}{noisy}")
        panel.set_xlim(left=0)
        panel.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        if metric(name).percent:
            panel.yaxis.set_major_formatter(lambda x, _: f"{100 * x:.6g} %")
    figure.align_ylabels()
    return figure


def learning_curve(label: str, lines: Sequence[Row], name: str, label_noise: float) -> Figure:
    """`learning_curves` of one run, from the lines of its log."""
    study = {"kind": "study", "settings": [label], "parts": ["test"], "metric": name}
    curve = {key: [line.get(key) for line in lines] for key in lines[-1]}
    row = {"setting": label, "arguments": {}, "seed": 0, "curve": curve}
    row |= {"epochs": curve["epoch"][-1], **lines[-1]}
    return learning_curves(study | {"label_noise": label_noise}, [row])


def sharpness(study: Study, rows: Sequence[Row]) -> Figure:
    """Mean rise and variance of the training loss over the size of the noise.

    The paper's Figure 2, with the loss at the solution subtracted from the mean, so that a method
    is not called sharp because its loss is high: flat solutions lie low in both panels.
    """
    panels: dict[str, dict[str, Curve]] = {"mean": {}, "variance": {}}
    for text, own in by_setting(study, [row for row in rows if row["flatness"]]).items():
        flat = [row["flatness"] for row in own]
        sizes = np.array(flat[0]["noise_rms"] if flat else [])
        losses = np.array([[x["loss"]] for x in flat], float)  # null becomes NaN
        for key, below in (("mean", losses), ("variance", 0)):
            panels[key][text] = sizes, np.array([x[key] for x in flat], float) - below
    figure, axes = _lines(study, rows, panels, 1)
    for panel, label in zip(axes, ("Mean rise", "Variance"), strict=True):
        panel.set(xlabel="Noise per weight (rms)", ylabel=f"{label} of the training loss")
        figures.log_scale(panel)
    return figure


def heat_map(study: Study, rows: Sequence[Row]) -> Figure:
    """A panel for each method: the best validation value over the two most varied arguments.

    The cell of a method's best setting has a frame. All panels have the same colours.

    Raises:
      ValueError: if no method has two finished settings.
    """
    name, methods = study["metric"], dict.fromkeys(row["method"] for row in rows)
    groups = [[row for row in rows if row["method"] == method] for method in methods]
    tables = [(own, *_table(own, name)) for own in groups if varied(own)]
    if not tables:
        msg = "no method has two finished settings"
        raise ValueError(msg)
    known = [x for *_, cells in tables for x in cells.flat if np.isfinite(x)] or [0.0]
    scale = Normalize(min(known), max(known))
    high, wide = np.max([cells.shape for *_, cells in tables], axis=0)
    longest = max(len(line) for _, _, xs, *_ in tables for text in xs for line in text.split("\n"))
    widths = [(max(0.85, 0.075 * longest) * wide + 1.4) / 3.4] * min(2, len(tables))
    down, height = -(-len(tables) // 2), 0.42 * high + 1.0
    figure, panels = style.new_figure(widths, rows=down, height=height)
    for panel in panels[len(tables) :]:
        panel.set_axis_off()
    for panel, (own, ys, xs, best, cells) in zip(panels, tables, strict=False):
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        x, y, *rest = (*varied(own), "")
        over = ", ".join(filter(None, rest))
        method = style.method_name(own[0]["method"])
        style.title(panel, method + f", best over {over}" * bool(over))
        panel.set(xlabel=x, ylabel=y, facecolor="#DDDDDD")
        panel.set_xticks(range(len(xs)), xs)
        panel.set_yticks(range(len(ys)), ys)
        panel.imshow(cells, "cividis", scale, aspect="auto")  # even in lightness
        for (row, column), value in np.ndenumerate(cells):
            # at 0.465 of the colours black and white have the same contrast
            look = {"color": "white" if scale(value) < 0.465 else "black", "size": style.FONT_SIZE}
            text = metric(name).shown(value, 1)
            panel.text(column, row, text, look, ha="center", va="center")
        corner = best[1] - 0.47, best[0] - 0.46
        panel.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, ec="#D55E00", lw=2.5))
    style.caption(figure, f"Validation {name} at the last epoch, mean over seeds.")
    return figure


def _curve(rows: Sequence[Row], key: str) -> Curve:
    curves = [(np.array(row["curve"]["epoch"]), row) for row in rows if row["curve"].get(key)]
    points = np.unique(np.concatenate([epochs for epochs, _ in curves] or [np.zeros(0)]))
    seeds = np.full((len(curves), len(points)), np.nan)
    for values, (epochs, row) in zip(seeds, curves, strict=True):
        values[np.searchsorted(points, epochs)] = np.array(row["curve"][key], float)
    cost = curves[0][1]["gradient_evaluations"] / curves[0][1]["epochs"] if curves else 0
    return cost * points, seeds


def _lines(
    study: Study, rows: Sequence[Row], panels: dict[str, dict[str, Curve]], down: int
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each name -> setting -> curve, and one legend of short names."""
    figure, axes = style.new_figure([1.0, 1.0], rows=down)
    short, lines = names(study, rows), {}
    for panel, curves in zip(axes, panels.values(), strict=True):
        for text, look in looks(study, rows).items():
            x, seeds = curves[text]
            if seeds.size:
                span = np.stack([seeds.min(axis=0), seeds.max(axis=0)])
                lines[short[text]] = figures.band(panel, x, seeds.mean(axis=0), span, look)
        if not panel.lines:
            panel.text(0.5, 0.5, "no numbers", transform=panel.transAxes, ha="center")
            panel.set(xticks=[], yticks=[])
    style.legend(figure, lines)
    return figure, axes


def _table(
    rows: Sequence[Row], name: str
) -> tuple[list[str], list[str], tuple[int, int], np.ndarray]:
    """The values of both axes, the place of the best setting, and the best value of each cell."""
    x, y, *_ = (*varied(rows), "")
    cells: dict[tuple[str, str], float] = {}
    for own in ranked(rows, name):  # the best one of a cell comes first
        place = own[0]["arguments"].get(y, ""), own[0]["arguments"].get(x, "")
        cells.setdefault(place, validated(own, name))
    ys, xs = (sorted({place[axis] for place in cells}, key=_order) for axis in (0, 1))
    best_y, best_x = next(iter(cells))
    values = np.array([[cells.get((y, x), np.nan) for x in xs] for y in ys])
    place = ys.index(best_y), xs.index(best_x)
    ys, xs = ([textwrap.fill(x, 12, break_long_words=False) for x in own] for own in (ys, xs))
    return ys, xs, place, values


def _order(text: str) -> tuple[float, str]:
    """Numbers in their order, then words."""
    try:
        return float(text), ""
    except ValueError:
        return np.inf, text
