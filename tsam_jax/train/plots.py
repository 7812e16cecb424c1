"""The figures of a report: learning curves and sharpness, in one style.

Figures are made with matplotlib's objects on an Agg canvas; pyplot and its global state are not
touched. Methods are told apart by colour (Okabe and Ito's, safe for the colour-blind) and by line
style (for print in grey). Bands run from the lowest seed to the highest: a
95 % interval of three seeds is so wide that it leaves the range of an accuracy.
"""

import textwrap
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, PercentFormatter

from tsam_jax.train.results import Comparison, MethodResult

# Okabe and Ito's palette, without the yellow that vanishes on white. Seven colours and four
# styles have no common factor: 28 methods are told apart.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
_INK, _FAINT = "#333333", "#E4E4E4"
_FONT_SIZE = 9.0
_LABEL_GAP = 1.3 * _FONT_SIZE / 72  # inches between two labels
_PANEL_HEIGHT = 2.9  # inches
_MOST_DIRECT_LABELS = 6


class _Line(NamedTuple):
    """A method's line in a panel; `place` is its place in the cycle of styles."""

    method: MethodResult
    place: int
    x: np.ndarray
    seeds: np.ndarray  # (seeds, points)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.seeds.mean(axis=0))

    @property
    def style(self) -> dict[str, Any]:
        return {
            "color": _COLOURS[self.place % len(_COLOURS)],
            "linestyle": _STYLES[self.place % len(_STYLES)],
            "linewidth": 1.6,
        }


_Panels = list[tuple[Axes, list[_Line]]]


def learning_curves(comparison: Comparison, /) -> Figure:
    """Test accuracy, training accuracy and training loss against the gradients spent.

    The budget is on the horizontal axis, because a step of SAM costs two gradients and one of TSAM
    2 s. Training accuracy is on the labels that were trained on, so that with noisy labels a high
    one means memorised noise.

    Args:
      comparison: the results; methods without a finished epoch are left out.

    Returns:
      A figure with three panels.

    Example:
      >>> from tsam_jax.train.results import Comparison
      >>> nothing = Comparison(task={}, config={}, versions={}, complete=False, methods=())
      >>> len(learning_curves(nothing).axes)
      3
    """
    figure, axes = _figure([1.3, 1.0, 1.0])
    names = {
        "test_accuracy": "Test accuracy",
        "train_accuracy": "Training accuracy, labels as given",
        "train_loss": "Training loss",
    }
    panels = [
        (panel, [line for i, m in enumerate(comparison.methods) for line in _curve(m, i, name)])
        for panel, name in zip(axes, names, strict=True)
    ]
    for (panel, lines), (name, title) in zip(panels, names.items(), strict=True):
        _draw(panel, lines, empty="no finished epoch")
        panel.set(xlabel="Gradient evaluations per seed", ylabel=title)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        if name.endswith("accuracy"):
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        elif lines:
            panel.set_ylim(bottom=0)
    _label(figure, panels)
    return figure


def sharpness(comparison: Comparison, /) -> Figure:
    """Mean increase and variance of the training loss over the size of the noise.

    The paper's Figure 2, with the loss at the solution subtracted from the mean, so that a method
    is not called sharp because its loss is high: flat solutions lie low in both panels.

    Args:
      comparison: the results; methods that were not analysed are left out.

    Returns:
      A figure with two panels.

    Example:
      >>> from tsam_jax.train.results import Comparison
      >>> nothing = Comparison(task={}, config={}, versions={}, complete=False, methods=())
      >>> len(sharpness(nothing).axes)
      2
    """
    figure, (mean, variance) = _figure([1.0, 1.0])
    analysed = [(i, m) for i, m in enumerate(comparison.methods) if m.is_analysed]
    increases = [
        _Line(m, i, m.noise_rms, m.neighbourhood_mean - m.loss[:, None]) for i, m in analysed
    ]
    variances = [_Line(m, i, m.noise_rms, m.neighbourhood_variance) for i, m in analysed]
    mean.set_ylabel("Mean increase of the training loss")
    variance.set_ylabel("Variance of the training loss")
    panels = [(mean, increases), (variance, variances)]
    for panel, lines in panels:
        panel.set_xlabel("Noise, root mean square per coordinate")
        _draw(panel, lines, empty="not analysed")
        _log_scale(panel, lines)
    _label(figure, panels)
    return figure


