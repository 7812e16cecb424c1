"""Sizes of noise laws: what becomes of a law whose size is 0, a number, or a schedule."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, is_static_zero
from tsam_jax._types import NoiseLaw, Params, Scalar, ScalarOrSchedule


@dataclasses.dataclass(frozen=True)
class ScheduledLaw:
    """A noise law whose size follows a schedule.

    Attributes:
      at: step counter, shape (), int32 -> the `NoiseLaw` of that step.
    """

    at: Callable[[jax.Array], NoiseLaw]

    def __call__(self, key: jax.Array, params: Params) -> Params:
        """Refuses: which law it is depends on the step.

        Raises:
          TypeError: always.
        """
        del key, params
        msg = "this noise law follows a schedule: `law_at(law, step)` is the law of a step."
        raise TypeError(msg)


def law_at(law: NoiseLaw, step: jax.Array) -> NoiseLaw:
    """The law that holds at a step.

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


def sized(
    name: str,
    draw: Callable[[jax.Array, Params, Scalar], Params],
    radius: ScalarOrSchedule | None,
    rms: ScalarOrSchedule | None,
    *,
    radius_over_rms: Callable[[int], float],
) -> NoiseLaw:
    """Makes a law of a draw at a given radius: the one place that reads sizes."""
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
        check_nonnegative(name, finite=True, **{given: size})
        if is_static_zero(size):
            return none
        return lambda key, params: draw(key, params, size * factor(_tree.size(params)))

    return scheduled(law_of, size)


def scheduled(law_of: Callable[[Scalar], NoiseLaw], size: ScalarOrSchedule) -> NoiseLaw:
    """Makes a law of a size, step by step if that is a schedule."""
    if callable(size):
        return ScheduledLaw(lambda step: law_of(size(step)))
    return law_of(size)
