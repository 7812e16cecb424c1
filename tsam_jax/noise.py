r"""Noise laws: `(key, params) -> perturbation` with the structure and dtypes of `params`.

A law is any function with that signature. The laws here are isotropic (`sphere`, `ball`,
`gaussian`) or follow the scale of the weights (`filter_scaled`, `leaf_scaled`).

Isotropic laws take their size either as a `radius`, an l2 norm over all d coordinates together, or
as `rms`, the root mean square per coordinate, sqrt(E||eps||^2 / d). The effect of a radius depends
on the number of parameters: 20 is 0.006 per coordinate for 11 million parameters, and destroys a
network of 100 thousand. Prefer `rms`, which transfers between networks.

A size may be a number, a traced scalar, or an optax schedule on the step counter. A schedule gives
a `ScheduledLaw`. The Python or NumPy number 0 gives the law `none`, for which methods skip the
draws.

Under a law, the samples of a step are independent. A `Design` makes them depend on each other to
lower the variance of their average, without changing the law of each sample. `antithetic` and
`orthogonal` turn a law into a design. Methods accept a design wherever they accept `noise`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _tree
from tsam_jax._checks import NoiseLaw, Params, PyTree, Scalar, ScalarOrSchedule
from tsam_jax._threefry import normal, normal_and_norm

__all__ = [
    "Design",
    "ScheduledLaw",
    "antithetic",
    "ball",
    "filter_scaled",
    "gaussian",
    "law_at",
    "leaf_scaled",
    "none",
    "orthogonal",
    "sphere",
]


def none(key: jax.Array, params: Params) -> Params:
    """No noise: every sample starts at the parameters themselves.

    Args:
      key: ignored.
      params: a pytree of arrays.

    Returns:
      Zeros like `params`.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.noise import sphere
      >>> none(jax.random.key(0), jnp.ones(2)).tolist()
      [0.0, 0.0]
      >>> sphere(radius=0.0) is none
      True
    """
    del key
    return jax.tree.map(jnp.zeros_like, params)


def sphere(
    radius: ScalarOrSchedule | None = None, *, rms: ScalarOrSchedule | None = None
) -> NoiseLaw:
    r"""Uniform noise on the sphere of the given radius.

    $\epsilon = r z / \lVert z \rVert$, $z \sim N(0, I)$, with one norm over all leaves. The
    paper's experiments used this law: for r far below $\sqrt d$, both the clipped Gaussian and the
    "uniform" noise of the official code reduce to it.

    Args:
      radius: l2 norm of the perturbation, >= 0; a number, a traced scalar, or a schedule.
      rms: size per coordinate, instead of `radius`: $r = \mathrm{rms} \sqrt d$.

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
        return _tree.like(_tree.scale(z, jnp.asarray(radius, norm.dtype) / norm), params)

    return _sized("sphere", draw, radius, rms, radius_over_rms=math.sqrt)


def ball(
    radius: ScalarOrSchedule | None = None, *, rms: ScalarOrSchedule | None = None
) -> NoiseLaw:
    r"""Uniform noise in the ball of the given radius.

    $\epsilon = r U^{1/d} z / \lVert z \rVert$, $z \sim N(0, I)$, U uniform on (0, 1).

    Args:
      radius: radius of the ball, l2, >= 0; a number, a traced scalar, or a schedule.
      rms: root mean square per coordinate of the draws, instead of `radius`:
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
    Deviation from the official code: d is the number of coordinates. The code uses the constant
    1e8, which puts its "uniform" noise on the sphere.
    """

    def draw(key: jax.Array, params: Params, radius: Scalar) -> Params:
        key_direction, key_length = jax.random.split(key)
        z, norm = normal_and_norm(key_direction, params)
        u = jax.random.uniform(key_length, dtype=norm.dtype) ** (1 / max(_tree.size(params), 1))
        return _tree.like(_tree.scale(z, jnp.asarray(radius, norm.dtype) * u / norm), params)

    return _sized("ball", draw, radius, rms, radius_over_rms=lambda d: math.sqrt(d + 2))


