"""Tilted SAM, and naive tilted sampling, which is its special case without ascent."""

from typing import Literal

from tsam_jax import noise as noise_laws
from tsam_jax._checks import check_nonnegative, is_static_number
from tsam_jax._types import AuxPolicy, KeyLike, Mask, NoiseLaw, ScalarOrSchedule, Strategy
from tsam_jax.estimator import GradientEstimator
from tsam_jax.methods._sampled import sampled
from tsam_jax.tilting import AutoTilt

DEFAULT_NOISE = noise_laws.sphere(rms=0.006)
"""The paper's radius of 20, per coordinate of its ResNet-18 with 11 million parameters."""


def tsam(
    t: ScalarOrSchedule | AutoTilt,
    rho: ScalarOrSchedule,
    s: int,
    *,
    noise: NoiseLaw = DEFAULT_NOISE,
    delta: ScalarOrSchedule | Literal["half"] = 0.0,
    mask: Mask | None = None,
    aux: AuxPolicy = "first",
    strategy: Strategy = "auto",
    sample_axis: str | None = None,
    split_batch: bool = False,
    key: KeyLike = 0,
) -> GradientEstimator:
    r"""Tilted SAM: the gradient of a log-mean-exp of the losses around the parameters.

    Estimates the gradient of $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$
    (Eq. 3), which runs from the mean loss of the neighbourhood (t = 0) to its maximum. For
    j = 1..s (Algorithms 1 and 3):

    $\theta_j = \theta + \epsilon_j, \ \epsilon_j \sim$ noise; $\quad \hat\theta_j = \theta_j +
    \rho \frac{g(\theta_j)}{\lVert g(\theta_j) \rVert}; \quad w = \mathrm{softmax}((t - \delta)
    L(\hat\theta)); \quad \hat g = \sum_j w_j g(\hat\theta_j).$

    With `split_batch` a step costs what one of `sam` costs: the batch is cut into s slices $B_1 ..
    B_s$, in order, and sample j sees the loss of its slice alone, $L_{B_j}$ in place of L. That
    estimates the gradient of $\frac1t \log E_{\epsilon, B} e^{t L_B(\theta + \epsilon)}$, whose
    mean is also over slices B of the data: losses differ by slice as well as by perturbation, and
    the tilt weighs both, so that hard slices count more, even without noise. At t = 0 it is the
    mean over slices, each of which climbs its own loss: without noise `m_sam` of `sam`.

    Args:
      t: tilt, >= 0, also 0 and infinity; unit: one over that of the loss, so that a rescaled
        loss needs a rescaled t. A number, a traced scalar, or a schedule on the step counter; or
        `tilting.AutoTilt(fraction)`, which chooses it in every step.
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule. (The official code's `--rho`, not the paper's "rho = 20",
        which is the size of the noise: see `from_paper`.)
      s: number of samples, a positive integer, known before tracing.
      noise: law of the perturbations, `(key, params) -> perturbation`, or a design such as
        `antithetic(law)`, under which samples depend on each other: see `tsam_jax.noise`. It sees
        only the masked leaves (None elsewhere). With strategy "unrolled" a law is called once for
        each sample, in the order 0..s-1.
      delta: part of the tilt that the sampling is taken to account for: the weights use
        t - delta. A number between 0 and t, a schedule, or "half" for t / 2. 0 for an `AutoTilt`,
        which chooses the tilt of the weights itself.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.
      aux: whose auxiliary output is returned (BatchNorm statistics, say). "first": that of the
        first finite sample, at its noise point; "mean": the mean over the finite samples, at
        their noise points; "clean": that of theta, for one more loss evaluation.
      strategy: "auto", "vectorized", "unrolled" or "streamed": see `tsam_jax.execution`. With an
        `AutoTilt` not "streamed".
      sample_axis: mesh axis over whose devices the samples are spread, s / devices on each, with
        one sum of a gradient at the end; the step must run in a `jax.shard_map` over this axis
        (`axis_names={sample_axis}` leaves the others to `jit`). Default: all samples here.
      split_batch: whether each sample sees a slice of the batch instead of all of it. s must divide
        the batch (inside of `jax.shard_map`, the device's share), which the method has to see, as
        `m_sam` has to. `aux` is then that of a slice, or the mean over slices; "clean" is that of
        the whole batch.
      key: seed or PRNG key of the noise.

    Returns:
      A `GradientEstimator` with state `SampledState`, or `AutoTiltedState` for an `AutoTilt`.
      `value` is the tilted loss of the samples at tilt t - delta, whose gradient at fixed
      perturbations is the returned one.

    Raises:
      ValueError: if a number is out of its range, or a name is none of the choices; in a step, if
        the batch is to be split and s does not divide it.
      TypeError: if `s` is not an integer or `split_batch` no boolean; in a step, if the batch is to
        be split and is not known.

    Cost: 2s gradient evaluations a step; s if `rho` is the number 0. If the noise is `none`, all
    samples are one and the same, and it costs as much as s = 1. With neither noise nor ascent it
    is `erm`. With `split_batch`: 2, or 1 if `rho` is the number 0, with any noise: what a slice
    costs counts as its share of the batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import noise, value_and_grad
      >>> loss = lambda x: jnp.sum(x**4)
      >>> estimator = tsam(t=20.0, rho=0.05, s=3, noise=noise.sphere(radius=0.1))
      >>> x = jnp.array([1.0, -1.0])
      >>> (value, grad), state = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> state.weights.shape, bool(value > loss(x))
      ((3,), True)

    Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Algorithms 1
    and 3; `split_batch` is not in the paper. Deviations from the official code: none of the
    mathematics at delta = 0 (it has no delta); losses and weights keep the precision of a float64
    model, where the official code rounds them to float32; leaves without gradient are not left
    perturbed. Deviation from the paper: delta = 0 by default, as in the official code; "half" is
    the paper's.
    """
    check_nonnegative("tsam", rho=rho)
    check_nonnegative("tsam", finite=False, t=t)
    if delta != "half":
        check_nonnegative("tsam", delta=delta)
        if is_static_number(t) and is_static_number(delta) and delta > t:
            msg = f"`tsam(delta=...)` must be a number between 0 and t = {t!r}, got {delta!r}."
            raise ValueError(msg)
    shared = (t, rho, s, noise, delta, mask, aux, strategy, sample_axis, key)
    return sampled("tsam", *shared, split_batch=split_batch)


