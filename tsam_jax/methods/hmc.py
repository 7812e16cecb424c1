"""TSAM with perturbations drawn by Hamiltonian Monte Carlo in a ball.

Symbols: e is the perturbation, p its momentum, L the loss, g its gradient, and pi the target
exp(delta t L(theta + e)) on the ball ||e|| <= radius. The potential energy is -delta t L (the sign
is missing in the paper's "log(e^{delta L})"); the kinetic energy is ||p||^2 / (2 sigma^2).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _fold, _tree
from tsam_jax import noise as noise_laws
from tsam_jax._checks import (
    Array,
    AuxPolicy,
    Mask,
    Params,
    PyTree,
    Scalar,
    ScalarOrSchedule,
    Strategy,
)
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Loss, Result
from tsam_jax.methods.ascent import at, displace, no_memory
from tsam_jax.methods.tilted import shapes_of, spread, tilts
from tsam_jax.tilting import AutoTilt


def tsam_hmc(
    t: ScalarOrSchedule,
    s: int,
    *,
    radius: ScalarOrSchedule,
    beta: ScalarOrSchedule,
    delta: ScalarOrSchedule | Literal["half"] = "half",
    sigma: ScalarOrSchedule = 1.0,
    steps: int = 1,
    proposals: int = 1,
    integrator: Literal["leapfrog", "euler"] = "leapfrog",
    accept: Literal["metropolis", "inside"] = "metropolis",
    mask: Mask | None = None,
    aux: AuxPolicy = "first",
    strategy: Strategy = "auto",
    sample_axis: str | None = None,
) -> GradientEstimator:
    r"""Tilted SAM with samples drawn by Hamiltonian Monte Carlo.

    Estimates the gradient of $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$
    (Eq. 3), with epsilon uniform in the ball of the given radius. Samples from $\pi(e) \propto
    e^{\delta t L(\theta + e)}$ on that ball account for a fraction delta of the tilt, and weights
    $w = \mathrm{softmax}((1 - \delta) t L)$ for the rest. Each sample is a separate chain that
    starts with $e$ uniform in the ball. Each proposal draws $p \sim N(0, \sigma^2 I)$ and takes k
    steps of

    "euler" (Eq. 8): $p \leftarrow p + \beta \delta t g(\theta + e), \
    e \leftarrow e + \frac{\beta}{\sigma^2} p$;

    "leapfrog": the same, with half of the kick before the drift and half after it, at the new e.

    A proposal $e'$ outside the ball, or with a non-finite loss, is rejected: the chain stays at e.
    Inside, "metropolis" accepts with probability $\min(1, e^{\delta t (L' - L) -
    (\lVert p' \rVert^2 - \lVert p \rVert^2) / 2 \sigma^2})$, and "inside" always accepts.

    Exactness: with "leapfrog" and "metropolis", every proposal leaves pi invariant, for any beta,
    sigma and steps. So the samples converge to pi as `proposals` grows, and then the estimate to
    the gradient of $L_t$ as s grows. The paper's algorithm, one proposal from a uniform start, does
    not sample pi: its law lies between the uniform law and pi, and its effective tilt between
    (1 - delta) t and t. "euler" is not reversible and has a different limit. Its first kick is full
    where leapfrog's is half, so small steps lead to $e^{(1 + 1/k) \delta t L}$; for k = 1, that is
    twice the delta. "inside" has a bias from the energy error of leapfrog, which falls with beta.

    In d dimensions, most of the ball lies within radius / d of its surface, where only steps with
    beta / sigma of the order of radius / d are accepted: check the metric `acceptance`. With
    millions of parameters, such steps hardly move a chain. For networks, use `tsam`.

    Args:
      t: tilt in units of 1/loss, >= 0, including 0, and infinity if delta is 0. A number, a traced
        scalar, or a schedule on the step counter.
      s: number of samples, a positive integer known before tracing.
      radius: radius of the ball, l2 over the masked leaves together, >= 0; a number, a traced
        scalar, or a schedule.
      beta: step size, >= 0; a number, a traced scalar, or a schedule. The length beta / sigma sets
        the scale of a step.
      delta: fraction of the tilt that the sampling accounts for, between 0 and 1; a number, a
        traced scalar, or a schedule; "half", the paper's choice, is 0.5.
      sigma: standard deviation of the momentum, > 0; a number, a traced scalar, or a schedule.
      steps: steps per proposal, a positive integer (the paper's N).
      proposals: proposals per sample, a positive integer.
      integrator: "leapfrog" or "euler".
      accept: "metropolis" or "inside".
      mask: leaves to perturb, as for `tsam`.
      aux: source of the auxiliary output, as for `tsam`; for a sample, the start of its chain.
      strategy: how samples are evaluated, as for `tsam`. Steps and proposals are unrolled.
      sample_axis: mesh axis over which samples are spread, as for `tsam`.

    Returns:
      A `GradientEstimator` without memory. `value` is the tilted loss of the samples at tilt
      (1 - delta) t. Metrics: those of `tsam`, and `acceptance`, shape (s,): the fraction of
      accepted proposals of each chain.

    Raises:
      ValueError: if a number is out of range, or a name is not one of the choices.
      TypeError: if `s`, `steps` or `proposals` is not an integer, or `t` is an `AutoTilt`.

    Cost: s (steps * proposals + 1) gradient evaluations per step; rejections cost nothing extra.
    If `radius` is the number 0, it is `erm`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator = tsam_hmc(t=2.0, s=3, radius=0.5, beta=0.1)
      >>> x = jnp.array([1.0, -1.0])
      >>> loss = lambda x: jnp.sum(x**4)
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), state = step(x, step.init(x))
      >>> estimator.cost.gradients, state.last.metrics["acceptance"].shape
      (6, (3,))

    Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Section 4, Eq. 8
    and the acceptance rule below it. Deviations from the paper: the default is "leapfrog", and
    proposals outside the ball are rejected. The official code has no Hamiltonian Monte Carlo.
    """
    if isinstance(t, AutoTilt):
        msg = f"`tsam_hmc(t=...)` must be a number or a schedule, got {t!r}."
        raise TypeError(msg)
    if delta != "half":
        _checks.fraction("tsam_hmc", delta=delta)
    _checks.nonnegative("tsam_hmc", finite=_checks.known(delta) != 0, t=t)
    _checks.nonnegative("tsam_hmc", radius=radius, beta=beta, sigma=sigma)
    if _checks.known(sigma) == 0:
        msg = f"`tsam_hmc(sigma=...)` must be a finite number > 0, got {sigma!r}."
        raise ValueError(msg)
    _checks.positive_int("tsam_hmc", s=s, steps=steps, proposals=proposals)
    _checks.choice("tsam_hmc", tuple(_INTEGRATORS), integrator=integrator)
    _checks.choice("tsam_hmc", _ACCEPTANCES, accept=accept)
    _checks.choice("tsam_hmc", _checks.AUX_POLICIES, aux=aux)
    _checks.choice("tsam_hmc", _checks.STRATEGIES, strategy=strategy)
    _checks.axis("tsam_hmc", sample_axis=sample_axis)
    is_erm = _checks.is_static_zero(radius)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        dtype = _tree.accumulator_dtype(params)
        of_weights, of_samples = tilts(t, delta, step)
        if is_erm:
            here = loss(params)
            metrics = spread(_fold.weigh_one(here, of_weights), s)
            metrics["acceptance"] = jnp.zeros(s, dtype)
            return here._replace(metrics=metrics), memory
        given = {"radius": radius, "beta": beta, "sigma": sigma}
        numbers = {name: jnp.asarray(at(x, step), dtype) for name, x in given.items()}
        numbers["tilt"] = of_samples.astype(dtype)
        keys = jax.random.split(key, s)

        def look(e: Params) -> tuple[_Point, Any]:
            here = loss(displace(params, e))
            return _Point(e, here.value, here.grad, _tree.select(here.grad, mask)), here.aux

        def chain(chain_key: Array) -> Evaluation:
            key_start, *proposal_keys = jax.random.split(chain_key, proposals + 1)
            wide = _tree.widened(_tree.select(params, mask))  # keeps small steps from rounding
            start = noise_laws.ball(radius=numbers["radius"])(key_start, wide)
            start = _tree.add(_tree.scale(wide, 0.0), start)  # shards it like params
            here, aux_of_start = look(start)
            accepted = jnp.zeros((), dtype)
            for proposal_key in proposal_keys:
                here, moved = _propose(
                    proposal_key,
                    here,
                    lambda e: look(e)[0],
                    integrate=_INTEGRATORS[integrator],
                    accept=accept,
                    steps=steps,
                    **numbers,
                )
                accepted += moved.astype(dtype)
            metrics = {"acceptance": accepted / proposals}
            return Evaluation(here.value, here.grad, aux_of_start, metrics)

        sampled = _fold.tilted(
            lambda j: (chain, keys[j]),
            s,
            of_weights,
            strategy=strategy,
            aux="mean" if aux == "mean" else "first",
            axis=sample_axis,
        )
        kept = loss.value(params)[1] if aux == "clean" else sampled.aux
        return sampled._replace(aux=kept), memory

    gradients = 1 if is_erm else s * (steps * proposals + 1)
    cost = Cost(gradients, values=float(aux == "clean" and not is_erm))
    return GradientEstimator(no_memory(**shapes_of(s), acceptance=(s,)), estimate, cost)


class _Point(NamedTuple):
    """The current state of a chain.

    Attributes:
      e: the perturbation, in float32 or wider; None at unperturbed leaves.
      value: L(theta + e); shape ().
      grad: g(theta + e), like the parameters.
      force: `grad` on the perturbed leaves; None elsewhere.
    """

    e: Params
    value: Array
    grad: Params
    force: Params


_Look: TypeAlias = Callable[[Params], _Point]
"""e -> `_Point`: one gradient evaluation."""

_Moved: TypeAlias = tuple[_Point, Params]
"""A point and its momentum."""


def _euler(here: _Point, p: Params, look: _Look, kick: Scalar, drift: Scalar) -> _Moved:
    """Eq. 8 as printed: a kick, then a drift. Preserves volume, but is not reversible."""
    p = _tree.add(p, here.force, kick)
    return look(_tree.add(here.e, p, drift)), p


def _leapfrog(here: _Point, p: Params, look: _Look, kick: Scalar, drift: Scalar) -> _Moved:
    """Half a kick, a drift, half a kick: preserves volume, and is reversible with -p."""
    there, p = _euler(here, p, look, kick / 2, drift)
    return there, _tree.add(p, there.force, kick / 2)


_INTEGRATORS = {"leapfrog": _leapfrog, "euler": _euler}
_ACCEPTANCES = ("metropolis", "inside")


def _propose(
    key: Array,
    here: _Point,
    look: _Look,
    *,
    integrate: Callable[..., _Moved],
    accept: str,
    radius: Scalar,
    tilt: Scalar,
    beta: Scalar,
    sigma: Scalar,
    steps: int,
) -> tuple[_Point, Array]:
    """Makes one proposal of the chain, from a fresh momentum, and accepts or rejects it.

    Args:
      key: PRNG key of the momentum and the decision.
      here: the current state of the chain.
      look: e -> `_Point`.
      integrate: `_leapfrog` or `_euler`.
      accept: "metropolis" or "inside".
      radius: radius of the ball; the target is 0 outside it.
      tilt: the target is exp(tilt L) inside the ball.
      beta: step size.
      sigma: standard deviation of a coordinate of the momentum.
      steps: number of steps.

    Returns:
      The new state of the chain, and whether the proposal was accepted: shape (), bool.
    """
    key_momentum, key_decision = jax.random.split(key)
    p0 = noise_laws.gaussian(rms=sigma)(key_momentum, here.e)
    there, p = here, p0
    for _ in range(steps):
        there, p = integrate(there, p, look, kick=beta * tilt, drift=beta / sigma**2)
    accepted = _tree.norm(there.e) <= jnp.asarray(radius, _tree.accumulator_dtype(there.e))
    accepted &= _tree.all_finite(there.value, there.grad)  # or an infinite loss would be accepted
    if accept == "metropolis":
        gain = tilt * (there.value - here.value) - _kinetic_gain(p0, p) / sigma**2
        accepted &= jnp.log(jax.random.uniform(key_decision, dtype=gain.dtype)) < gain
    return jax.tree.map(lambda x, y: jnp.where(accepted, x, y), there, here), accepted


def _kinetic_gain(p0: Params, p: Params) -> Array:
    """(||p||^2 - ||p0||^2) / 2 as one inner product, since the squares, of size d, cancel."""
    return _tree.inner(_tree.add(p, p0, -1.0), _tree.add(p, p0)) / 2
