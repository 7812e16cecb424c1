"""The methods: one function each, which returns a `GradientEstimator`.

A new method is one function and its name in `METHODS`; the contract test, the command line
and the benchmark pick it up from there.
"""

from collections.abc import Callable

from tsam_jax.estimator import GradientEstimator
from tsam_jax.methods._common import StepState
from tsam_jax.methods._erm import erm
from tsam_jax.methods._sam import sam
from tsam_jax.methods._tsam import SampledState, from_paper, tilted_sampling, tsam

__all__ = [
    "METHODS",
    "SampledState",
    "StepState",
    "erm",
    "from_paper",
    "sam",
    "tilted_sampling",
    "tsam",
]

METHODS: dict[str, Callable[..., GradientEstimator]] = {
    "erm": erm,
    "sam": sam,
    "tilted_sampling": tilted_sampling,
    "tsam": tsam,
    "from_paper": from_paper,
}
"""Name -> function that makes the `GradientEstimator`."""
