"""The figures of a report, in the style of `analysis.style`.

Bands run from the lowest seed to the highest: a 95 % interval of three seeds is so wide that it
leaves the range of an accuracy.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, PercentFormatter

from tsam_jax.analysis import style
from tsam_jax.train.metrics import metric
from tsam_jax.train.table import Row, Study, by_setting, choose, ranked, validated, varied

_COLOURS = "cividis"  # even in lightness, also for the colour-blind

Curve = tuple[np.ndarray, np.ndarray]
"""x, shape (points,), and y, shape (seeds, points)."""
Place = tuple[int, int]


def learning_curves(study: Study, rows: Sequence[Row]) -> Figure:
    """The metric and the loss, on unseen and on training examples, over the gradients spent.

    The budget is on the horizontal axis, because a step of SAM costs two gradients and one of TSAM
    2 s. Training curves are on the labels that were trained on: with noisy labels, a high accuracy
    means memorised noise. A mean ends where a seed diverged. A sweep shows the best setting of
    each method.

    Returns:
      A figure with two panels for the metric of the study, and two for the loss.
    """
    names = list(dict.fromkeys([study["metric"], "loss"]))
    if study["kind"] == "sweep":
        chosen = choose(rows, study["metric"]).values()
        rows = [row for row in rows if row["setting"] in chosen]
    figure, panels = _figure(len(names), 2, (3.7, style.PANEL_HEIGHT))
    keys = [f"{part}_{name}" for name in names for part in (study["parts"][-1], "train")]
    named = {}
    for panel, key in zip(panels, keys, strict=True):
        curves = {text: _curve(own, key) for text, own in by_setting(study, rows).items() if own}
        named[panel] = _draw(panel, rows, curves, "no finished epoch")
        noisy = " (noisy labels)" if key.startswith("train") and study["label_noise"] else ""
        part, _, name = key.replace("train", "training").partition("_")
        panel.set_ylabel(f"{part.capitalize()} {name}{noisy}")
        panel.set_xlabel("Gradient evaluations per seed")
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        if metric(name).percent:
            panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    style.name_lines(figure, named)
    return figure


def sharpness(study: Study, rows: Sequence[Row]) -> Figure:
    """Mean increase and variance of the training loss over the size of the noise.

    The paper's Figure 2, with the loss at the solution subtracted from the mean, so that a method
    is not called sharp because its loss is high: flat solutions lie low in both panels.

    Returns:
      A figure with two panels.
    """
    figure, panels = _figure(1, 2, (3.7, style.PANEL_HEIGHT))
    named = {}
    titles = {"mean": "Mean increase", "variance": "Variance"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        curves = {}
        for setting, own in by_setting(study, rows).items():
            flat = [row["flatness"] for row in own if row["flatness"]]
            seeds = np.array([one[name] for one in flat], float)  # null becomes NaN
            if name == "mean" and flat:
                seeds -= np.array([[one["loss"]] for one in flat], float)
            curves[setting] = np.array(flat[0]["noise_rms"] if flat else []), seeds
        named[panel] = _draw(panel, rows, curves, "not measured")
        panel.set_xlabel("Noise, root mean square per coordinate")
        panel.set_ylabel(f"{title} of the training loss")
        means = np.concatenate([line.get_ydata() for line in panel.lines] or [np.zeros(0)])
        means = means[np.isfinite(means)]
        if means.size and np.all(means > 0):  # a band that reaches zero leaves the panel
            panel.set_yscale("log", nonpositive="clip")
            panel.set_ylim(means.min() / 2, means.max() * 2)
    style.name_lines(figure, named)
    return figure


def heat_map(study: Study, rows: Sequence[Row]) -> Figure:
    """A panel for each method: the best validation value over the two most varied arguments.

    Returns:
      A figure. The cell of a method's best setting has a frame. All panels have the same colours.
    """
    name, methods = study["metric"], dict.fromkeys(row["method"] for row in rows)
    groups = [[row for row in rows if row["method"] == method] for method in methods]
    tables = [(own, *_table(own, name)) for own in groups if varied(own)]
    values = np.concatenate([cells.ravel() for *_, cells in tables] or [np.zeros(1)])
    known = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)
    scale = Normalize(known.min(), known.max())
    high, wide = np.max([cells.shape for *_, cells in tables] or [(1, 3)], axis=0)
    down, across = max(1, -(-len(tables) // 2)), max(1, min(2, len(tables)))
    figure, panels = _figure(down, across, (0.85 * wide + 1.4, 0.42 * high + 1.2))
    for panel in panels:
        panel.set_axis_off()
    for panel, (own, ys, xs, best, cells) in zip(panels, tables, strict=False):
        panel.set_axis_on()
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        x, y, *rest = (*varied(own), "")
        over = ", ".join(filter(None, rest))
        style.title(panel, own[0]["method"] + f", best over {over}" * bool(over))
        panel.set(xlabel=x, ylabel=y, facecolor="#DDDDDD")
        panel.set_xticks(range(len(xs)), map(_wrapped, xs))
        panel.set_yticks(range(len(ys)), map(_wrapped, ys))
        panel.imshow(cells, _COLOURS, scale, aspect="auto")
        for place, value in np.ndenumerate(cells):
            colour = "white" if scale(value) < 0.5 else "black"
            weight = "bold" if place == best else "normal"
            look = {"color": colour, "weight": weight, "size": style.FONT_SIZE}
            text = metric(name).shown(value, 1)
            panel.text(place[1], place[0], text, look, ha="center", va="center")
        corner = best[1] - 0.47, best[0] - 0.46
        panel.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, ec="#D55E00", lw=2.5))
    if not tables:
        panels[0].text(0.5, 0.5, "no method has two settings", ha="center")
    title = f"Validation {name} at the last epoch, mean over seeds"
    figure.supxlabel(title, fontsize=style.FONT_SIZE, color=style.INK)
    return figure


def _figure(down: int, across: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Panels of a size in inches."""
    inches = across * size[0], down * size[1] + 0.3
    figure = Figure(figsize=inches, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(down, across, squeeze=False).ravel())
    for panel in panels:
        style.dress(panel)
    return figure, panels


