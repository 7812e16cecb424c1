"""Designs: the perturbations of one step drawn together, to lower the variance."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._types import NoiseLaw, Params, Scalar
from tsam_jax.noise._laws import like
from tsam_jax.noise._sizes import ScheduledLaw, none


@dataclasses.dataclass(frozen=True)
class Design:
    """How the perturbations of one step are drawn together.

    Attributes:
      draw: (key of the step, sample j, number of samples s, params) -> the perturbation of
        sample j, like `params`. j counts from 0, and may be traced; s is known before tracing.
    """

    draw: Callable[[jax.Array, Scalar, int, Params], Params]

    def __call__(self, key: jax.Array, params: Params) -> Params:
        """Refuses: a perturbation depends on which sample it is for.

        Raises:
          TypeError: always.
        """
        del key, params
        msg = "this is a design: `design.draw(key, j, s, params)` is the perturbation of sample j."
        raise TypeError(msg)


def antithetic(law: NoiseLaw) -> NoiseLaw:
    r"""Pairs of opposite perturbations: samples 2i and 2i + 1 get $\epsilon_i$ and $-\epsilon_i$.

    What is odd in the perturbation cancels from a plain mean: with t = 0 and no ascent that is
    all of the variance on a quadratic loss, and its leading part, of order ||eps||^2, on any
    smooth one. A tilt brings it back in proportion to the tilt: of a pair the larger loss
    counts. Pair i draws with `jax.random.split(key of the step, ceil(s / 2))[i]`; if s is odd the
    last sample has no partner. Nothing has to be kept, so strategy "streamed" stays in the memory
    of one sample, and draws twice.

    Args:
      law: a law that is symmetric, as all in this module are, so that the law of every sample is
        unchanged; or a scheduled one, or `orthogonal` of one, for orthogonal pairs.

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
    r"""Perturbations at right angles to each other, in sets of up to d samples.

    The perturbations that `law` gives are made orthogonal by Gram-Schmidt, set by set, and get
    their lengths back. For a law that is isotropic (`sphere`, `ball`, `gaussian`) every sample
    keeps that law: directions become a random frame, whose vectors are uniform each, and lengths
    are independent of them. Sample j starts from the draw that it has without the design.

    Independent directions are uncorrelated already, so alone this does next to nothing: what it
    evens out is quadratic in the perturbation, and a frame of d gives the mean of a quadratic form
    exactly. Take it with pairs, `antithetic(orthogonal(law))`, which cancel what is odd. In d
    dimensions s independent draws are nearly orthogonal, up to $\sqrt{s / d}$: this is for few
    parameters, or a mask that leaves few.

    Args:
      law: an isotropic law, or a scheduled one. (`filter_scaled` is none: its samples would no
        longer have its law.)

    Returns:
      A `Design`; a `ScheduledLaw` of designs if `law` is scheduled; `none` if it is `none`.

    Raises:
      TypeError: if `law` is not a function, or a `Design`.

    Cost: none in gradient evaluations; the normal draws of the set and 4 min(s, d) d multiply-adds
    a vector of it. The whole set is needed for every sample: memory is that of min(s, d) + 1
    perturbations under every strategy, and if s > d, or with strategy "streamed", it may be drawn
    anew for every sample.

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
            f"`orthogonal(law=...)` must be a law, got {law!r}. Pairs of orthogonal directions are"
        )
        msg += " `antithetic(orthogonal(law))`."
        raise TypeError(msg)

    def draw(law: NoiseLaw, key: jax.Array, j: Scalar, s: int, params: Params) -> Params:
        if not jax.tree.leaves(params):
            return params
        size = max(1, min(s, _tree.size(params)))
        start: Scalar = 0 if size == s else jnp.asarray(j) // size * size
        members = jnp.minimum(start + jnp.arange(size), s - 1)  # the last set may be incomplete
        wide = jax.tree.map(lambda x: x.astype(_tree.wide_dtype(x)), params)
        eps = jax.vmap(law, in_axes=(0, None))(jax.random.split(key, s)[members], wide)
        own = jax.tree.map(lambda x: x[j - start], eps)
        direction = jax.tree.map(lambda x: x[j - start], _gram_schmidt(eps))
        return like(params, _tree.scale(direction, _tree.norm(own)))

    return _designed("orthogonal", draw, law)


def _designed(name: str, draw: Callable[..., Params], law: NoiseLaw) -> NoiseLaw:
    """Makes a design of a law, step by step if that is scheduled."""
    if not callable(law):
        msg = f"`{name}(law=...)` must be a law of `tsam_jax.noise` or a function (key, params)"
        msg += f" -> perturbation, got {law!r}."
        raise TypeError(msg)
    if law is none:
        return none
    if isinstance(law, ScheduledLaw):
        return ScheduledLaw(lambda step: _designed(name, draw, law.at(step)))
    return Design(functools.partial(draw, law))


def _gram_schmidt(vectors: Params) -> Params:
    """Makes the vectors along the leading axis of the leaves orthonormal, in their order."""

    def dots(q: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(jnp.real(jnp.conj(q) * v[None]), axis=tuple(range(1, q.ndim)))

    def project(frame: Params, vector: Params) -> Params:
        products = sum(jax.tree.leaves(jax.tree.map(dots, frame, vector)))
        return jax.tree.map(lambda q, v: v - jnp.tensordot(products, q, 1), frame, vector)

    def add(frame: Params, k: jax.Array) -> tuple[Params, None]:
        vector = _tree.unit(jax.tree.map(lambda x: x[k], vectors))
        # twice, since rounding spoils the angles where the first projection leaves little
        vector = _tree.unit(project(frame, _tree.unit(project(frame, vector))))
        return jax.tree.map(lambda q, v: q.at[k].set(v), frame, vector), None

    count = jax.tree.leaves(vectors)[0].shape[0]
    frame, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, vectors), jnp.arange(count))
    return frame
