"""Checks of user input: each names the argument, the rule, and what was given.

Only what is known before tracing is checked; tracers and schedules pass.
"""

import math
import numbers
from collections.abc import Collection
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax._types import Params, PyTree


def is_static_number(x: Any) -> TypeGuard[float]:
    """Says whether `x` is a Python or NumPy number, known before tracing."""
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def is_static_zero(x: Any) -> bool:
    """Says whether `x` is a zero that is known before tracing."""
    return is_static_number(x) and x == 0


def check_scalar(owner: str, /, **arguments: Any) -> None:
    """Refuses strings, booleans, None, containers, and arrays that have an axis."""
    for name, x in arguments.items():
        shape = () if callable(x) else getattr(x, "shape", ())
        several = shape != () or isinstance(x, (list, tuple, dict, set))
        if several or isinstance(x, (str, bool)) or x is None:
            given = f"an array of shape {shape}" if shape != () else repr(x)
            msg = f"`{owner}({name}=...)` must be a number or a schedule, got {given}."
            if several:
                msg += " For several values make an estimator of each, or use `jax.vmap`."
            raise TypeError(msg)


def check_nonnegative(owner: str, /, *, finite: bool = True, **arguments: Any) -> None:
    """Refuses negative, NaN and (unless `finite` is False) infinite numbers, and what is none."""
    for name, x in arguments.items():
        check_scalar(owner, **{name: x})
        if not is_static_number(x):
            continue
        if math.isnan(x) or x < 0 or (finite and math.isinf(x)):
            rule = "a finite number >= 0" if finite else "a number >= 0 (infinity included)"
            msg = f"`{owner}({name}=...)` must be {rule}, got {x!r}."
            raise ValueError(msg)


def check_positive_int(owner: str, **arguments: Any) -> None:
    """Refuses anything but Python integers of at least 1."""
    for name, x in arguments.items():
        if not isinstance(x, numbers.Integral) or isinstance(x, bool):
            msg = (
                f"`{owner}({name}=...)` must be an integer that is known before tracing, got {x!r}."
                f" Under `optax.inject_hyperparams` name it in `static_args`."
            )
            raise TypeError(msg)
        if x < 1:
            msg = f"`{owner}({name}=...)` must be a positive integer, got {x!r}."
            raise ValueError(msg)


def check_choice(owner: str, choices: Collection[str], **arguments: Any) -> None:
    """Refuses values outside `choices`."""
    for name, x in arguments.items():
        if x not in choices:
            allowed = ", ".join(repr(choice) for choice in choices)
            msg = f"`{owner}({name}=...)` must be one of {allowed}, got {x!r}."
            raise ValueError(msg)


def check_flag(owner: str, **arguments: Any) -> None:
    """Refuses anything but True and False."""
    for name, x in arguments.items():
        if not isinstance(x, bool):
            msg = f"`{owner}({name}=...)` must be True or False, known before tracing, got {x!r}."
            raise TypeError(msg)


def check_axis(owner: str, **arguments: Any) -> None:
    """Refuses what is neither None nor the name of one mesh axis."""
    for name, x in arguments.items():
        if x is not None and not isinstance(x, str):
            msg = f"`{owner}({name}=...)` must be the name of a mesh axis or None, got {x!r}."
            raise TypeError(msg)


def check_parameters(params: Params) -> None:
    """Refuses leaves that have no gradient: all but floating-point and complex numbers."""
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(x, (float, complex)) or jnp.issubdtype(_dtype(x), jnp.inexact):
            continue
        where = f" at {jax.tree_util.keystr(path)}" if path else ""
        msg = (
            f"`params` must have floating-point or complex leaves only, got {_described(x)}{where}."
            " Give the loss what is not trained in another argument, or put None in its place;"
            " `mask` is for leaves that are trained, but not perturbed."
        )
        raise TypeError(msg)


def loss_and_aux(output: Any, *, has_aux: bool) -> tuple[Any, PyTree]:
    """Takes apart what a loss function returns; refuses all but a real scalar, or a pair."""
    loss, aux = output, None
    if has_aux:
        if not isinstance(output, (tuple, list)) or len(output) != 2:
            msg = (
                "`fun` must return a pair (loss, aux) with `has_aux=True`, got"
                f" {_described(output)}. Leave `has_aux` out if there is no aux."
            )
            raise TypeError(msg)
        loss, aux = output
    if isinstance(loss, float) or (
        jnp.issubdtype(_dtype(loss), jnp.floating) and jnp.shape(loss) == ()
    ):
        return loss, aux
    msg = (
        "`fun`, or `value_fn`, must return a real floating-point scalar, got"
        f" {_described(loss)}. Reduce losses of examples by `jnp.mean`; for a pair (loss, aux) give"
        " `value_and_grad` `has_aux=True`."
    )
    raise TypeError(msg)


def _dtype(x: Any) -> Any:
    """The dtype of an array, of whichever kind; that of objects for what is none."""
    return getattr(x, "dtype", np.dtype(object))


def _described(x: Any) -> str:
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{x.dtype} of shape {x.shape}"
    return type(x).__name__
