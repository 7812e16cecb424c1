"""The figures of a report: learning curves and sharpness, in the style of `analysis.style`.

Bands run from the lowest seed to the highest: a 95 % interval of three seeds is so wide that it
leaves the range of an accuracy.
"""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, PercentFormatter

from tsam_jax.analysis import style
from tsam_jax.train.results import Comparison, MethodResult


class _Line(NamedTuple):
    """A method's line in a panel; `place` is its place in the cycle of styles."""

    method: MethodResult
    place: int
    x: np.ndarray
    seeds: np.ndarray  # (seeds, points)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.seeds.mean(axis=0))


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
    figure, axes = style.new_figure([1.3, 1.0, 1.0])
    names = {
        "test_accuracy": "Test accuracy",
        "train_accuracy": "Training accuracy, labels as given",
        "train_loss": "Training loss",
    }
    named = {}
    for panel, (name, title) in zip(axes, names.items(), strict=True):
        lines = [line for i, m in enumerate(comparison.methods) for line in _curve(m, i, name)]
        named[panel] = _draw(panel, lines, comparison.methods, empty="no finished epoch")
        panel.set(xlabel="Gradient evaluations per seed", ylabel=title)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        if name.endswith("accuracy"):
            panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif lines:
            panel.set_ylim(bottom=0)
    style.name_lines(figure, named)
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
    figure, (mean, variance) = style.new_figure([1.0, 1.0])
    analysed = [(i, m) for i, m in enumerate(comparison.methods) if m.is_analysed]
    increases = [
        _Line(m, i, m.noise_rms, m.neighbourhood_mean - m.loss[:, None]) for i, m in analysed
    ]
    variances = [_Line(m, i, m.noise_rms, m.neighbourhood_variance) for i, m in analysed]
    mean.set_ylabel("Mean increase of the training loss")
    variance.set_ylabel("Variance of the training loss")
    named = {}
    for panel, lines in ((mean, increases), (variance, variances)):
        panel.set_xlabel("Noise, root mean square per coordinate")
        named[panel] = _draw(panel, lines, comparison.methods, empty="not analysed")
        _log_scale(panel, lines)
    style.name_lines(figure, named)
    return figure


def _curve(method: MethodResult, index: int, name: str) -> list[_Line]:
    if not method.curve_epochs.size or name not in method.curves:
        return []
    cost = method.gradients_per_step * method.steps_per_epoch
    return [_Line(method, index, cost * method.curve_epochs, method.curves[name])]


def _draw(
    panel: Axes, lines: list[_Line], methods: Sequence[MethodResult], *, empty: str
) -> dict[str, Line2D]:
    """Returns the lines by name; by the whole setting, where methods have the same name."""
    drawn = {}
    short = len({method.name for method in methods}) == len(methods)
    for line in lines:
        look = style.line_style(line.place)
        # A line of one point is invisible.
        marker = "o" if len(line.x) == 1 else None
        [drawn_line] = panel.plot(line.x, line.mean, marker=marker, markersize=4, zorder=3, **look)
        low, high = line.seeds.min(axis=0), line.seeds.max(axis=0)
        panel.fill_between(line.x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        name = line.method.name if short else "\n".join(textwrap.wrap(line.method.label, 44))
        drawn[name] = drawn_line
    if not lines:
        panel.text(0.5, 0.5, empty, transform=panel.transAxes, ha="center", color=style.INK)
        panel.set(xticks=[], yticks=[])
    return drawn


def _log_scale(panel: Axes, lines: list[_Line]) -> None:
    """A log axis where all means are positive; a band that reaches zero leaves the panel."""
    means = np.concatenate([line.mean for line in lines] or [np.zeros(0)])
    means = means[np.isfinite(means)]
    if means.size and np.all(means > 0):
        panel.set_yscale("log", nonpositive="clip")
        panel.set_ylim(means.min() / 2, means.max() * 2)
