"""TSAM whose perturbations come from Hamiltonian Monte Carlo: see `_chains`."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _tree
from tsam_jax import noise as noise_laws
from tsam_jax._checks import (
    check_axis,
    check_choice,
    check_nonnegative,
    check_positive_int,
    is_static_number,
    is_static_zero,
)
from tsam_jax._types import (
    AuxPolicy,
    KeyLike,
    Mask,
    Params,
    PyTree,
    ScalarOrSchedule,
    Strategy,
)
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.execution import STRATEGIES, combine_samples, on_each_device
from tsam_jax.methods._chains import ACCEPTANCES, INTEGRATORS, Point, propose
from tsam_jax.methods._common import AUX_POLICIES, as_key, at, displace, dtype_of_state, zero_step
from tsam_jax.tilting import AutoTilt


class ChainState(NamedTuple):
    """State of a method whose samples are Markov chains, with diagnostics of its last step.

    Attributes:
      step: steps taken; shape (), int32.
      key: PRNG key of the run; shape (), typed.
      losses: loss at the end of each chain in the last step; shape (s,), float32 at least; NaN for
        a sample that was not finite.
      weights: tilt weight of each sample in the last step; shape (s,), float32 at least.
      acceptance: share of the proposals that each chain accepted in the last step; shape (s,),
        float32 at least.
    """

    step: jax.Array
    key: jax.Array
    losses: jax.Array
    weights: jax.Array
    acceptance: jax.Array


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
    key: KeyLike = 0,
) -> GradientEstimator:
    r"""Tilted SAM whose samples are drawn by Hamiltonian Monte Carlo.

    Estimates the gradient of $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$
    (Eq. 3), epsilon uniform in the ball of the given radius, by samples of $\pi(e) \propto
    e^{\delta L(\theta + e)}$ on that ball, which account for delta of the tilt, and the weights
    $w = \mathrm{softmax}((t - \delta) L)$ for the rest. Each sample is a chain of its own: $e$
    uniform in the ball, and then for each proposal $p \sim N(0, \sigma^2 I)$ and k steps of

    "euler" (Eq. 8): $p \leftarrow p + \beta \delta g(\theta + e), \
    e \leftarrow e + \frac{\beta}{\sigma^2} p$;

    "leapfrog": the same with half of the kick before the drift and half after it, at the new e.

    A proposal $e'$ outside of the ball, or where the loss is not finite, is rejected: the chain
    stays at e. Inside, "metropolis" accepts with probability $\min(1, e^{\delta (L' - L) -
    (\lVert p' \rVert^2 - \lVert p \rVert^2) / 2 \sigma^2})$, and "inside" always.

    What is exact: with "leapfrog" and "metropolis" every proposal leaves pi as it is, for any
    beta, sigma and steps, so the samples tend to pi as `proposals` grows, and the estimate to
    the gradient of $L_t$ as s grows after that. One proposal from a uniform start, which is the
    paper's algorithm, does not sample pi: it lies between the uniform law and pi, and the
    effective tilt between t - delta and t. "euler" is not reversible and has another limit: its
    first kick is whole where leapfrog's is half, so that small steps lead to $e^{(1 + 1/k) \delta
    L}$, for k = 1 twice the delta. "inside" errs by what leapfrog does not conserve of the energy,
    which falls with beta.

    In d dimensions most of the ball lies within radius / d of its surface, and only steps with
    beta / sigma of the order of radius / d are accepted there: look at `acceptance` in the state.
    For millions of parameters that hardly moves a chain; `tsam` is the method for networks.

    Args:
      t: tilt, >= 0, also 0 and infinity; unit: one over that of the loss. A number, a traced
        scalar, or a schedule on the step counter.
      s: number of samples, a positive integer, known before tracing.
      radius: of the ball, l2 over the masked leaves together, >= 0; a number, a traced scalar, or
        a schedule.
      beta: step size, >= 0; a number, a traced scalar, or a schedule. What counts is beta / sigma,
        which is a length.
      delta: the part of the tilt that the sampling accounts for. A number between 0 and t, a
        schedule, or "half" for t / 2, which needs a finite t.
      sigma: standard deviation of the momentum, > 0; a number, a traced scalar, or a schedule.
      steps: steps of a proposal, a positive integer (the paper's N).
      proposals: proposals of a sample, a positive integer.
      integrator: "leapfrog" or "euler".
      accept: "metropolis" or "inside".
      mask: which leaves are perturbed, as for `tsam`.
      aux: whose auxiliary output is returned, as for `tsam`; a sample's is that of the start of its
        chain.
      strategy: how samples are evaluated, as for `tsam`. Steps and proposals are unrolled.
      sample_axis: mesh axis over which samples are spread, as for `tsam`.
      key: seed or PRNG key.

    Returns:
      A `GradientEstimator` with state `ChainState`. `value` is the tilted loss of the samples at
      tilt t - delta.

    Raises:
      ValueError: if a number is out of its range, or a name is none of the choices.
      TypeError: if `s`, `steps` or `proposals` is not an integer, or `t` is an `AutoTilt`.

    Cost: s (steps * proposals + 1) gradient evaluations a step; a rejection costs nothing more.
    If `radius` is the number 0 it is `erm`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator = tsam_hmc(t=2.0, s=3, radius=0.5, beta=0.1)
      >>> x = jnp.array([1.0, -1.0])
      >>> loss = lambda x: jnp.sum(x**4)
      >>> (value, grad), state = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> estimator.cost.gradients, state.acceptance.shape
      (6, (3,))

    Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Section 4, Eq. 8
    and the acceptance rule below it. Deviations from the paper: "leapfrog" by default; the ball
    takes part in the acceptance. The official code has no Hamiltonian Monte Carlo.
    """
    _check(t, s, radius, beta, delta, sigma, steps, proposals, integrator, accept, aux, strategy)
    check_axis("tsam_hmc", sample_axis=sample_axis)
    is_erm = is_static_zero(radius)

    def init(params: Params) -> ChainState:
        dtype = dtype_of_state(params)
        losses, weights = jnp.zeros(s, dtype), jnp.full(s, 1 / s, dtype)
        return ChainState(zero_step(), as_key(key), losses, weights, jnp.zeros(s, dtype))

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        step, dtype = state.step, state.losses.dtype
        tilt = at(t, step)
        part = tilt / 2 if delta == "half" else at(delta, step)
        numbers = {"radius": at(radius, step), "delta": part, "beta": at(beta, step)}
        numbers = {**numbers, "sigma": at(sigma, step)}
        numbers = {name: jnp.asarray(x, dtype) for name, x in numbers.items()}

        evaluate = on_each_device(oracle.evaluate, sample_axis)

        def look_with_aux(e: Params) -> tuple[Point, PyTree]:
            here = evaluate(displace(params, e))
            return Point(e, here.value, here.grad, _tree.select(here.grad, mask)), here.aux

        def sample(sample_key: jax.Array) -> Evaluation:
            key_start, *keys = jax.random.split(sample_key, proposals + 1)
            wide = jax.tree.map(_widened, _tree.select(params, mask))
            start = noise_laws.ball(radius=numbers["radius"])(key_start, wide)
            start = _tree.add(_tree.scale(wide, 0.0), start)  # sharded as params are
            here, first_aux = look_with_aux(start)
            accepted = jnp.zeros((), dtype)
            for proposal_key in keys:
                here, moved = propose(
                    proposal_key,
                    here,
                    lambda e: look_with_aux(e)[0],
                    integrate=INTEGRATORS[integrator],
                    accept=accept,
                    steps=steps,
                    **numbers,
                )
                accepted += moved.astype(dtype)
            return Evaluation(here.value, (first_aux, accepted / proposals), here.grad)

        state = state._replace(step=optax.safe_increment(step))
        if is_erm:
            evaluation = oracle.evaluate(params)
            losses = jnp.broadcast_to(evaluation.value, (s,)).astype(dtype)
            return evaluation, state._replace(losses=losses)
        keys = jax.random.split(jax.random.fold_in(state.key, step), s)
        combined = combine_samples(
            sample,
            keys,
            tilt - part,
            strategy=strategy,
            aux="mean" if aux == "mean" else "first",
            axis=sample_axis,
        )
        kept = oracle.value(params)[1] if aux == "clean" else combined.evaluation.aux[0]
        return combined.evaluation._replace(aux=kept), state._replace(
            losses=combined.losses.astype(dtype),
            weights=combined.weights.astype(dtype),
            acceptance=combined.auxes[1],
        )

    gradients = 1 if is_erm else s * (steps * proposals + 1)
    return GradientEstimator(
        init, estimate, Cost(gradients, values=float(aux == "clean" and not is_erm))
    )


def _widened(x: jax.Array) -> jax.Array:
    """In float32 at least, so that small steps of a chain are not rounded away."""
    return x.astype(_tree.wide_dtype(x))


def _check(
    t: ScalarOrSchedule,
    s: int,
    radius: ScalarOrSchedule,
    beta: ScalarOrSchedule,
    delta: ScalarOrSchedule | Literal["half"],
    sigma: ScalarOrSchedule,
    steps: int,
    proposals: int,
    integrator: str,
    accept: str,
    aux: AuxPolicy,
    strategy: Strategy,
) -> None:
    owner = "tsam_hmc"
    if isinstance(t, AutoTilt):
        msg = f"`{owner}(t=...)` must be a number or a schedule, got {t!r}."
        raise TypeError(msg)
    check_nonnegative(owner, finite=delta == "half", t=t)
    check_nonnegative(owner, radius=radius, beta=beta, sigma=sigma)
    if is_static_zero(sigma):
        msg = f"`{owner}(sigma=...)` must be a finite number > 0, got {sigma!r}."
        raise ValueError(msg)
    if delta != "half":
        check_nonnegative(owner, delta=delta)
        if is_static_number(t) and is_static_number(delta) and delta > t:
            msg = f"`{owner}(delta=...)` must be a number between 0 and t = {t!r}, got {delta!r}."
            raise ValueError(msg)
    check_positive_int(owner, s=s, steps=steps, proposals=proposals)
    check_choice(owner, tuple(INTEGRATORS), integrator=integrator)
    check_choice(owner, ACCEPTANCES, accept=accept)
    check_choice(owner, AUX_POLICIES, aux=aux)
    check_choice(owner, STRATEGIES, strategy=strategy)
