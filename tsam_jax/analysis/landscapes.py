"""Slices of the loss surface along lines and planes, and trajectories projected onto them.

Directions are pytrees like the parameters. Sources of directions: `random_direction`, which
`filter_normalised` makes comparable between networks; `top_eigenpairs`; the difference of two
solutions; a trajectory (`plane_of_trajectory`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._checks import Params
from tsam_jax.noise import gaussian


class Plane(NamedTuple):
    """A plane in the space of parameters: origin + x * x_direction + y * y_direction.

    Attributes:
      origin: pytree like the parameters.
      x_direction: pytree like the parameters.
      y_direction: pytree like the parameters, linearly independent of `x_direction`.
    """

    origin: Params
    x_direction: Params
    y_direction: Params


class Projection(NamedTuple):
    """Projection of points onto a plane.

    Attributes:
      coordinates: (n, 2): of the nearest point of the plane, in units of the plane's directions.
      distances: (n,), l2 distance to the plane over all leaves.
    """

    coordinates: jax.Array
    distances: jax.Array


def random_direction(key: jax.Array, params: Params, /) -> Params:
    """Draw a uniform random direction of unit length.

    Args:
      key: random key.
      params: any pytree of floating-point arrays.

    Returns:
      A pytree like `params` with norm 1 over all leaves together.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.analysis import random_direction
      >>> direction = random_direction(jax.random.key(0), {"w": jnp.zeros((3, 2))})
      >>> round(float(jnp.linalg.norm(direction["w"])), 4)
      1.0
    """
    return _tree.unit(gaussian(rms=1.0)(key, params))


def filter_normalised(
    direction: Params, params: Params, /, *, filter_axis: int | tuple[int, ...] = -1
) -> Params:
    r"""Rescale each filter of a direction to the norm of that filter in the parameters.

    $d_f \leftarrow \frac{d_f}{\lVert d_f \rVert} \lVert \theta_f \rVert$ for each filter f: a slice
    of a leaf along `filter_axis`. Loss slices along such directions are comparable between networks
    that compute the same function with differently scaled layers.

    Args:
      direction: pytree like `params`.
      params: theta, any pytree of floating-point arrays.
      filter_axis: axis that indexes filters, or several axes. Default: -1, the output channels of
        flax kernels. Use (0, -1) for layers stacked along axis 0, as by `nnx.scan`.

    Returns:
      A pytree like `params`; 0 on leaves with no other axis (biases, scales of BatchNorm).

    Raises:
      ValueError: if a leaf lacks a `filter_axis`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import filter_normalised
      >>> kernel = jnp.array([[3.0, 0.5], [4.0, 0.0]])
      >>> filter_normalised(jnp.array([[0.0, 2.0], [2.0, 0.0]]), kernel).tolist()
      [[0.0, 0.5], [5.0, 0.0]]

    Source: Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, Section 4. As
    in their figures, biases and BatchNorm parameters do not move.
    """
    axes = filter_axis if isinstance(filter_axis, tuple) else (filter_axis,)

    def normalised(d: jax.Array, p: jax.Array) -> jax.Array:
        if p.ndim <= len(axes):
            return jnp.zeros_like(p)
        length = _tree.filter_norms(d, axes)
        ratio = _tree.filter_norms(p, axes) / jnp.where(length > 0, length, jnp.inf)
        return (d.astype(ratio.dtype) * ratio).astype(p.dtype)

    return jax.tree.map(normalised, direction, params)


def loss_on_line(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    direction: Params,
    positions: jax.Array,
    /,
) -> jax.Array:
    r"""Loss along a line, $L(\theta + a d)$.

    Args:
      loss_fn: `params -> scalar`, deterministic.
      params: theta, any pytree of floating-point arrays.
      direction: d, a pytree like `params`.
      positions: a, shape (k,).

    Returns:
      Losses, shape (k,), float32 or wider. Costs k loss evaluations, one after the other.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import loss_on_line
      >>> loss_on_line(jnp.sum, jnp.zeros(2), jnp.array([1.0, 2.0]), jnp.array([0.0, 2.0])).tolist()
      [0.0, 6.0]

    Source: Goodfellow, Vinyals, Saxe, "Qualitatively characterizing neural network optimization
    problems", ICLR 2015.
    """

    def at(position: jax.Array) -> jax.Array:
        loss = jnp.asarray(loss_fn(_tree.add(params, direction, position)))
        return loss.astype(_tree.accumulator_dtype(loss))

    losses: jax.Array = jax.lax.map(at, jnp.asarray(positions))
    return losses


def loss_between(
    loss_fn: Callable[[Params], jax.Array],
    start: Params,
    end: Params,
    positions: jax.Array,
    /,
) -> jax.Array:
    r"""Loss on the line through two solutions, $L((1 - a) \theta_0 + a \theta_1)$.

    Args:
      loss_fn: `params -> scalar`, deterministic.
      start: theta_0, any pytree of floating-point arrays.
      end: theta_1, like `start`.
      positions: a, shape (k,); 0 is the start and 1 the end; other values extrapolate.

    Returns:
      Losses, shape (k,), float32 or wider. Costs k loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import loss_between
      >>> a, b = jnp.array([1.0]), jnp.array([3.0])
      >>> loss_between(lambda x: jnp.sum(x**2), a, b, jnp.array([0.0, 0.5, 1.0])).tolist()
      [1.0, 4.0, 9.0]

    Source: Goodfellow et al. 2015.
    """
    return loss_on_line(loss_fn, start, jax.tree.map(jnp.subtract, end, start), positions)


def loss_on_plane(
    loss_fn: Callable[[Params], jax.Array], plane: Plane, xs: jax.Array, ys: jax.Array, /
) -> jax.Array:
    r"""Loss on a plane, $L(\theta + x d_1 + y d_2)$.

    Args:
      loss_fn: `params -> scalar`, deterministic.
      plane: origin and directions.
      xs: shape (k,).
      ys: shape (m,).

    Returns:
      Losses, shape (m, k), float32 or wider, with y along the rows, as for contour plots. Costs
      k m loss evaluations, one after the other.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import Plane, loss_on_plane
      >>> plane = Plane(jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([0.0, 10.0]))
      >>> loss_on_plane(jnp.sum, plane, jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0])).tolist()
      [[0.0, 1.0], [10.0, 11.0]]

    Source: Li et al. 2018, Section 3.
    """

    def row(y: jax.Array) -> jax.Array:
        start = _tree.add(plane.origin, plane.y_direction, y)
        return loss_on_line(loss_fn, start, plane.x_direction, xs)

    losses: jax.Array = jax.lax.map(row, jnp.asarray(ys))
    return losses


def plane_through(origin: Params, a: Params, b: Params, /) -> Plane:
    """Plane through three solutions, with orthonormal directions.

    Args:
      origin: first solution, at the coordinates (0, 0).
      a: second solution, on the x axis.
      b: third solution, not on the line through the other two.

    Returns:
      A `Plane` whose coordinates are l2 distances in the space of parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import plane_through
      >>> plane = plane_through(jnp.zeros(2), jnp.array([2.0, 0.0]), jnp.array([5.0, 3.0]))
      >>> plane.y_direction.tolist()
      [0.0, 1.0]

    Source: Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs",
    NeurIPS 2018, Figure 1.
    """
    to_a, to_b = (jax.tree.map(jnp.subtract, point, origin) for point in (a, b))
    return Plane(origin, _tree.unit(to_a), _tree.unit(_tree.reject(to_b, to_a)))


def plane_of_trajectory(trajectory: Params, /) -> Plane:
    """Plane through the last point of a trajectory that is closest to all its points.

    The directions are the first two principal components of the points relative to the last one,
    from the top eigenvectors of their Gram matrix.

    Args:
      trajectory: pytree like the parameters with a leading axis over n >= 3 points, in order.

    Returns:
      A `Plane` with orthonormal directions, so that coordinates are l2 distances. Signs are chosen
      so that the trajectory starts at positive x and y.

    Raises:
      ValueError: if there are fewer than three points.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import plane_of_trajectory
      >>> points = jnp.array([[4.0, 1.0, 0.0], [2.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
      >>> abs(float(plane_of_trajectory(points).x_direction[2]))
      0.0

    Source: Li et al. 2018, Section 7.2.
    """
    count = jax.tree.leaves(trajectory)[0].shape[0]
    if count < 3:
        msg = f"`plane_of_trajectory(trajectory)` must have at least three points, got {count}."
        raise ValueError(msg)
    origin = jax.tree.map(lambda x: x[-1], trajectory)
    steps = jax.tree.map(lambda x, last: x - last, trajectory, origin)
    with jax.default_matmul_precision("highest"):
        _, vectors = jnp.linalg.eigh(_gram(steps, steps))  # ascending
        # the first point's coordinate on a component has the sign of the first entry
        signs = jnp.where(vectors[0] < 0, -1.0, 1.0)
        x_direction, y_direction = (
            _tree.unit(
                jax.tree.map(
                    lambda x, i=i: jnp.tensordot(signs[i] * vectors[:, i], x, axes=1), steps
                )
            )
            for i in (-1, -2)
        )
    return Plane(origin, x_direction, y_direction)


def project(plane: Plane, points: Params, /) -> Projection:
    """Project points onto a plane and return their distances from it.

    Where a trajectory is far from the plane, its loss is not the loss that the contours show.

    Args:
      plane: origin and directions, not necessarily orthogonal.
      points: pytree like the parameters with a leading axis over n points.

    Returns:
      A `Projection`: coordinates (n, 2) by least squares, and distances (n,).

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import Plane, project
      >>> plane = Plane(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]), jnp.array([1.0, 2.0, 0.0]))
      >>> seen = project(plane, jnp.array([[3.0, 4.0, 5.0]]))
      >>> seen.coordinates.tolist(), seen.distances.tolist()
      ([[1.0, 2.0]], [5.0])
    """
    steps = jax.tree.map(lambda x, origin: x - origin, points, plane.origin)
    axes = jax.tree.map(lambda x, y: jnp.stack([x, y]), plane.x_direction, plane.y_direction)
    with jax.default_matmul_precision("highest"):
        coordinates = jnp.linalg.solve(_gram(axes, axes), _gram(axes, steps)).T
        left = jax.tree.map(
            lambda step, axis: step - jnp.tensordot(coordinates, axis, axes=1), steps, axes
        )
    return Projection(coordinates, jax.vmap(_tree.norm)(left))


def _gram(a: Params, b: Params) -> jax.Array:
    """Inner products of all pairs over the leading axes."""
    return jax.vmap(lambda x: jax.vmap(lambda y: _tree.inner(x, y))(b))(a)