def _figure(widths: list[float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(
        figsize=(3.1 * sum(widths) + 0.5, _PANEL_HEIGHT + 0.4),
        layout=ConstrainedLayoutEngine(wspace=0.06),
    )
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, len(widths), width_ratios=widths))
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(_INK)
        panel.tick_params(colors=_INK, labelsize=_FONT_SIZE - 1)
        panel.grid(color=_FAINT, linewidth=0.6)
        panel.set_axisbelow(True)
        for label in (panel.xaxis.label, panel.yaxis.label):
            label.set(color=_INK, fontsize=_FONT_SIZE)
    return figure, panels


def _curve(method: MethodResult, index: int, name: str) -> list[_Line]:
    if not method.curve_epochs.size or name not in method.curves:
        return []
    cost = method.gradients_per_step * method.steps_per_epoch
    return [_Line(method, index, cost * method.curve_epochs, method.curves[name])]


def _draw(panel: Axes, lines: list[_Line], *, empty: str) -> None:
    for line in lines:
        # A line of one point is invisible.
        marker = "o" if len(line.x) == 1 else None
        panel.plot(line.x, line.mean, marker=marker, markersize=4, zorder=3, **line.style)
        low, high = line.seeds.min(axis=0), line.seeds.max(axis=0)
        panel.fill_between(line.x, low, high, color=line.style["color"], alpha=0.15, linewidth=0)
    if not lines:
        panel.text(0.5, 0.5, empty, transform=panel.transAxes, ha="center", color=_INK)
        panel.set(xticks=[], yticks=[])


def _log_scale(panel: Axes, lines: list[_Line]) -> None:
    """A log axis where all means are positive; a band that reaches zero leaves the panel."""
    means = np.concatenate([line.mean for line in lines] or [np.zeros(0)])
    means = means[np.isfinite(means)]
    if means.size and np.all(means > 0):
        panel.set_yscale("log", nonpositive="clip")
        panel.set_ylim(means.min() / 2, means.max() * 2)


def _label(figure: Figure, panels: _Panels) -> None:
    """Names the lines at their ends, or, where there are too many or names repeat, below."""
    methods = {line.place: line for _, lines in panels for line in lines}
    names = [line.method.name for line in methods.values()]
    if len(names) <= _MOST_DIRECT_LABELS and len(set(names)) == len(names):
        figure.draw_without_rendering()  # lays the panels out
        for panel, lines in panels:
            _label_ends(panel, lines, height=panel.get_window_extent().height / figure.dpi)
        return
    handles = [
        Line2D([], [], label="\n".join(textwrap.wrap(line.method.label, 44)), **line.style)
        for line in methods.values()
    ]
    columns = 3 if len(panels) > 2 else 2
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 + 0.22 * rows)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=_FONT_SIZE - 1,
        labelcolor=_INK,
        handlelength=2.6,
    )


def _label_ends(panel: Axes, lines: list[_Line], *, height: float) -> None:
    lines = [line for line in lines if np.isfinite(line.mean[-1])]
    if not lines:
        return
    ends = np.array([[line.x[-1], line.mean[-1]] for line in lines])
    places = panel.transAxes.inverted().transform(panel.transData.transform(ends))
    for line, end, y in zip(lines, ends, _spread(places[:, 1], _LABEL_GAP / height), strict=True):
        panel.annotate(
            line.method.name,
            xy=(end[0], end[1]),
            xytext=(1.04, y),
            textcoords="axes fraction",
            va="center",
            fontsize=_FONT_SIZE,
            color=line.style["color"],
            arrowprops={
                "arrowstyle": "-",
                "color": line.style["color"],
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
