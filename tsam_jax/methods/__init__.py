"""The methods: one function each, which returns a `GradientEstimator`.

A new method is one function and its name in `METHODS`; the contract test, the command line
and the benchmark pick it up from there. What is made of an estimator stands in `WRAPPERS`.
"""

from collections.abc import Callable

from tsam_jax.estimator import GradientEstimator
from tsam_jax.methods._asam import asam
from tsam_jax.methods._averages import AverageState
from tsam_jax.methods._common import HalfPrecisionWarning, StepState
from tsam_jax.methods._erm import erm
from tsam_jax.methods._esam2 import RayState, esam2
from tsam_jax.methods._from_paper import from_paper
from tsam_jax.methods._fsam import fsam
from tsam_jax.methods._gsam import gsam, rho_from_lr
from tsam_jax.methods._hmc import ChainState, tsam_hmc
from tsam_jax.methods._looksam import LookState, looksam
from tsam_jax.methods._m_sam import m_sam, per_device
from tsam_jax.methods._microbatched import microbatched
from tsam_jax.methods._pgn import pgn, wsam
from tsam_jax.methods._rsam import RandomState, rsam
from tsam_jax.methods._sam import sam
from tsam_jax.methods._sampled import AutoTiltedState, SampledState
from tsam_jax.methods._tsam import tilted_sampling, tsam
from tsam_jax.methods._vasso import vasso
from tsam_jax.methods._xsam import InterpolationState, xsam

__all__ = [
    "METHODS",
    "WRAPPERS",
    "AutoTiltedState",
    "AverageState",
    "ChainState",
    "HalfPrecisionWarning",
    "InterpolationState",
    "LookState",
    "RandomState",
    "RayState",
    "SampledState",
    "StepState",
    "asam",
    "erm",
    "esam2",
    "from_paper",
    "fsam",
    "gsam",
    "looksam",
    "m_sam",
    "microbatched",
    "per_device",
    "pgn",
    "rho_from_lr",
    "rsam",
    "sam",
    "tilted_sampling",
    "tsam",
    "tsam_hmc",
    "vasso",
    "wsam",
    "xsam",
]

METHODS: dict[str, Callable[..., GradientEstimator]] = {
    "erm": erm,
    "sam": sam,
    "asam": asam,
    "esam2": esam2,
    "pgn": pgn,
    "wsam": wsam,
    "gsam": gsam,
    "looksam": looksam,
    "tilted_sampling": tilted_sampling,
    "tsam": tsam,
    "from_paper": from_paper,
    "tsam_hmc": tsam_hmc,
    "vasso": vasso,
    "fsam": fsam,
    "xsam": xsam,
    "rsam": rsam,
}
"""Name -> function that makes the `GradientEstimator`."""

WRAPPERS: dict[str, Callable[..., GradientEstimator]] = {
    "m_sam": m_sam,
    "microbatched": microbatched,
    "per_device": per_device,
}
"""Name -> function that makes a `GradientEstimator` of another one, its first argument."""