def _curve(rows: Sequence[Row], key: str) -> Curve:
    curves = [(np.array(row["curve"]["epoch"]), row) for row in rows if row["curve"].get(key)]
    points = np.unique(np.concatenate([epochs for epochs, _ in curves] or [np.zeros(0)]))
    seeds = np.full((len(curves), len(points)), np.nan)
    for values, (epochs, row) in zip(seeds, curves, strict=True):
        values[np.searchsorted(points, epochs)] = np.array(row["curve"][key], float)
    cost = curves[0][1]["gradient_evaluations"] / curves[0][1]["epochs"] if curves else 0
    return cost * points, seeds


def _draw(
    panel: Axes, rows: Sequence[Row], curves: Mapping[str, Curve], empty: str
) -> dict[str, Line2D]:
    """Returns the lines by name; by the whole setting, where settings have the same method."""
    methods = {row["setting"]: row["method"] for row in rows}
    short, drawn = len(set(methods.values())) == len(methods), {}
    for place, (setting, (x, seeds)) in enumerate(curves.items()):
        if not seeds.size:
            continue
        look = style.line_style(place)
        # A line of one point is invisible.
        marker = "o" if len(x) == 1 else None
        [line] = panel.plot(x, seeds.mean(axis=0), marker=marker, markersize=4, zorder=3, **look)
        low, high = seeds.min(axis=0), seeds.max(axis=0)
        panel.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        drawn[methods[setting] if short else "\n".join(textwrap.wrap(setting, 44))] = line
    if not drawn:
        panel.text(0.5, 0.5, empty, transform=panel.transAxes, ha="center", color=style.INK)
        panel.set(xticks=[], yticks=[])
    return drawn


def _table(rows: Sequence[Row], name: str) -> tuple[list[str], list[str], Place, np.ndarray]:
    """The values of both axes, the place of the best setting, and the best value of each cell."""
    x, y, *_ = (*varied(rows), "")
    cells: dict[tuple[str, str], float] = {}
    for own in ranked(rows, name):  # the best one of a cell comes first
        arguments, diverged = own[0]["arguments"], any(row["diverged"] for row in own)
        place = arguments.get(y, ""), arguments.get(x, "")
        cells.setdefault(place, np.nan if diverged else validated(own, name))
    ys, xs = (sorted({place[axis] for place in cells}, key=_order) for axis in (0, 1))
    best_y, best_x = next(iter(cells))
    values = np.array([[cells.get((y, x), np.nan) for x in xs] for y in ys])
    return ys, xs, (ys.index(best_y), xs.index(best_x)), values


def _order(text: str) -> tuple[float, str]:
    """Numbers in their order, then words."""
    try:
        return float(text), ""
    except ValueError:
        return np.inf, text


def _wrapped(text: str) -> str:
    """A noise law in two lines."""
    return text.replace("(", "(\n", 1) if len(text) > 12 else text
