"""Slices of the loss around, between and through solutions, and along trainings, as plots.

Each function takes losses `params -> loss` and parameters by name, and returns a Matplotlib figure
and its data. The loss over a line or plane is that of the first name.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsam_jax import analysis
from tsam_jax._checks import Params
from tsam_jax.analysis import figures

__all__ = ["Drawn", "Losses", "along", "around", "between", "through"]

Losses = Mapping[str, Callable[[Params], jax.Array]]
"""Name -> loss; the order is that of the plot."""

Drawn = tuple[Any, dict[str, Any]]
"""A Matplotlib figure and its data."""


def around(
    losses: Losses,
    params: Mapping[str, Params],
    key: jax.Array,
    *,
    directions: Literal["filter", "random", "eigenvectors"] = "filter",
    points: int = 21,
    reach: float = 1.0,
) -> Drawn:
    """Plot the loss on a plane around one solution.

    Args:
      losses: name -> loss, of one name.
      params: name -> parameters.
      key: PRNG key of the directions.
      directions: random directions with the norms of the filters (Li et al. 2018), random ones with
        the norm of the parameters, or the top two eigenvectors of the Hessian.
      points: points along each direction.
      reach: extent to each side, in those norms; in the units of the parameters for eigenvectors.

    Returns:
      The figure and "xs", "ys", "losses" (points, points).

    Cost: points^2 losses.

    Source: Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018.
    """
    [(name, loss)], [centre] = losses.items(), params.values()
    keys = jax.random.split(key)
    if directions == "eigenvectors":
        pairs = jax.jit(lambda p: analysis.top_eigenpairs(loss, p, keys[0], k=2))(centre)
        axes = [jax.tree.map(lambda v, i=i: v[i], pairs.vectors) for i in range(2)]
        first, second = (f"Eigenvector of {float(x):.3g}" for x in pairs.values)
    else:
        normalised = analysis.filter_normalised if directions == "filter" else _of_same_norm
        axes = [normalised(analysis.random_direction(k, centre), centre) for k in keys]
        first, second = "First random direction", "Second random direction"
    xs = jnp.linspace(-reach, reach, points)
    plane = analysis.Plane(centre, *axes)
    values = jax.jit(lambda xs: analysis.loss_on_plane(loss, plane, xs, xs))(xs)
    here = {name: np.zeros((1, 2))}
    figure = figures.landscape(xs, xs, values, trajectories=here, labels=(first, second))
    return figure, {"xs": xs, "ys": xs, "losses": values}


def between(losses: Losses, params: Mapping[str, Params], *, points: int = 21) -> Drawn:
    """Plot the loss of the first solution on the line through two.

    Args:
      losses: name -> loss.
      params: name -> parameters, of two names.
      points: points of the line, from -0.25 to 1.25.

    Returns:
      The figure and "positions", "losses" (points,).

    Cost: `points` losses.
    """
    (first, start), (second, end) = params.items()
    loss, positions = losses[first], jnp.linspace(-0.25, 1.25, points)
    values = jax.jit(lambda x: analysis.loss_between(loss, start, end, x))(positions)
    label = f"0: {first}; 1: {second}"
    figure = figures.lines(positions, {"training loss": values}, label=label)
    return figure, {"positions": positions, "losses": values}


def through(losses: Losses, params: Mapping[str, Params], *, points: int = 21) -> Drawn:
    """Plot the loss of the first solution on the plane through three.

    Args:
      losses: name -> loss.
      params: name -> parameters, of three names.
      points: points along each axis.

    Returns:
      The figure and "xs", "ys", "losses", "trajectories" (the places of the solutions) and
      "distances_from_plane".

    Cost: points^2 losses.
    """
    plane = analysis.plane_through(*params.values())
    labels = ("Distance along the line through the first two", "Distance from that line")
    ways = {name: jax.tree.map(lambda x: x[None], one) for name, one in params.items()}
    return _over(losses, plane, ways, labels, points)


def along(losses: Losses, trajectories: Mapping[str, Params], *, points: int = 21) -> Drawn:
    """Plot the loss on the plane nearest to all points of trainings.

    Args:
      losses: name -> loss.
      trajectories: name -> parameters with a leading axis over the points of a training.
      points: points along each axis.

    Returns:
      As `through`.

    Cost: points^2 losses.
    """
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *trajectories.values())
    plane = jax.jit(analysis.plane_of_trajectory)(together)
    seen = jax.jit(analysis.project)(plane, together)
    squares = np.sum(np.asarray(seen.coordinates) ** 2, axis=0)
    fractions = squares / (squares.sum() + np.sum(np.asarray(seen.distances) ** 2))
    first, second = (f"{fraction:.0%} of the squared distance" for fraction in fractions)
    labels = (f"First component, {first}", f"Second component, {second}")
    return _over(losses, plane, trajectories, labels, points)


def _of_same_norm(direction: Params, params: Params) -> Params:
    return optax.tree.scale(optax.tree.norm(params) / optax.tree.norm(direction), direction)


def _over(
    losses: Losses,
    plane: analysis.Plane,
    ways: Mapping[str, Params],
    labels: tuple[str, str],
    points: int,
) -> Drawn:
    """The loss over a plane, a quarter beyond the ways on it, points (n, ...) each."""
    loss = next(iter(losses.values()))
    seen = {name: jax.jit(analysis.project)(plane, way) for name, way in ways.items()}
    places = {name: np.asarray(one.coordinates) for name, one in seen.items()}
    corners = np.concatenate(list(places.values()))
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 0.25 * (high - low)
    xs, ys = (jnp.linspace(low[i] - margin[i], high[i] + margin[i], points) for i in range(2))
    values = jax.jit(lambda xs, ys: analysis.loss_on_plane(loss, plane, xs, ys))(xs, ys)
    figure = figures.landscape(xs, ys, values, trajectories=places, labels=labels)
    away = {name: one.distances for name, one in seen.items()}
    data = {"xs": xs, "ys": ys, "losses": values, "trajectories": places}
    return figure, data | {"distances_from_plane": away}
