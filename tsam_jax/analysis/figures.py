"""Figures of what this package measures, in the style of `style`.

Import this module by its name: it needs matplotlib, which `tsam_jax.analysis` does not. Each
function takes the data of a measure and returns a matplotlib `Figure`, to be saved with `savefig`.
The paper's toys are drawn by `tsam_jax.analysis.toy_figures`.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from tsam_jax.analysis import style
from tsam_jax.analysis.neighbourhood import NeighbourhoodLoss
from tsam_jax.analysis.sampler import SampleDiagnostics
from tsam_jax.analysis.spectrum import Spectrum, smoothed_density


def sharpness_against_size(
    curves: Mapping[str, NeighbourhoodLoss], sizes: ArrayLike, losses: Mapping[str, float], /
) -> Figure:
    """Mean rise and variance of the loss over the size of the neighbourhood: Figure 2.

    Args:
      curves: of `neighbourhood_curve`, by the name of the model.
      sizes: shape (k,), the sizes of all curves.
      losses: loss at each model, by its name. It is subtracted from the mean, so that a model is
        not called sharp because its loss is high.

    Returns:
      A figure with two panels; bands are two standard errors to either side.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import NeighbourhoodLoss
      >>> values = jnp.array([1.0, 2.0])
      >>> curve = NeighbourhoodLoss(values, values, 0.1 * values, 0.1 * values)
      >>> len(sharpness_against_size({"SAM": curve}, [0.1, 0.2], {"SAM": 0.5}).axes)
      2
    """
    figure, (mean, variance) = style.new_figure([1.0, 1.0])
    sizes = np.asarray(sizes)
    panels: dict[Axes, dict[str, Line2D]] = {mean: {}, variance: {}}
    for place, (name, curve) in enumerate(curves.items()):
        rise = np.asarray(curve.mean) - float(losses[name])
        for panel, value, error in (
            (mean, rise, curve.standard_error),
            (variance, np.asarray(curve.variance), curve.variance_standard_error),
        ):
            panels[panel][name] = _band(panel, place, sizes, value, np.asarray(error))
    mean.set_ylabel("Mean rise of the loss")
    variance.set_ylabel("Variance of the loss")
    for panel, lines in panels.items():
        panel.set_xlabel("Size of the noise")
        _log_scale(panel, lines)
    style.name_lines(figure, panels)
    return figure


def spectra(spectra: Mapping[str, Spectrum], /, *, width: float | None = None) -> Figure:
    """Densities of the eigenvalues of several models, on a logarithmic axis.

    Args:
      spectra: of `spectral_density`, by the name of the model.
      width: standard deviation of the smoothing, in the unit of the eigenvalues; None for a
        hundredth of the whole range.

    Returns:
      A figure with one panel. It shows densities above a millionth of the largest.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import Spectrum
      >>> spectrum = Spectrum(jnp.array([[0.0, 1.0]]), jnp.array([[0.9, 0.1]]))
      >>> len(spectra({"SAM": spectrum}).axes)
      1
    """
    figure, (panel,) = style.new_figure([1.7])
    nodes = np.nan_to_num(np.concatenate([np.ravel(s.nodes) for s in spectra.values()]))
    low, high = float(nodes.min()), float(nodes.max())
    width = width or max((high - low) / 100, 1e-12)
    points = np.linspace(low - 4 * width, high + 4 * width, 800)
    lines, largest = {}, 0.0
    for place, (name, spectrum) in enumerate(spectra.items()):
        density = np.asarray(smoothed_density(spectrum, jnp.asarray(points), width).value)
        largest = max(largest, density.max())
        lines[name] = panel.plot(points, density, **style.line_style(place))[0]
    panel.set_yscale("log")
    if largest > 0:  # else no Hessian is finite
        panel.set_ylim(largest * 1e-6, largest * 3)
    panel.set(xlabel="Eigenvalue of the Hessian", ylabel="Density")
    # the ends of all lines are at 0: names go where each spectrum ends
    for place, (name, spectrum) in enumerate(spectra.items()):
        top = float(np.max(np.where(np.asarray(spectrum.weights) > 0, spectrum.nodes, -np.inf)))
        _name_top(panel, name, place, top, len(spectra), leftwards=2 * top > low + high)
    return figure


def lines(
    positions: ArrayLike,
    losses: Mapping[str, ArrayLike],
    /,
    *,
    label: str = "Position",
) -> Figure:
    """Loss along lines, of `loss_on_line` or `loss_between`.

    Args:
      positions: shape (k,), of all lines.
      losses: shape (k,) each, by name.
      label: of the horizontal axis.

    Returns:
      A figure with one panel.

    Example:
      >>> len(lines([0.0, 1.0], {"random direction": [1.0, 2.0]}).axes)
      1
    """
    figure, (panel,) = style.new_figure([1.5])
    drawn = {
        name: panel.plot(np.asarray(positions), np.asarray(loss), **style.line_style(place))[0]
        for place, (name, loss) in enumerate(losses.items())
    }
    panel.set(xlabel=label, ylabel="Loss")
    style.name_lines(figure, {panel: drawn})
    return figure


def landscape(
    xs: ArrayLike,
    ys: ArrayLike,
    losses: ArrayLike,
    /,
    *,
    trajectories: Mapping[str, ArrayLike] | None = None,
    labels: tuple[str, str] = ("First direction", "Second direction"),
) -> Figure:
    """Contours of the loss over a plane, with the trajectories of training projected onto it.

    Levels are equally likely rather than equally spaced, so that both the bottom of a valley and
    its walls have contours.

    Args:
      xs: shape (k,).
      ys: shape (m,).
      losses: shape (m, k), of `loss_on_plane`.
      trajectories: coordinates (n, 2) of `project`, by name; the last point is marked by a star.
      labels: of the two axes.

    Returns:
      A figure with one panel and a scale of the loss.

    Example:
      >>> import numpy as np
      >>> loss = np.add.outer(np.arange(3.0) ** 2, np.arange(4.0))
      >>> path = np.array([[0.0, 0.0], [1.0, 1.0]])
      >>> len(landscape(np.arange(4), np.arange(3), loss, trajectories={"SAM": path}).axes)
      2
    """
    figure, (panel,) = style.new_figure([1.6], height=3.6)
    losses = np.asarray(losses, float)
    finite = losses[np.isfinite(losses)]
    levels = np.unique(np.quantile(finite, np.linspace(0, 1, 15))) if finite.size else np.zeros(0)
    if len(levels) > 1:
        # a shade for each interval, however narrow
        shades = BoundaryNorm(levels, ncolors=256)
        filled = panel.contourf(
            xs, ys, losses, levels=levels, cmap="Greys", norm=shades, alpha=0.45
        )
        panel.contour(xs, ys, losses, levels=levels, colors="white", linewidths=0.5)
        bar = figure.colorbar(filled, ax=panel, pad=0.02, ticks=levels[:: len(levels) // 5 or 1])
        bar.set_label("Loss", color=style.INK, fontsize=style.FONT_SIZE)
        bar.ax.tick_params(colors=style.INK, labelsize=style.FONT_SIZE - 1)
        bar.ax.yaxis.set_major_formatter("{x:.3g}")
        bar.minorticks_off()
        bar.outline.set_visible(False)
    panel.grid(visible=False)
    for place, (name, path) in enumerate((trajectories or {}).items()):
        x, y = np.asarray(path).T
        # dark colours, since the first, black, is close to the contours'
        colour = style.COLOURS[1 + place % (len(style.COLOURS) - 1)]
        panel.plot(x, y, color=colour, linewidth=1.2, marker=".", markersize=3)
        panel.plot(x[-1], y[-1], marker="*", markersize=11, color=colour, markeredgecolor="white")
        # the name is on the side where there is more room
        left = x[-1] > np.mean(np.asarray(xs)[[0, -1]])
        panel.annotate(
            name,
            (x[-1], y[-1]),
            xytext=(-7 if left else 7, 5),
            textcoords="offset points",
            ha="right" if left else "left",
            color=colour,
            fontsize=style.FONT_SIZE,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    panel.set(xlabel=labels[0], ylabel=labels[1])
    return figure


def samples_over_training(
    diagnostics: Mapping[str, SampleDiagnostics], num_samples: int, /
) -> Figure:
    """Effective sample size and largest weight over the steps of training.

    Args:
      diagnostics: of `sample_diagnostics`, fields of shape (steps,), by name.
      num_samples: s, the largest possible effective sample size.

    Returns:
      A figure with two panels: the running mean over a twentieth of the steps, and the steps
      themselves, faint.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import SampleDiagnostics
      >>> steps = SampleDiagnostics(*(jnp.ones(10),) * 4)
      >>> len(samples_over_training({"t = 1": steps}, 3).axes)
      2
    """
    figure, (size, weight) = style.new_figure([1.0, 1.0])
    panels: dict[Axes, dict[str, Line2D]] = {size: {}, weight: {}}
    for place, (name, run) in enumerate(diagnostics.items()):
        for panel, values in (
            (size, run.effective_sample_size),
            (weight, run.largest_weight),
        ):
            raw = np.asarray(values, float)
            window = max(len(raw) // 20, 1)
            smooth = np.convolve(raw, np.ones(window) / window, mode="valid")
            steps = np.arange(len(raw))
            colour = style.line_style(place)["color"]
            panel.plot(steps, raw, color=colour, alpha=0.15, linewidth=0.5)
            panels[panel][name] = panel.plot(
                steps[window - 1 :], smooth, zorder=3, **style.line_style(place)
            )[0]
    size.set(ylabel=f"Effective sample size, of {num_samples}", ylim=(1, num_samples * 1.02))
    weight.set(ylabel="Largest weight", ylim=(1 / num_samples * 0.98, 1))
    for panel in panels:
        panel.set_xlabel("Step")
    style.name_lines(figure, panels)
    return figure


def _band(panel: Axes, place: int, x: np.ndarray, y: np.ndarray, error: np.ndarray) -> Line2D:
    look = style.line_style(place)
    low, high = y - 2 * error, y + 2 * error
    panel.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    line: Line2D = panel.plot(x, y, zorder=3, **look)[0]
    return line


def _log_scale(panel: Axes, lines: Mapping[str, Line2D]) -> None:
    """A log axis where all values are positive; a band that reaches zero leaves the panel."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines.values()])
    values = values[np.isfinite(values)]
    if values.size and np.all(values > 0):
        panel.set_yscale("log", nonpositive="clip")
        panel.set_ylim(values.min() / 2, values.max() * 2)


def _name_top(
    panel: Axes, name: str, place: int, top: float, count: int, *, leftwards: bool
) -> None:
    """Marks where a spectrum ends, at a height of its own, with a text to one side of it."""
    height = 0.97 - 0.09 * place if count <= 10 else 0.97 - 0.9 * place / count
    colour = style.line_style(place)["color"]
    text = f"{name}, up to {top:.3g}" if math.isfinite(top) else f"{name}, not finite"
    top = top if math.isfinite(top) else panel.get_xlim()[0]
    panel.annotate(
        f"{text} " if leftwards else f" {text}",
        xy=(top, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(top, height),
        textcoords=("data", "axes fraction"),
        ha="right" if leftwards else "left",
        va="center",
        color=colour,
        fontsize=style.FONT_SIZE,
        arrowprops={
            "arrowstyle": "-",
            "color": colour,
            "linewidth": 0.6,
            "alpha": 0.6,
            "shrinkA": 0,
            "shrinkB": 0,
            "relpos": (int(leftwards), 0.5),  # straight down, from that end of the text
        },
    )
