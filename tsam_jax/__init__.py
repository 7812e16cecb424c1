"""Tilted Sharpness-Aware Minimization (TSAM) and its family, for JAX and optax.

`tsam(base, t, rho, s)` is an optax optimizer. `methods` has every method as a gradient estimator;
`estimate_gradient` turns an estimator into an optax transformation, and `value_and_grad` into a
function like `jax.value_and_grad`.
"""

from tsam_jax import methods, noise, tilting
from tsam_jax.estimator import (
    Cost,
    EstimatorState,
    Evaluation,
    GradientEstimator,
    LastStep,
    Loss,
    value_and_grad,
)
from tsam_jax.methods import HalfPrecisionWarning
from tsam_jax.transform import estimate_gradient, sharpness_aware, tsam

__all__ = [
    "Cost",
    "EstimatorState",
    "Evaluation",
    "GradientEstimator",
    "HalfPrecisionWarning",
    "LastStep",
    "Loss",
    "estimate_gradient",
    "methods",
    "noise",
    "sharpness_aware",
    "tilting",
    "tsam",
    "value_and_grad",
]
