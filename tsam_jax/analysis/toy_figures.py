"""The paper's toy figures, drawn from the data of `toys`, in the style of `style`."""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
    figure, panels = style.new_figure([0.75] * len(data.runs), height=2.3, share=True)
    for panel, run in zip(panels, data.runs, strict=True):
        panel.plot(data.theta, data.loss, color="#888888", linewidth=1.0)
        at = np.interp(run.theta, data.theta, data.loss)
        colour = style.looks([run.label])[run.label]["color"]
        panel.plot(run.theta, at, color=colour, linewidth=2.0, alpha=0.8, zorder=3)
        panel.plot(run.theta[0], at[0], "o", color=colour, markersize=4, zorder=4)
        panel.plot(run.theta[-1], at[-1], color=colour, **style.STAR)
        style.title(panel, run.label)
        panel.set_xlabel("θ")
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
    figure, (panel,) = style.new_figure([1.8], height=3.3)
    base = np.array(to_rgb(style.looks([data.label])[data.label]["color"]))
    colours = [tuple(1 - d * (1 - base)) for d in np.linspace(0.25, 1.0, len(data.rhos))]
    curves = [np.stack([data.theta, row], axis=1) for row in data.values]
    panel.add_collection(LineCollection(curves, colors=colours, linewidths=1.1))
    [loss] = panel.plot(data.theta, data.loss, color="black", linewidth=1.6, zorder=3)
    [least] = panel.plot(data.minimisers, data.values.min(axis=1), "ko", markersize=4, zorder=4)
    panel.set(xlabel="θ", ylabel="Loss", xlim=(data.theta[0], data.theta[-1]), ylim=(-0.15, 1.9))
    objective = f"{data.label}: rho from {data.rhos[0]:g} (pale) to {data.rhos[-1]:g}"
    names = {objective: Line2D([], [], color=colours[-1]), "loss": loss, "minimum of each": least}
    style.caption(figure, data.caption)
    style.legend(figure, names)
    return figure
