"""The paper's one-dimensional toy problems: losses, and data of Figures 1, 3 and 4.

Captions state every deviation from the printed text of the paper, with its reason.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax._checks import Scalar
from tsam_jax.tilting import tilt_weights, tilted_loss

_DRAWS = 2000  # the paper: "thousands"


class Descent(NamedTuple):
    """A run of gradient descent on an objective.

    Attributes:
      label: name of the objective.
      theta: (steps + 1,), the parameter at each step, including the start.
    """

    label: str
    theta: np.ndarray


class DescentFigure(NamedTuple):
    """Runs over a loss: Figure 1.

    Attributes:
      caption: what is shown, and what was changed.
      theta: (n,), grid.
      loss: (n,), the loss L on the grid.
      runs: one for each objective.
    """

    caption: str
    theta: np.ndarray
    loss: np.ndarray
    runs: tuple[Descent, ...]


class ObjectiveFigure(NamedTuple):
    """An objective at several radii, over the loss: Figures 3 and 4.

    Attributes:
      caption: what is shown, and what was changed.
      label: name of the objective.
      theta: (n,), grid.
      loss: (n,), the loss L on the grid.
      rhos: (k,), radii.
      values: (k, n), the objective at each radius.
      minimisers: (k,), the grid point where each is smallest.
    """

    caption: str
    label: str
    theta: np.ndarray
    loss: np.ndarray
    rhos: np.ndarray
    values: np.ndarray
    minimisers: np.ndarray


def wavy_loss(theta: Scalar, /) -> jax.Array:
    r"""Loss of Figure 1, with minima that get flatter from left to right.

    $L(\theta) = 2 - \frac{\sin 4 \pi \theta}{2 \theta} + 0.005 (\theta - 1)^2$. The sign after
    the 2 is missing in the text of the paper. With this sign, gradient descent from 0.5 behaves as
    the caption says.

    Args:
      theta: shape (); positive.

    Returns:
      Shape (); infinite for theta below 0.05, outside the domain.

    Example:
      >>> round(float(wavy_loss(0.5)), 5)
      2.00125

    Source: Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Section 3.2.
    """
    theta = jnp.asarray(theta, float)
    inside = theta > 0.05
    safe = jnp.where(inside, theta, 1.0)
    value = 2 - jnp.sin(4 * jnp.pi * safe) / (2 * safe) + 0.005 * jnp.square(safe - 1)
    return jnp.where(inside, value, jnp.inf)


def kinked_loss(theta: Scalar, /) -> jax.Array:
    r"""Loss of Figures 3 and 4: a sharp minimum at 1, and a slightly higher flat one at 3.

    $L(\theta) = |\theta - 1| - 0.01$ for $\theta \le 2$, else $(\theta - 3)^2$; it jumps from 0.99
    to 1 at 2.

    Args:
      theta: shape ().

    Returns:
      Shape ().

    Example:
      >>> [round(float(kinked_loss(x)), 4) for x in (1.0, 3.0)]
      [-0.01, 0.0]

    Source: Li et al. 2025, Appendix A.
    """
    theta = jnp.asarray(theta, float)
    return jnp.where(theta <= 2, jnp.abs(theta - 1) - 0.01, jnp.square(theta - 3))


def figure_1(*, tilts: tuple[float, ...] = (1.0, 5.0, 20.0, 100.0)) -> DescentFigure:
    """Run ERM and TSAM on `wavy_loss`: the paper's Figure 1.

    Args:
      tilts: tilts of the TSAM runs.

    Returns:
      A `DescentFigure` with one run for ERM and one for each tilt: learning rate 0.005, start 0.5,
      rho 0.2, 3000 steps of 2000 draws. Takes seconds.

    Example:
      >>> (run,) = figure_1(tilts=()).runs
      >>> run.label, round(float(run.theta[-1]), 2)
      ('ERM', 0.61)

    Source: Li et al. 2025, Figure 1. Deviations: see the caption.
    """
    theta = np.linspace(0.2, 3.0, 1401)
    slope = jax.grad(wavy_loss)
    runs = [Descent("ERM", _descend(lambda theta, _: slope(theta)))]
    runs += [
        Descent(f"TSAM, t = {t:g}", _descend(functools.partial(_tilted_slope, t))) for t in tilts
    ]
    return DescentFigure(
        caption=(
            "Gradient descent from 0.5 on L = 2 - sin(4πθ) / (2θ) + 0.005 (θ - 1)²"
            " and on its tilted objectives, whose gradients are estimated from 2000 draws in each"
            " step. Changed against the text: the sign after the 2, which is lost in print, is the"
            " one with which ERM stops at the sharpest minimum; and ε is normal with standard"
            " deviation 0.2 (left out where θ + ε < 0.05) instead of uniform on (-0.2, 0.2),"
            " under which no form of the loss gives flatter minima at larger t. The draws matter:"
            " with the exact expectation t = 20 and 100 stop at 1.03 and 0.93, held by a loss 3.5"
            " standard deviations away that 2000 draws rarely see."
        ),
        theta=theta,
        loss=np.asarray(jax.vmap(wavy_loss)(jnp.asarray(theta))),
        runs=tuple(runs),
    )


def figure_3() -> ObjectiveFigure:
    """SAM objective on `kinked_loss` at increasing radii: the paper's Figure 3.

    Returns:
      An `ObjectiveFigure` at nine radii from 0 to 0.8, max of L over |eps| <= rho.

    Example:
      >>> [round(float(x), 2) for x in figure_3().minimisers[:3]]
      [1.0, 3.0, 3.0]

    Source: Li et al. 2025, Figure 3.
    """
    caption = (
        "The SAM objective, max of L(θ + ε) over |ε| <= rho, on L = |θ - 1| - 0.01 up"
        " to 2 and (θ - 3)² above. From rho = 0.1 on its minimum lies in the flat valley."
        " As printed, but for the radii between 0 and 0.8, which the paper does not list."
    )
    return _objective_figure("SAM", caption, jnp.inf)


def figure_4(*, t: float = 0.01) -> ObjectiveFigure:
    """TSAM objective on `kinked_loss` at increasing radii: the paper's Figure 4.

    Args:
      t: tilt, >= 0.

    Returns:
      An `ObjectiveFigure` at nine radii from 0 to 0.8, ε uniform on |ε| <= rho.

    Example:
      >>> [round(float(x), 2) for x in figure_4().minimisers[:3]]
      [1.0, 3.0, 3.0]

    Source: Li et al. 2025, Figure 4.
    """
    caption = (
        f"The TSAM objective at t = {t:g}, ε uniform on |ε| <= rho, on the loss of Figure 3:"
        " smooth where that of SAM has kinks, and with the same minimisers. As printed, but for"
        " the radii between 0 and 0.8, which the paper does not list."
    )
    return _objective_figure(f"TSAM, t = {t:g}", caption, t)


def _tilted_slope(t: float, theta: jax.Array, key: jax.Array) -> jax.Array:
    losses, slopes = jax.vmap(jax.value_and_grad(wavy_loss))(
        theta + 0.2 * jax.random.normal(key, (_DRAWS,))
    )
    return jnp.sum(tilt_weights(losses, t) * jnp.where(jnp.isfinite(losses), slopes, 0.0))


def _descend(slope: Callable[[jax.Array, jax.Array], jax.Array]) -> np.ndarray:
    def step(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return theta - 0.005 * slope(theta, key), theta

    keys = jax.random.split(jax.random.key(0), 3001)
    return np.asarray(jax.lax.scan(step, jnp.asarray(0.5), keys)[1])


def _objective_figure(label: str, caption: str, t: float) -> ObjectiveFigure:
    theta, rhos = np.linspace(-0.5, 4.5, 1001), np.linspace(0.0, 0.8, 9)
    # includes both ends, where the maximum often lies
    unit = jnp.linspace(-1, 1, _DRAWS + 1)

    def at(theta: jax.Array, rho: jax.Array) -> jax.Array:
        return tilted_loss(jax.vmap(kinked_loss)(theta + rho * unit), t)

    over_grid = jax.vmap(jax.vmap(at, (0, None)), (None, 0))
    values = np.asarray(jax.jit(over_grid)(theta, rhos))
    return ObjectiveFigure(
        caption=caption,
        label=label,
        theta=theta,
        loss=np.asarray(jax.vmap(kinked_loss)(jnp.asarray(theta))),
        rhos=rhos,
        values=values,
        minimisers=theta[np.argmin(values, axis=1)],
    )


def render(name: str, path: str | Path, /) -> str:
    """Draw a toy figure of the paper into a file.

    Args:
      name: "fig1", "fig3" or "fig4".
      path: file to write; its suffix (.png, .pdf, .svg) sets the format.

    Returns:
      The caption.

    Raises:
      ValueError: if `name` is not one of these.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     caption = render("fig3", pathlib.Path(folder) / "fig3.svg")
      >>> caption[:17]
      'The SAM objective'
    """
    from tsam_jax.analysis import style, toy_figures  # needs matplotlib

    data: dict[str, Callable[[], DescentFigure | ObjectiveFigure]]
    data = {"fig1": figure_1, "fig3": figure_3, "fig4": figure_4}
    if name not in data:
        msg = f"`render(name)` must be one of 'fig1', 'fig3', 'fig4', got {name!r}."
        raise ValueError(msg)
    shown, path = data[name](), Path(path)
    descents = isinstance(shown, DescentFigure)
    draw = toy_figures.descents if descents else toy_figures.objectives_at_radii
    path.write_bytes(style.image(draw(shown), path.suffix[1:]))  # type: ignore[arg-type]
    return shown.caption
