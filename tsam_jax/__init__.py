"""Tilted Sharpness-Aware Minimization (TSAM) and its family, for JAX and optax.

`tsam(base, t, rho, s)` is an optax optimizer; `methods` has every method as a gradient
estimator, `estimate_gradient` turns one into an optax transformation and `value_and_grad`
into a function like `jax.value_and_grad`.
"""

from tsam_jax import methods, noise, tilting
from tsam_jax.estimator import (
    Cost,
    Evaluation,
    GradientEstimator,
    Oracle,
    make_oracle,
    value_and_grad,
)
from tsam_jax.methods import HalfPrecisionWarning
from tsam_jax.transform import EstimateGradientState, estimate_gradient, sharpness_aware, tsam

__all__ = [
    "Cost",
    "EstimateGradientState",
    "Evaluation",
    "GradientEstimator",
    "HalfPrecisionWarning",
    "Oracle",
    "estimate_gradient",
    "make_oracle",
    "methods",
    "noise",
    "sharpness_aware",
    "tilting",
    "tsam",
    "value_and_grad",
]