def gaussian(
    radius: ScalarOrSchedule | None = None,
    *,
    rms: ScalarOrSchedule | None = None,
    clip: Scalar | None = None,
) -> NoiseLaw:
    r"""Isotropic Gaussian noise, optionally projected into a ball.

    $\epsilon = \sigma z$, $z \sim N(0, I)$; with `clip`, $\epsilon \min(1, c / \lVert \epsilon
    \rVert)$.

    Args:
      radius: root mean square of the norm before clipping, $\sigma = r / \sqrt d$, >= 0; a
        number, a traced scalar, or a schedule.
      rms: standard deviation sigma of each coordinate, instead of `radius`.
      clip: largest l2 norm, > 0; longer draws are rescaled to it. Default: no clipping.

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
        _checks.nonnegative("gaussian", clip=clip)

    def draw(key: jax.Array, params: Params, radius: Scalar) -> Params:
        z, norm = normal_and_norm(key, params)
        sigma = jnp.asarray(radius, norm.dtype) / math.sqrt(max(_tree.size(params), 1))
        if clip is not None:
            norm = jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
            sigma = jnp.minimum(sigma, jnp.asarray(clip, norm.dtype) / norm)
        return _tree.like(_tree.scale(z, sigma), params)

    return _sized("gaussian", draw, radius, rms, radius_over_rms=math.sqrt)


def filter_scaled(gamma: ScalarOrSchedule, *, filter_axis: int | tuple[int, ...] = -1) -> NoiseLaw:
    r"""Gaussian noise proportional to the norm of each filter of the weights.

    $\epsilon_f = \gamma \lVert w_f \rVert z_f$, $z \sim N(0, I)$, for each filter f: a slice of
    a leaf along `filter_axis`. A leaf with fewer than two axes (bias, scale) is one filter.

    `nnx.scan` and `linen.scan` stack the parameters of layers along an extra axis. Count it as a
    filter axis: `filter_axis=(0, -1)`. If only some parameters are stacked, apply `jax.vmap(law)`
    to those, with a key for each layer.

    Args:
      gamma: size relative to the norm of the filter, >= 0; a number, a traced scalar, or a
        schedule.
      filter_axis: axis that indexes filters. Default: -1, the output channels of flax kernels. A
        tuple gives several axes; the last is dropped for a leaf without any other axis.

    Returns:
      A law, or a `ScheduledLaw` if `gamma` is a schedule, or `none` if it is 0.

    Raises:
      TypeError: if `filter_axis` is neither an integer nor a tuple of integers.
      ValueError: if `gamma` is negative or not finite; when the law is called, if a leaf lacks a
        `filter_axis`.

    Cost: none in gradient evaluations; d normal draws.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel = jnp.ones((3, 2)).at[:, 1].set(0.0)
      >>> filter_scaled(0.1)(jax.random.key(0), kernel)[:, 1].any().item()
      False

    Source: Liu et al., "Random Sharpness-Aware Minimization", NeurIPS 2022: N(0, gamma^2
    diag(||w_filter||^2)). It does not say how to treat biases; we treat each as one filter.
    """
    axes = filter_axis if isinstance(filter_axis, tuple) else (filter_axis,)
    if not axes or not all(type(axis) is int for axis in axes):
        msg = f"`filter_scaled(filter_axis=...)` must be integers, got {filter_axis!r}."
        raise TypeError(msg)

    def law_of(gamma: Scalar) -> NoiseLaw:
        _checks.nonnegative("filter_scaled", gamma=gamma)
        if _checks.is_static_zero(gamma):
            return none

        def scaled(z: jax.Array, w: jax.Array) -> jax.Array:
            norms = _tree.filter_norms(w, axes).astype(z.dtype)
            return jnp.asarray(gamma, z.dtype) * norms * z

        return lambda key, params: _tree.like(
            jax.tree.map(scaled, normal(key, params), params), params
        )

    return _scheduled(law_of, gamma)


def leaf_scaled(gamma: ScalarOrSchedule) -> NoiseLaw:
    r"""Noise with a length proportional to the norm of each leaf.

    $\epsilon_p = \gamma \lVert w_p \rVert z_p / \lVert z_p \rVert$, $z \sim N(0, I)$, for each
    leaf p: uniform on a separate sphere for each leaf.

    Args:
      gamma: length relative to the norm of the leaf, >= 0; a number, a traced scalar, or a
        schedule. (In `filter_scaled`, gamma is a size per coordinate.)

    Returns:
      A law, or a `ScheduledLaw` if `gamma` is a schedule, or `none` if it is 0.

    Raises:
      ValueError: if `gamma` is negative or not finite.

    Cost: none in gradient evaluations; d normal draws.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> eps = leaf_scaled(0.1)(jax.random.key(0), {"w": jnp.full(4, 3.0), "b": jnp.zeros(2)})
      >>> round(float(jnp.linalg.norm(eps["w"])), 4), float(jnp.linalg.norm(eps["b"]))
      (0.6, 0.0)

    Source: a third-party implementation of R-SAM (Liu et al. 2022).
    """

    def law_of(gamma: Scalar) -> NoiseLaw:
        _checks.nonnegative("leaf_scaled", gamma=gamma)
        if _checks.is_static_zero(gamma):
            return none

        def scaled(z: jax.Array, w: jax.Array) -> PyTree:
            norm = _tree.norm(w)
            return _tree.scale(_tree.unit(z), jnp.asarray(gamma, norm.dtype) * norm)

        return lambda key, params: _tree.like(
            jax.tree.map(scaled, normal(key, params), params), params
        )

    return _scheduled(law_of, gamma)


@dataclasses.dataclass(frozen=True)
class ScheduledLaw:
    """A noise law whose size follows a schedule.

    Attributes:
      at: step counter, shape (), int32 -> the `NoiseLaw` of that step.
    """

    at: Callable[[jax.Array], NoiseLaw]

    def __call__(self, key: jax.Array, params: Params) -> Params:
        """Raises TypeError, since the law depends on the step.

        Raises:
          TypeError: always.
        """
        del key, params
        msg = "This noise law follows a schedule. Get the law of a step with `law_at(law, step)`."
        raise TypeError(msg)


def law_at(law: NoiseLaw, step: jax.Array) -> NoiseLaw:
    """Return the noise law at a step.

    Args:
      law: a noise law, scheduled or not.
      step: the step counter, shape (), int32.

    Returns:
      A function `(key, params) -> perturbation`.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from tsam_jax.noise import sphere
      >>> law = sphere(radius=optax.linear_schedule(0.0, 1.0, transition_steps=10))
      >>> eps = law_at(law, 5)(jax.random.key(0), jnp.zeros(4))
      >>> round(float(jnp.linalg.norm(eps)), 4)
      0.5
    """
    return law.at(step) if isinstance(law, ScheduledLaw) else law


@dataclasses.dataclass(frozen=True)
class Design:
    """Joint law of the perturbations of one step.

    Attributes:
      draw: (key of the step, sample j, number of samples s, params) -> the perturbation of
        sample j, like `params`. j counts from 0 and may be traced; s is known before tracing.
    """

    draw: Callable[[jax.Array, Scalar, int, Params], Params]

    def __call__(self, key: jax.Array, params: Params) -> Params:
        """Raises TypeError, since a perturbation depends on the sample.

        Raises:
          TypeError: always.
        """
        del key, params
        msg = "This is a design. Draw sample j of s with `design.draw(key, j, s, params)`."
        raise TypeError(msg)


def antithetic(law: NoiseLaw) -> NoiseLaw:
    r"""Pairs of opposite perturbations: samples 2i and 2i + 1 use $\epsilon_i$ and $-\epsilon_i$.

    Terms odd in the perturbation cancel from a plain mean. With t = 0 and no ascent, these are all
    of the variance on a quadratic loss, and its leading part, of order ||eps||^2, on any smooth
    loss. A tilt reintroduces them in proportion to t, because it favours the larger loss of a pair.

    Pair i draws with `jax.random.split(key of the step, ceil(s / 2))[i]`; if s is odd, the last
    sample has no partner. No draws are stored: strategy "streamed" needs the memory of one sample
    and draws each perturbation twice.

    Args:
      law: a symmetric law, as all in this module are, so that every sample keeps its law; a
        scheduled law; or `orthogonal(law)`, for orthogonal pairs.

    Returns:
      A `Design`; a `ScheduledLaw` of designs if `law` is scheduled; `none` if it is `none`.

    Raises:
      TypeError: if `law` is not a function.

    Cost: none in gradient evaluations; as many draws as `law` for every sample.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.noise import gaussian
      >>> design, key = antithetic(gaussian(rms=1.0)), jax.random.key(0)
      >>> a, b = (design.draw(key, j, 2, jnp.zeros(3)) for j in (0, 1))
      >>> (a + b).tolist()
      [0.0, 0.0, 0.0]

    Source: antithetic variates, Hammersley and Morton 1956; not in the paper.
    """

    def draw(law: NoiseLaw, key: jax.Array, j: Scalar, s: int, params: Params) -> Params:
        sign = jnp.where(jnp.asarray(j) % 2 == 0, 1.0, -1.0)
        pair, pairs = jnp.asarray(j) // 2, (s + 1) // 2
        if isinstance(law, Design):
            return _tree.scale(law.draw(key, pair, pairs, params), sign)
        return _tree.scale(law(jax.random.split(key, pairs)[pair], params), sign)

    return _designed("antithetic", draw, law)


def orthogonal(law: NoiseLaw) -> NoiseLaw:
    r"""Mutually orthogonal perturbations, in sets of up to d samples.

    Gram-Schmidt makes the draws of `law` orthogonal, set by set, and keeps their lengths. Under an
    isotropic law (`sphere`, `ball`, `gaussian`) every sample keeps its law: the directions become a
    random frame of individually uniform vectors, independent of the lengths. Sample j starts from
    the draw it would have without the design.

    Independent directions are already uncorrelated, so this changes little on its own. It reduces
    the variance of terms quadratic in the perturbation; a frame of d directions gives the mean of a
    quadratic form exactly. Combine it with pairs, which cancel odd terms:
    `antithetic(orthogonal(law))`. In d dimensions, s independent draws are orthogonal up to
    $\sqrt{s / d}$, so use this for few parameters or a mask that leaves few.

    Args:
      law: an isotropic law, or a scheduled one. (Not `filter_scaled`: its samples would not keep
        their law.)

    Returns:
      A `Design`; a `ScheduledLaw` of designs if `law` is scheduled; `none` if it is `none`.

    Raises:
      TypeError: if `law` is not a function, or a `Design`.

    Cost: none in gradient evaluations; the normal draws of the set, and 4 min(s, d) d multiply-adds
    per vector. Each sample needs the whole set: memory is that of min(s, d) + 1 perturbations under
    every strategy. With s > d, or with strategy "streamed", every sample may draw the set again.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.noise import sphere
      >>> design, key = orthogonal(sphere(radius=2.0)), jax.random.key(0)
      >>> eps = jnp.stack([design.draw(key, j, 3, jnp.zeros(3)) for j in range(3)])
      >>> bool(jnp.allclose(eps @ eps.T, 4 * jnp.eye(3), atol=1e-5))
      True

    Source: Yu et al., "Orthogonal Random Features", NeurIPS 2016; not in the paper.
    """
    if isinstance(law, Design):
        msg = (
            f"`orthogonal(law=...)` must be a law, got {law!r}. For pairs of orthogonal directions,"
            " use `antithetic(orthogonal(law))`."
        )
        raise TypeError(msg)

    def draw(law: NoiseLaw, key: jax.Array, j: Scalar, s: int, params: Params) -> Params:
        if not jax.tree.leaves(params):
            return params
        size = max(1, min(s, _tree.size(params)))
        start: Scalar = 0 if size == s else jnp.asarray(j) // size * size
        members = jnp.minimum(start + jnp.arange(size), s - 1)  # the last set may be incomplete
        wide = _tree.widened(params)
        eps = jax.vmap(law, in_axes=(0, None))(jax.random.split(key, s)[members], wide)
        own = jax.tree.map(lambda x: x[j - start], eps)
        direction = jax.tree.map(lambda x: x[j - start], _gram_schmidt(eps))
        return _tree.like(_tree.scale(direction, _tree.norm(own)), params)

    return _designed("orthogonal", draw, law)


def drawer(
    law: NoiseLaw, step: jax.Array, key: jax.Array, s: int
) -> Callable[[Scalar, Params], Params]:
    """Returns a function (sample j, params) -> perturbation, for one step."""
    law = law_at(law, step)
    if isinstance(law, Design):
        return lambda j, params: law.draw(key, j, s, params)
    keys = jax.random.split(key, s)
    return lambda j, params: law(keys[j], params)


def _sized(
    name: str,
    draw: Callable[[jax.Array, Params, Scalar], Params],
    radius: ScalarOrSchedule | None,
    rms: ScalarOrSchedule | None,
    *,
    radius_over_rms: Callable[[int], float],
) -> NoiseLaw:
    """Makes a law from a draw at a given radius. Only this function reads sizes."""
    size: ScalarOrSchedule
    factor: Callable[[int], float]
    if radius is not None and rms is None:
        given, size, factor = "radius", radius, lambda _: 1.0
    elif rms is not None and radius is None:
        given, size, factor = "rms", rms, radius_over_rms
    else:
        msg = f"`{name}` needs exactly one of `radius` and `rms`, got {radius=}, {rms=}."
        raise ValueError(msg)

    def law_of(size: Scalar) -> NoiseLaw:
        _checks.nonnegative(name, finite=True, **{given: size})
        if _checks.is_static_zero(size):
            return none
        return lambda key, params: draw(key, params, size * factor(_tree.size(params)))

    return _scheduled(law_of, size)


def _scheduled(law_of: Callable[[Scalar], NoiseLaw], size: ScalarOrSchedule) -> NoiseLaw:
    """Makes a law from a size; a `ScheduledLaw` if that is a schedule."""
    if callable(size):
        return ScheduledLaw(lambda step: law_of(size(step)))
    return law_of(size)


def _designed(name: str, draw: Callable[..., Params], law: NoiseLaw) -> NoiseLaw:
    """Makes a design from a law; a `ScheduledLaw` of designs if that is scheduled."""
    if not callable(law):
        msg = f"`{name}(law=...)` must be a law of `tsam_jax.noise` or a function (key, params)"
        msg += f" -> perturbation, got {law!r}."
        raise TypeError(msg)
    if law is none:
        return none
    if isinstance(law, ScheduledLaw):
        return ScheduledLaw(lambda step: _designed(name, draw, law.at(step)))
    return Design(functools.partial(draw, law))


@jax.jit  # compiles the loop once, even if the user does not use `jit`
def _gram_schmidt(vectors: Params) -> Params:
    """Orthonormalises the vectors along the leading axis of the leaves, in order."""

    def dots(q: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(jnp.real(jnp.conj(q) * v[None]), axis=tuple(range(1, q.ndim)))

    def project(frame: Params, vector: Params) -> Params:
        products = sum(jax.tree.leaves(jax.tree.map(dots, frame, vector)))
        return jax.tree.map(lambda q, v: v - jnp.tensordot(products, q, 1), frame, vector)

    def add(frame: Params, k: jax.Array) -> tuple[Params, None]:
        vector = _tree.unit(jax.tree.map(lambda x: x[k], vectors))
        # twice: rounding spoils the angles if the first projection leaves little
        vector = _tree.unit(project(frame, _tree.unit(project(frame, vector))))
        return jax.tree.map(lambda q, v: q.at[k].set(v), frame, vector), None

    count = jax.tree.leaves(vectors)[0].shape[0]
    frame, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, vectors), jnp.arange(count))
    return frame
