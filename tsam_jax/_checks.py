"""Argument types and argument checks.

An error names the argument, the rule and the value given. Checks read values that are known before
tracing: Python and NumPy numbers and concrete arrays. Tracers and schedules pass unchecked.
"""

import contextlib
import math
import numbers
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any

Params: TypeAlias = Any
"""A pytree of arrays."""

Scalar: TypeAlias = float | jax.Array
"""A Python number, or an array of shape () which may be traced."""

ScalarOrSchedule: TypeAlias = Scalar | Callable[[jax.Array], Scalar]
"""A scalar, or an optax schedule: step count -> scalar."""

NoiseLaw: TypeAlias = Callable[[jax.Array, Params], Params]
"""`(key, params) -> perturbation`, with the structure, shapes and dtypes of `params`."""

Mask: TypeAlias = PyTree | Callable[[Params], PyTree]
"""Booleans over the parameters' leaves (a prefix is enough), or a function that returns them."""

KeyLike: TypeAlias = int | jax.Array
"""An integer seed or a PRNG key."""

AxisName: TypeAlias = str | tuple[str, ...]
"""The name of a mesh axis, or of several."""

BatchArgument: TypeAlias = str | int | tuple[str | int, ...]
"""Arguments of the loss that hold the batch: names, or positions as in `jax.grad`'s `argnums`."""

AuxPolicy: TypeAlias = Literal["first", "mean", "clean"]
"""Source of the auxiliary output of a sampled method: see `tsam_jax.methods.tsam`."""

Strategy: TypeAlias = Literal["auto", "vectorized", "unrolled", "streamed"]
"""How the samples of a step, or its micro-batches, are evaluated: see `tsam_jax.methods.tsam`."""

AUX_POLICIES = ("first", "mean", "clean")
STRATEGIES = ("auto", "vectorized", "unrolled", "streamed")


@contextlib.contextmanager
def extra(owner: str, name: str) -> Iterator[None]:
    """Raises ImportError with the extra to install if an import in the block fails."""
    try:
        yield
    except ImportError as error:
        msg = f"`{owner}` needs the extra `{name}` ({error}): pip install 'tsam_jax[{name}]'."
        raise ImportError(msg) from error


def is_static_number(x: Any) -> TypeGuard[float]:
    """Whether `x` is a Python or NumPy number, known before tracing."""
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def is_static_zero(x: Any) -> bool:
    """Whether `x` is the Python or NumPy number 0."""
    return is_static_number(x) and x == 0


def known(x: Any) -> float | None:
    """Returns the value of a number or concrete scalar array; None for tracers and schedules."""
    if is_static_number(x):
        return float(x)
    traced = isinstance(x, jax.core.Tracer) or not isinstance(x, (np.ndarray, jax.Array))
    if traced or not _is_real(x) or not getattr(x, "is_fully_addressable", True):
        return None
    return float(jax.device_get(x))


def scalar(owner: str, /, **arguments: Any) -> None:
    """Raises TypeError for anything but a real number, a scalar array or a schedule."""
    for name, x in arguments.items():
        shape = () if callable(x) else getattr(x, "shape", ())
        several = shape != () or isinstance(x, (list, tuple, dict, set))
        is_real = callable(x) or (hasattr(x, "dtype") and _is_real(x)) or is_static_number(x)
        if several or not is_real:
            given = f"an array of shape {shape}" if shape != () else repr(x)
            msg = f"`{owner}({name}=...)` must be a number or a schedule, got {given}."
            if several:
                msg += " To try several values, make one estimator for each or use `jax.vmap`."
            raise TypeError(msg)


def nonnegative(owner: str, /, *, finite: bool = True, **arguments: Any) -> None:
    """Raises unless each number is >= 0 and, by default, finite."""
    rule = "a finite number >= 0" if finite else "a number >= 0 (infinity included)"
    for name, x in arguments.items():
        _number(owner, name, x, lambda x: x >= 0 and not (finite and math.isinf(x)), rule)


def fraction(owner: str, /, **arguments: Any) -> None:
    """Raises unless each number is between 0 and 1."""
    for name, x in arguments.items():
        _number(owner, name, x, lambda x: 0 <= x <= 1, "a number between 0 and 1")


def _number(owner: str, name: str, x: Any, is_right: Callable[[float], bool], rule: str) -> None:
    scalar(owner, **{name: x})
    number = known(x)
    if number is not None and not is_right(number):
        msg = f"`{owner}({name}=...)` must be {rule}, got {x!r}."
        raise ValueError(msg)


def sequence(owner: str, /, **arguments: Any) -> None:
    """Raises unless each argument is a sequence of at least one number >= 0."""
    for name, x in arguments.items():
        if isinstance(x, str) or not isinstance(x, (Sequence, np.ndarray, jax.Array)):
            msg = f"`{owner}({name}=...)` must be a sequence of numbers, got {x!r}."
            raise TypeError(msg)
        if not len(x):
            msg = f"`{owner}({name}=...)` must have at least one number, got none."
            raise ValueError(msg)
        for entry in x:
            nonnegative(owner, **{name: entry})