def tilted_sampling(
    t: ScalarOrSchedule | AutoTilt,
    s: int,
    *,
    noise: NoiseLaw = DEFAULT_NOISE,
    mask: Mask | None = None,
    aux: AuxPolicy = "first",
    strategy: Strategy = "auto",
    sample_axis: str | None = None,
    split_batch: bool = False,
    key: KeyLike = 0,
) -> GradientEstimator:
    r"""Naive tilted sampling: tilted weights on plain noise, without ascent.

    Estimates the gradient of $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$ by
    $\epsilon_j \sim$ noise, $w = \mathrm{softmax}(t L(\theta + \epsilon))$,
    $\hat g = \sum_j w_j g(\theta + \epsilon_j)$.

    Args:
      t: tilt, as for `tsam`.
      s: number of samples, a positive integer, known before tracing.
      noise: law of the perturbations, as for `tsam`.
      mask: which leaves are perturbed, as for `tsam`.
      aux: whose auxiliary output is returned, as for `tsam`.
      strategy: how samples are evaluated, as for `tsam`.
      sample_axis: mesh axis over which samples are spread, as for `tsam`.
      split_batch: whether each sample sees a slice of the batch, as for `tsam`.
      key: seed or PRNG key of the noise.

    Returns:
      A `GradientEstimator` with state `SampledState`, or `AutoTiltedState` for an `AutoTilt`;
      `value` is the tilted loss of the samples.

    Raises:
      ValueError: as for `tsam`.
      TypeError: as for `tsam`.

    Cost: s gradient evaluations a step; 1 if the noise is `none`, and with `split_batch`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import noise, value_and_grad
      >>> estimator = tilted_sampling(t=1.0, s=2, noise=noise.gaussian(rms=0.1))
      >>> x = jnp.ones(3)
      >>> (value, grad), state = value_and_grad(jnp.sum, estimator)(x, estimator.init(x))
      >>> [round(g, 4) for g in grad.tolist()]
      [1.0, 1.0, 1.0]

    Source: Li et al. 2025, Eq. 70; the t that is missing from its printed denominator is
    restored.
    """
    shared = (t, 0.0, s, noise, 0.0, mask, aux, strategy, sample_axis, key)
    return sampled("tilted_sampling", *shared, split_batch=split_batch)
