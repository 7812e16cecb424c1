"""The noise laws: isotropic, or after the scale of the weights."""

import math

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, is_static_zero
from tsam_jax._types import NoiseLaw, Params, PyTree, Scalar, ScalarOrSchedule
from tsam_jax.noise._normals import normal, normal_and_norm
from tsam_jax.noise._sizes import none, scheduled, sized


def sphere(
    radius: ScalarOrSchedule | None = None, *, rms: ScalarOrSchedule | None = None
) -> NoiseLaw:
    r"""Uniform on the sphere of the given radius.

    $\epsilon = r z / \lVert z \rVert$, $z \sim N(0, I)$, with one norm over all leaves. It is
    what the paper's experiments ran: with r far below $\sqrt d$ the official code's clipped
    Gaussian and its "uniform" noise are both this law.

    Args:
      radius: l2 norm of the perturbation, >= 0; a number, a traced scalar, or a schedule.
      rms: instead of `radius`, its size per coordinate: $r = \mathrm{rms} \sqrt d$.

    Returns:
      A law, or a `ScheduledLaw` if the size is a schedule, or `none` if it is 0.

    Raises:
      ValueError: if not exactly one size is given, or it is negative or not finite.

    Cost: none in gradient evaluations; d normal draws.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> eps = sphere(radius=3.0)(jax.random.key(0), {"w": jnp.zeros((4, 5))})
      >>> round(float(jnp.linalg.norm(eps["w"])), 4)
      3.0

    Source: Li et al. 2025, Algorithm 3, line 2.
    """

    def draw(key: jax.Array, params: Params, radius: Scalar) -> Params:
        z, norm = normal_and_norm(key, params)
        return like(params, _tree.scale(z, radius / norm))

    return sized("sphere", draw, radius, rms, radius_over_rms=math.sqrt)


def ball(
    radius: ScalarOrSchedule | None = None, *, rms: ScalarOrSchedule | None = None
) -> NoiseLaw:
    r"""Uniform in the ball of the given radius.

    $\epsilon = r U^{1/d} z / \lVert z \rVert$, $z \sim N(0, I)$, U uniform on (0, 1).

    Args:
      radius: radius of the ball, l2, >= 0; a number, a traced scalar, or a schedule.
      rms: instead of `radius`, the root mean square per coordinate of the draws:
        $r = \mathrm{rms} \sqrt{d + 2}$.

    Returns:
      A law, or a `ScheduledLaw` if the size is a schedule, or `none` if it is 0.

    Raises:
      ValueError: if not exactly one size is given, or it is negative or not finite.

    Cost: none in gradient evaluations; d normal draws.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> eps = ball(radius=3.0)(jax.random.key(0), jnp.zeros(2))
      >>> bool(jnp.linalg.norm(eps) < 3.0)
      True

    Source: Li et al. 2025, Algorithm 3 (the law is uniform over ||eps|| <= rho).
    Deviation from the official code: its d is the constant 1e8, so its "uniform" noise lies
    on the sphere; here d is the number of coordinates.
    """

    def draw(key: jax.Array, params: Params, radius: Scalar) -> Params:
        key_direction, key_length = jax.random.split(key)
        z, norm = normal_and_norm(key_direction, params)
        u = jax.random.uniform(key_length, dtype=norm.dtype) ** (1 / max(_tree.size(params), 1))
        return like(params, _tree.scale(z, radius * u / norm))

    return sized("ball", draw, radius, rms, radius_over_rms=lambda d: math.sqrt(d + 2))


def gaussian(
    radius: ScalarOrSchedule | None = None,
    *,
    rms: ScalarOrSchedule | None = None,
    clip: Scalar | None = None,
) -> NoiseLaw:
    r"""Isotropic Gaussian, optionally projected into a ball.

    $\epsilon = \sigma z$, $z \sim N(0, I)$; with `clip`, $\epsilon \min(1, c / \lVert \epsilon
    \rVert)$.

    Args:
      radius: root mean square of the norm before clipping, $\sigma = r / \sqrt d$, >= 0; a
        number, a traced scalar, or a schedule.
      rms: instead of `radius`, the standard deviation sigma of each coordinate.
      clip: largest l2 norm, > 0; longer draws are rescaled to it. None for no clipping.

    Returns:
      A law, or a `ScheduledLaw` if the size is a schedule, or `none` if it is 0.

    Raises:
      ValueError: if not exactly one size is given, or a number is negative or not finite.

    Cost: none in gradient evaluations; d normal draws.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> law = gaussian(rms=1.0, clip=2.0)  # the official --scaling 1 --radius 2
      >>> round(float(jnp.linalg.norm(law(jax.random.key(0), jnp.zeros(100)))), 4)
      2.0

    Source: the official code's `--epsilon gaussian` (`--scaling` is rms, `--radius` is clip).
    """
    if clip is not None:
        check_nonnegative("gaussian", clip=clip)

    def draw(key: jax.Array, params: Params, radius: Scalar) -> Params:
        z, norm = normal_and_norm(key, params)
        sigma = radius / math.sqrt(max(_tree.size(params), 1))
        if clip is not None:
            norm = jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)
            sigma = jnp.minimum(sigma, clip / norm)
        return like(params, _tree.scale(z, sigma))

    return sized("gaussian", draw, radius, rms, radius_over_rms=math.sqrt)


