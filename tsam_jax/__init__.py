"""Tilted Sharpness-Aware Minimization (TSAM) and related methods for JAX and optax.

`tsam(base, t, rho, s)` is an optax optimizer. `methods` contains all methods as gradient
estimators. `estimate_gradient` turns an estimator into an optax transformation, `value_and_grad`
into a function like `jax.value_and_grad`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

__version__ = "0.1.0"

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

_MODULES = ("methods", "noise", "tilting", "estimator", "transform")


def __getattr__(name: str) -> Any:
    """Imports public names on first use, so that `tsam-jax --help` does not load jax."""
    if name in _MODULES:
        return importlib.import_module(f"tsam_jax.{name}")
    for module in ("estimator", "transform", "methods") if name in __all__ else ():
        loaded = importlib.import_module(f"tsam_jax.{module}")
        if name in vars(loaded):
            globals()[name] = vars(loaded)[name]
            return globals()[name]
    msg = f"module `tsam_jax` has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
