"""Training: one loop for all methods, and the study, its commands and `fit` built on it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsam_jax.train.fitting import Fitted, fit

__all__ = ["Fitted", "fit"]


def __getattr__(name: str) -> Any:
    """Imports `fit` when it is used: the command line reads `config` alone for its help."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from tsam_jax import _checks

    with _checks.extra("tsam_jax.train", "train"):
        from tsam_jax.train import fitting
    return getattr(fitting, name)
