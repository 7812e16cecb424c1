"""Hamiltonian Monte Carlo in a ball: integrators, and one proposal of a chain.

Symbols: e the perturbation, p its momentum, L the loss, g its gradient, pi the target
exp(delta L(theta + e)) on the ball ||e|| <= radius. The potential energy is -delta L (the
paper's "log(e^{delta L})" lost its sign), the kinetic energy ||p||^2 / (2 sigma^2).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax import noise as noise_laws
from tsam_jax._types import Params, Scalar


class Point(NamedTuple):
    """Where a chain stands.

    Attributes:
      e: the perturbation, in float32 at least; None at leaves that are not perturbed.
      value: L(theta + e); shape ().
      grad: g(theta + e), like the parameters.
      force: the part of `grad` that acts on e: None where e is.
    """

    e: Params
    value: jax.Array
    grad: Params
    force: Params


Look: TypeAlias = Callable[[Params], Point]
"""e -> `Point`: one gradient evaluation."""


class Integrator(Protocol):
    """Moves a point and its momentum along a path; `steps` gradient evaluations.

    `kick` is beta delta, by which forces act on the momentum; `drift` is beta / sigma^2, by which
    the momentum acts on e.
    """

    def __call__(
        self, here: Point, p: Params, look: Look, *, kick: Scalar, drift: Scalar, steps: int
    ) -> tuple[Point, Params]: ...


def euler(
    here: Point, p: Params, look: Look, *, kick: Scalar, drift: Scalar, steps: int
) -> tuple[Point, Params]:
    """Eq. 8 as printed: a kick, then a drift. Keeps volumes, but is not its own reverse."""
    for _ in range(steps):
        p = _tree.add(p, here.force, kick)
        here = look(_tree.add(here.e, p, drift))
    return here, p


def leapfrog(
    here: Point, p: Params, look: Look, *, kick: Scalar, drift: Scalar, steps: int
) -> tuple[Point, Params]:
    """Half a kick, a drift, half a kick: keeps volumes, and with -p it runs back."""
    for _ in range(steps):
        p = _tree.add(p, here.force, kick / 2)
        here = look(_tree.add(here.e, p, drift))
        p = _tree.add(p, here.force, kick / 2)
    return here, p


INTEGRATORS: dict[str, Integrator] = {"leapfrog": leapfrog, "euler": euler}
ACCEPTANCES = ("metropolis", "inside")


def propose(
    key: jax.Array,
    here: Point,
    look: Look,
    *,
    integrate: Integrator,
    accept: str,
    radius: Scalar,
    delta: Scalar,
    beta: Scalar,
    sigma: Scalar,
    steps: int,
) -> tuple[Point, jax.Array]:
    """One proposal of the chain: a path from a fresh momentum, accepted or not.

    Args:
      key: PRNG key of the momentum and the decision.
      here: where the chain stands.
      look: e -> `Point`.
      integrate: `leapfrog` or `euler`.
      accept: "metropolis" or "inside".
      radius: of the ball; outside of it the target is 0.
      delta: the target is exp(delta L) inside of the ball.
      beta: step size.
      sigma: standard deviation of a coordinate of the momentum.
      steps: number of steps of the path.

    Returns:
      Where the chain stands now, and whether the proposal was accepted: shape (), bool.
    """
    key_momentum, key_decision = jax.random.split(key)
    p0 = noise_laws.gaussian(rms=sigma)(key_momentum, here.e)
    there, p = integrate(here, p0, look, kick=beta * delta, drift=beta / sigma**2, steps=steps)
    accepted = _tree.norm(there.e) <= jnp.asarray(radius, _tree.accumulator_dtype(there.e))
    accepted &= _tree.all_finite(there.value, there.grad)  # an infinite loss attracts nothing
    if accept == "metropolis":
        gain = delta * (there.value - here.value) - _kinetic_gain(p0, p) / sigma**2
        accepted &= jnp.log(jax.random.uniform(key_decision, dtype=gain.dtype)) < gain
    return jax.tree.map(lambda x, y: jnp.where(accepted, x, y), there, here), accepted


def _kinetic_gain(p0: Params, p: Params) -> jax.Array:
    """(||p||^2 - ||p0||^2) / 2 as one inner product: the squares are of size d, and cancel."""
    return _tree.inner(_tree.add(p, p0, -1.0), _tree.add(p, p0)) / 2