def filter_scaled(gamma: ScalarOrSchedule, *, filter_axis: int = -1) -> NoiseLaw:
    r"""Gaussian noise in proportion to the norm of each filter of the weights.

    $\epsilon_f = \gamma \lVert w_f \rVert z_f$, $z \sim N(0, I)$, for each filter f: a slice of
    a leaf along `filter_axis`. A leaf with fewer than two axes (bias, scale) is one filter.

    Args:
      gamma: size relative to the norm of the filter, >= 0; a number, a traced scalar, or a
        schedule.
      filter_axis: the axis that counts filters; -1, the output channels of flax kernels.

    Returns:
      A law, or a `ScheduledLaw` if `gamma` is a schedule, or `none` if it is 0.

    Raises:
      ValueError: if `gamma` is a negative number or not finite.

    Cost: none in gradient evaluations; d normal draws.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel = jnp.ones((3, 2)).at[:, 1].set(0.0)
      >>> filter_scaled(0.1)(jax.random.key(0), kernel)[:, 1].any().item()
      False

    Source: Liu et al., "Random Sharpness-Aware Minimization", NeurIPS 2022: N(0, gamma^2
    diag(||w_filter||^2)). What becomes of biases is our choice.
    """

    def law_of(gamma: Scalar) -> NoiseLaw:
        check_nonnegative("filter_scaled", gamma=gamma)
        if is_static_zero(gamma):
            return none

        def scaled(z: jax.Array, w: jax.Array) -> jax.Array:
            axis = filter_axis % w.ndim if w.ndim > 1 else None
            others = tuple(i for i in range(w.ndim) if i != axis)
            sizes = jnp.abs(w).astype(_tree.accumulator_dtype(w))
            norms = jnp.sqrt(jnp.sum(jnp.square(sizes), axis=others, keepdims=True))
            return jnp.asarray(gamma, z.dtype) * norms.astype(z.dtype) * z

        return lambda key, params: like(params, jax.tree.map(scaled, normal(key, params), params))

    return scheduled(law_of, gamma)


def leaf_scaled(gamma: ScalarOrSchedule) -> NoiseLaw:
    r"""Noise of a length in proportion to the norm of each leaf.

    $\epsilon_p = \gamma \lVert w_p \rVert z_p / \lVert z_p \rVert$, $z \sim N(0, I)$, for each
    leaf p: uniform on a sphere of its own.

    Args:
      gamma: length relative to the norm of the leaf, >= 0; a number, a traced scalar, or a
        schedule. `filter_scaled` counts otherwise: there it is per coordinate.

    Returns:
      A law, or a `ScheduledLaw` if `gamma` is a schedule, or `none` if it is 0.

    Raises:
      ValueError: if `gamma` is a negative number or not finite.

    Cost: none in gradient evaluations; d normal draws.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> eps = leaf_scaled(0.1)(jax.random.key(0), {"w": jnp.full(4, 3.0), "b": jnp.zeros(2)})
      >>> round(float(jnp.linalg.norm(eps["w"])), 4), float(jnp.linalg.norm(eps["b"]))
      (0.6, 0.0)

    Source: a third-party implementation of R-SAM (Liu et al. 2022), which has it so.
    """

    def law_of(gamma: Scalar) -> NoiseLaw:
        check_nonnegative("leaf_scaled", gamma=gamma)
        if is_static_zero(gamma):
            return none

        def scaled(z: jax.Array, w: jax.Array) -> PyTree:
            norm = _tree.norm(w)
            return _tree.scale(_tree.unit(z), jnp.asarray(gamma, norm.dtype) * norm)

        return lambda key, params: like(params, jax.tree.map(scaled, normal(key, params), params))

    return scheduled(law_of, gamma)


def like(params: Params, tree: Params) -> Params:
    """The tree in the dtypes of `params`."""
    return jax.tree.map(lambda p, x: x.astype(p.dtype), params, tree)
