"""Training: one loop for all methods, and the commands built on it."""

from tsam_jax.train.fitting import Fitted, fit

__all__ = ["Fitted", "fit"]