def positive_int(owner: str, **arguments: Any) -> None:
    """Raises unless each argument is a Python integer of at least 1."""
    for name, x in arguments.items():
        if not isinstance(x, numbers.Integral) or isinstance(x, bool):
            msg = (
                f"`{owner}({name}=...)` must be an integer known before tracing, got {x!r}."
                f" Under `optax.inject_hyperparams`, list it in `static_args`."
            )
            raise TypeError(msg)
        _number(owner, name, x, lambda x: x >= 1, "a positive integer")


def choice(owner: str, choices: Collection[str], **arguments: Any) -> None:
    """Raises unless each argument is one of `choices`."""
    for name, x in arguments.items():
        if x not in list(choices):
            allowed = ", ".join(repr(choice) for choice in choices)
            msg = f"`{owner}({name}=...)` must be one of {allowed}, got {x!r}."
            raise ValueError(msg)


def batch(argument: str, given: Any) -> None:
    """Raises unless the argument names one or more arguments of a loss, each once."""
    names = given if isinstance(given, tuple) else (given,)

    def is_name(x: Any) -> bool:
        return isinstance(x, str) or (isinstance(x, int) and not isinstance(x, bool) and x >= 1)

    if not names or not all(map(is_name, names)) or len(set(names)) < len(names):
        msg = (
            f"`{argument}` must be the name or the position of an argument of the loss (1 is the"
            f" first after the parameters), or a tuple of these, got {given!r}."
        )
        raise TypeError(msg)


def axis(owner: str, **arguments: Any) -> None:
    """Raises unless each argument is None or the name of one mesh axis."""
    for name, x in arguments.items():
        if x is not None and not isinstance(x, str):
            msg = f"`{owner}({name}=...)` must be the name of a mesh axis or None, got {x!r}."
            raise TypeError(msg)


def is_typed_key(key: Any) -> bool:
    """Whether the argument is a typed PRNG key, or an array of them."""
    return hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def key(key: Any) -> None:
    """Raises unless `key` is an integer seed, a PRNG key, or the data of one."""
    shape, dtype = jnp.shape(key) if hasattr(key, "dtype") else (), getattr(key, "dtype", None)
    one = isinstance(key, numbers.Integral) and not isinstance(key, bool)
    if one and not -(2**31) <= key < 2**32:
        msg = f"`key` must be a seed from -2^31 to 2^32 - 1, got {key!r}: larger seeds wrap around."
        raise ValueError(msg)
    if dtype is not None and shape == ():
        one = is_typed_key(key) or jnp.issubdtype(dtype, jnp.integer)
    default = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    words = 2 if default == "threefry2x32" else 4
    if one or (dtype == jnp.uint32 and shape == (words,)):  # the data of a key
        return
    given = f"{dtype} of shape {shape}" if shape else repr(key)
    msg = f"`key` must be an integer seed or a single PRNG key, got {given}."
    raise TypeError(msg + " For several keys use `jax.vmap`." * (shape != ()))


def parameters(params: Params) -> None:
    """Raises unless all leaves have a gradient: floating-point and complex numbers."""
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(x, (float, complex)) or jnp.issubdtype(_dtype(x), jnp.inexact):
            continue
        where = f" at {jax.tree_util.keystr(path)}" if path else ""
        msg = (
            f"`params` must have floating-point or complex leaves only, got {_described(x)}{where}."
            " Pass untrained values to the loss as another argument, or replace them by None. To"
            " train leaves without perturbing them, use `mask`."
        )
        raise TypeError(msg)


def loss_and_aux(output: Any, *, has_aux: bool) -> tuple[Any, PyTree]:
    """Splits the output of a loss function; raises unless the loss is a real scalar."""
    loss, aux = output, None
    if has_aux:
        if not isinstance(output, (tuple, list)) or len(output) != 2:
            msg = (
                "`fun` must return a pair (loss, aux) with `has_aux=True`, got"
                f" {_described(output)}. Remove `has_aux` if there is no aux."
            )
            raise TypeError(msg)
        loss, aux = output
    if isinstance(loss, float) or (
        jnp.issubdtype(_dtype(loss), jnp.floating) and jnp.shape(loss) == ()
    ):
        return loss, aux
    msg = (
        "`fun`, or `value_fn`, must return a real floating-point scalar, got"
        f" {_described(loss)}. Reduce per-example losses with `jnp.mean`; for a pair (loss, aux)"
        " pass `has_aux=True` to `value_and_grad`."
    )
    raise TypeError(msg)


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)


def _dtype(x: Any) -> Any:
    """The dtype of an array; `object` for anything else."""
    return getattr(x, "dtype", np.dtype(object))


def _described(x: Any) -> str:
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{x.dtype} of shape {x.shape}"
    return type(x).__name__
