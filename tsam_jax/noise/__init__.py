r"""Noise laws: `(key, params) -> perturbation` with the structure and dtypes of `params`.

A law is any function of that signature; those made here are isotropic (`sphere`, `ball`,
`gaussian`) or follow the scale of the weights (`filter_scaled`, `leaf_scaled`). The isotropic
ones take their size either as a `radius`, an l2 norm over all d coordinates together, or as `rms`,
the root mean square per coordinate, sqrt(E||eps||^2 / d). A radius means something else in
every network (20 is 0.006 per coordinate for 11 million parameters, and destroys a network
of 100 thousand); `rms` is the portable knob.

A size may be a number, a traced scalar, or an optax schedule on the step counter of the
method that uses the law; a schedule makes a `ScheduledLaw`. A size of 0 that is known
before tracing makes the law `none`, which methods recognise and do not pay for.

The samples of a step are independent under a law. A `Design` lets them depend on each other, to
lower the variance of what is averaged over them, and leaves the law of each alone: `antithetic`
and `orthogonal` make one of a law. It stands wherever a method takes `noise`.
"""

from tsam_jax.noise._designs import Design, antithetic, orthogonal
from tsam_jax.noise._laws import ball, filter_scaled, gaussian, leaf_scaled, sphere
from tsam_jax.noise._sizes import ScheduledLaw, law_at, none

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
