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
from matplotlib.ticker import MaxNLocator
from scipy.interpolate import PchipInterpolator

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
    sizes, lines = np.asarray(sizes), {}
    for name, look in style.looks(curves).items():
        means, variances, *errors = (np.asarray(x, float) for x in curves[name])
        band(mean, sizes, means - np.asarray(losses[name], float), 2 * errors[0], look)
        lines[name] = band(variance, sizes, variances, 2 * errors[1], look)
    mean.set_ylabel("Mean rise of the loss")
    variance.set_ylabel("Variance of the loss")
    for panel in (mean, variance):
        panel.set_xlabel("Size of the noise")
        log_scale(panel)
    style.legend(figure, lines)
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
    for name, look in style.looks(spectra).items():
        spectrum = spectra[name]
        density = np.asarray(smoothed_density(spectrum, jnp.asarray(points), width).value)
        largest = max(largest, density.max())
        top = float(np.max(np.where(np.asarray(spectrum.weights) > 0, spectrum.nodes, -np.inf)))
        text = f"{name}, up to {top:.3g}" if math.isfinite(top) else f"{name}, not finite"
        lines[text] = panel.plot(points, density, **look)[0]
    panel.set_yscale("log")
    if largest > 0:  # else no Hessian is finite
        panel.set_ylim(largest * 1e-6, largest * 3)
    panel.set(xlabel="Eigenvalue of the Hessian", ylabel="Density")
    style.legend(figure, lines)
    return figure


def lines(
    positions: ArrayLike,
    losses: Mapping[str, ArrayLike],
    /,
    *,
    label: str = "Position",
) -> Figure:
    """Loss along lines, of `loss_on_line` or `loss_between`, with monotone cubics between points.

    Args:
      positions: shape (k,), of all lines, ascending.
      losses: shape (k,) each, by name.
      label: of the horizontal axis.

    Returns:
      A figure with one panel.

    Example:
      >>> len(lines([0.0, 1.0], {"random direction": [1.0, 2.0]}).axes)
      1
    """
    figure, (panel,) = style.new_figure([1.5])
    x, drawn = np.asarray(positions), {}
    for name, look in style.looks(losses).items():
        y = np.asarray(losses[name])
        panel.plot(x, y, ".", color=look["color"])
        points = x, y
        if np.isfinite(y).all():
            fine = np.linspace(x[0], x[-1], 10 * len(x))
            points = fine, PchipInterpolator(x, y)(fine)
        [drawn[name]] = panel.plot(*points, **look)
    panel.set(xlabel=label, ylabel="Loss")
    style.legend(figure, drawn)
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

    Contours are at round levels, close to each other where the loss is low if it spans more than
    a factor of ten. Between the given points the drawing interpolates, by monotone cubics.

    Args:
      xs: shape (k,), ascending.
      ys: shape (m,), ascending.
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
    figure, (panel,) = style.new_figure([1.5], height=3.8)
    levels = _round_levels(np.asarray(losses, float))
    if len(levels) > 1:
        norm = BoundaryNorm(levels, ncolors=256)  # a shade for each interval, however narrow
        surface = _smooth(*(np.asarray(x, float) for x in (xs, ys, losses)))
        filled = panel.contourf(*surface, levels=levels, cmap="Greys", norm=norm, alpha=0.5)
        panel.contour(*surface, levels=levels, colors=style.INK, linewidths=0.3)
        bar = figure.colorbar(filled, ax=panel, pad=0.02, ticks=levels, format="{x:g}")
        bar.set_label("Loss", color=style.INK, fontsize=style.FONT_SIZE)
        bar.ax.tick_params(colors=style.INK, labelsize=style.FONT_SIZE - 1, length=0)
        bar.outline.set_visible(False)
    panel.grid(visible=False)
    lines = {}
    for name, look in style.looks(trajectories or {}).items():
        x, y = np.asarray((trajectories or {})[name]).T
        panel.plot(x, y, color=look["color"], linewidth=1.3, marker=".", markersize=3)
        [lines[name]] = panel.plot(x[-1], y[-1], color=look["color"], **style.STAR)
    panel.set(xlabel=labels[0], ylabel=labels[1])
    style.caption(
        figure, "Contours are interpolated between {1} x {0} losses.".format(*np.shape(losses))
    )
    style.legend(figure, lines)
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
    lines = {}
    for name, look in style.looks(diagnostics).items():
        run = diagnostics[name]
        for panel, values in ((size, run.effective_sample_size), (weight, run.largest_weight)):
            raw = np.asarray(values, float)
            window = max(len(raw) // 20, 1)
            smooth = np.convolve(raw, np.ones(window) / window, mode="valid")
            steps = np.arange(len(raw))
            panel.plot(steps, raw, color=look["color"], alpha=0.15, linewidth=0.5)
            [lines[name]] = panel.plot(steps[window - 1 :], smooth, zorder=3, **look)
    size.set(ylabel=f"Effective sample size, of {num_samples}", ylim=(1, num_samples * 1.02))
    weight.set(ylabel="Largest weight", ylim=(1 / num_samples * 0.98, 1))
    for panel in (size, weight):
        panel.set_xlabel("Step")
    style.legend(figure, lines)
    return figure


def band(panel: Axes, x: np.ndarray, y: np.ndarray, error: ArrayLike, look: dict) -> Line2D:  # type: ignore[type-arg]
    """A line with a band: of one half width, or of the lowest and highest values (2, points)."""
    low, high = np.asarray(error) if np.ndim(error) == 2 else (y - error, y + error)
    panel.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    # a line of one point is invisible
    marker = "o" if len(x) == 1 else None
    line: Line2D = panel.plot(x, y, zorder=3, marker=marker, markersize=4, **look)[0]
    return line


def log_scale(panel: Axes) -> None:
    """A log axis where all values are positive; a band that reaches zero leaves the panel."""
    values = np.concatenate([line.get_ydata() for line in panel.lines] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if values.size and np.all(values > 0):
        panel.set_yscale("log", nonpositive="clip")
        panel.set_ylim(values.min() / 2, values.max() * 2)


def _round_levels(losses: np.ndarray) -> np.ndarray:
    """Up to about 15 round numbers, from below the lowest loss to above the highest."""
    losses = losses[np.isfinite(losses)]
    low, high = (losses.min(), losses.max()) if losses.size else (0.0, 0.0)
    if low == high:
        return np.zeros(0)
    if low <= 0 or high < 10 * low:
        levels = np.array(MaxNLocator(12, steps=[1, 2, 5, 10]).tick_values(low, high))
    else:
        steps = [1, 1.5, 2, 3, 5, 7] if high < 300 * low else [1, 2, 5] if high < 1e5 * low else [1]
        decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
        levels = np.array([float(f"{step}e{decade}") for decade in decades for step in steps])
    first, last = np.searchsorted(levels, low, "right") - 1, np.searchsorted(levels, high)
    return np.asarray(levels[max(first, 0) : last + 1])


def _smooth(xs: np.ndarray, ys: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, ...]:
    """A grid ten times as fine; as it is if a loss is not finite."""
    if not np.isfinite(losses).all():
        return xs, ys, losses
    x, y = (np.linspace(a[0], a[-1], 10 * len(a)) for a in (xs, ys))
    logs = losses.min() > 0  # of a loss that spans decades the logarithm is the smoother one
    fine = np.log(losses) if logs else losses
    for axis, (old, new) in enumerate(((ys, y), (xs, x))):
        fine = PchipInterpolator(old, fine, axis=axis)(new)
    return x, y, np.exp(fine) if logs else fine
