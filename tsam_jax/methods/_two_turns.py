"""The two evaluations of an ascent: at a point, and where the gradient there leads."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from tsam_jax import _axes
from tsam_jax._types import Params, PyTree
from tsam_jax.estimator import Evaluation

_Evaluate: TypeAlias = Callable[[Params], Evaluation]
_Climb: TypeAlias = Callable[[Params, Params], tuple[Params, jax.Array]]


def one_after_the_other(evaluate: _Evaluate, climb: _Climb, point: Params) -> Evaluation:
    """Evaluates at a point, climbs, and evaluates there.

    Args:
      evaluate: one gradient evaluation.
      climb: (point, gradient) -> (where it leads, whether the gradient was finite).
      point: where the ascent starts.

    Returns:
      Loss and gradient at its end, and the aux of its start; the loss is NaN if the first
      evaluation was not finite.
    """
    first = evaluate(point)
    above, finite = climb(point, first.grad)
    last = evaluate(above)
    return _joined(first.value, first.aux, finite, last.value, last.grad)


def in_a_loop(evaluate: _Evaluate, climb: _Climb, point: Params) -> Evaluation:
    """The same by a loop of two turns, which has `evaluate` once in its program.

    For use where the evaluations are in a loop already. It halves what the compiler has to do, and
    takes the time and the memory of the other form: what it carries is the point, then where the
    ascent ends, then the gradient. Measured on a CPU, and used on one alone: on a GPU the choice
    between the turns would have to wait for the host.

    Args:
      evaluate: as for `one_after_the_other`.
      climb: likewise.
      point: likewise.

    Returns:
      What `one_after_the_other` returns, to rounding.
    """
    if not _axes.on_one_cpu():
        return one_after_the_other(evaluate, climb, point)

    def end(above: Params, grad: Params) -> tuple[Params, jax.Array]:
        del above
        return grad, jnp.ones((), bool)

    def turn(x: Params, is_last: jax.Array) -> tuple[Params, tuple[jax.Array, Params, jax.Array]]:
        here = evaluate(x)
        x, finite = jax.lax.cond(is_last, end, climb, x, here.grad)
        return x, (here.value, here.aux, finite)

    grad, (values, auxes, finite) = jax.lax.scan(turn, point, jnp.arange(2) == 1)
    aux = jax.tree.map(lambda x: x[0], auxes)
    return _joined(values[0], aux, finite[0], values[1], grad)


def _joined(
    first: jax.Array, aux: PyTree, finite: jax.Array, last: jax.Array, grad: Params
) -> Evaluation:
    value = jnp.where(finite & jnp.isfinite(first), last, jnp.nan)
    return Evaluation(value, aux, grad)
