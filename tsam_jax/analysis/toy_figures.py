"""The paper's toy figures, drawn from the data of `toys`, in the style of `style`."""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tsam_jax.analysis import style
from tsam_jax.analysis.toys import DescentFigure, ObjectiveFigure


def descents(data: DescentFigure, /) -> Figure:
    """Runs of gradient descent over a loss, one panel each: the paper's Figure 1.

    Args:
      data: of `figure_1`.

    Returns:
      A figure with one panel for each run, and the caption below.

    Example:
      >>> import numpy as np
      >>> from tsam_jax.analysis.toys import Descent, DescentFigure
      >>> x = np.linspace(0.0, 1.0, 5)
      >>> len(descents(DescentFigure("...", x, x**2, (Descent("ERM", x[::-1]),))).axes)
      1
    """
    figure, panels = style.new_figure([0.8] * len(data.runs), height=2.3, share=True)
    for panel, run in zip(panels, data.runs, strict=True):
        panel.plot(data.theta, data.loss, color=style.INK, linewidth=1.0)
        at = np.interp(run.theta, data.theta, data.loss)
        path = style.COLOURS[1]
        panel.plot(run.theta, at, color=path, linewidth=2.0, alpha=0.8, zorder=3)
        panel.plot(run.theta[0], at[0], "o", color=path, markersize=4, zorder=4)
        panel.plot(
            run.theta[-1], at[-1], "*", color=path, markersize=13, markeredgecolor="white", zorder=5
        )
        style.title(panel, run.label)
        panel.set_xlabel("theta")
    panels[0].set_ylabel("Loss")
    style.caption(figure, f"{data.caption} Circles: start; stars: end.")
    return figure


def objectives_at_radii(data: ObjectiveFigure, /) -> Figure:
    """An objective at growing radii over the loss: the paper's Figures 3 and 4.

    Args:
      data: of `figure_3` or `figure_4`.

    Returns:
      A figure with one panel and the caption below.

    Example:
      >>> from tsam_jax.analysis.toys import figure_3
      >>> len(objectives_at_radii(figure_3()).axes)
      1
    """
    figure, (panel,) = style.new_figure([2.0], height=3.3)
    dark = np.linspace(0.25, 1.0, len(data.rhos))
    base = np.array([0xD5, 0x5E, 0x00]) / 255  # the palette's vermilion, from pale to full
    colours = [tuple(1 - d * (1 - base)) for d in dark]
    panel.add_collection(
        LineCollection(
            [np.stack([data.theta, row], axis=1) for row in data.values],
            colors=colours,
            linewidths=1.1,
        )
    )
    panel.plot(data.theta, data.loss, color=style.COLOURS[2], linewidth=2.0, zorder=3)
    lowest = data.values.min(axis=1)
    panel.plot(
        data.minimisers, lowest, "o", color=style.COLOURS[0], markersize=4, zorder=4, linestyle=""
    )
    panel.set(xlabel="theta", ylabel="Loss", xlim=(data.theta[0], data.theta[-1]))
    panel.set_ylim(-0.15, 1.9)
    for height, text, colour in (
        (0.95, f"{data.label}, rho = {data.rhos[0]:g} (pale) to {data.rhos[-1]:g}", 1),
        (0.89, "Loss", 2),
        (0.83, "Dots: minimum of each", 0),
    ):
        panel.text(
            0.5,
            height,
            text,
            transform=panel.transAxes,
            ha="center",
            color=style.COLOURS[colour],
            fontsize=style.FONT_SIZE,
        )
    style.caption(figure, data.caption)
    return figure
