"""Tilted SAM, naive tilted sampling, and TSAM with the paper's parameters."""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

from tsam_jax import _checks, _fold, _tree
from tsam_jax import noise as noise_laws
from tsam_jax._checks import (
    Array,
    AuxPolicy,
    BatchArgument,
    Mask,
    NoiseLaw,
    Params,
    PyTree,
    Scalar,
    ScalarOrSchedule,
    Strategy,
)
from tsam_jax.estimator import Cost, GradientEstimator, Loss, Result
from tsam_jax.methods.ascent import ascend, at, displace, no_memory
from tsam_jax.tilting import AutoTilt, tilt_for_ess

DEFAULT_NOISE = noise_laws.sphere(rms=0.006)
"""The paper's radius of 20, per coordinate of its ResNet-18 (11 million parameters)."""


def tilts(
    t: ScalarOrSchedule, delta: ScalarOrSchedule | Literal["half"], step: Array
) -> tuple[Array, Array]:
    """Splits the tilt into that of the weights, (1 - delta) t, and the rest, delta t.

    Returns:
      Two non-negative scalars. A fraction of 0 gives a tilt of 0 even for t = infinity, where the
      product is NaN.
    """
    fraction, tilt = jnp.asarray(0.5 if delta == "half" else at(delta, step)), at(t, step)
    dtype = _tree.accumulator_dtype(fraction, tilt)
    fraction = jnp.clip(fraction.astype(dtype), 0, 1)
    tilt = jnp.maximum(jnp.asarray(tilt, dtype), 0)
    rest = 1 - fraction
    zero = jnp.zeros_like(tilt)
    return jnp.where(rest > 0, rest * tilt, zero), jnp.where(fraction > 0, fraction * tilt, zero)


def shapes_of(s: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the metrics of s samples."""
    return {"losses": (s,), "weights": (s,), "tilt": (), "effective_sample_size": ()}


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
    split_batch: bool | BatchArgument = False,
) -> GradientEstimator:
    r"""Tilted SAM: gradient of the log-mean-exp of the losses around the parameters.

    Estimates the gradient of $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$
    (Eq. 3), which ranges from the mean loss of the neighbourhood (t = 0) to its maximum
    (t = infinity). For j = 1..s (Algorithms 1 and 3):

    $\theta_j = \theta + \epsilon_j, \ \epsilon_j \sim$ noise; $\quad \hat\theta_j = \theta_j +
    \rho \frac{g(\theta_j)}{\lVert g(\theta_j) \rVert}; \quad w = \mathrm{softmax}((1 - \delta) t
    L(\hat\theta)); \quad \hat g = \sum_j w_j g(\hat\theta_j).$

    With `split_batch`, a step costs as much as one of `sam`: the batch is split in order into s
    slices $B_1 .. B_s$, and sample j uses the loss of its slice, $L_{B_j}$, in place of L. This
    estimates the gradient of $\frac1t \log E_{\epsilon, B} e^{t L_B(\theta + \epsilon)}$, where
    the mean is also over slices B of the data. Losses differ by slice as well as by perturbation,
    and the tilt weights both: hard slices count more, even without noise. At t = 0, it is the mean
    over slices that each ascend their own loss; without noise, that is `m_sam` of `sam`.

    Args:
      t: tilt in units of 1/loss, >= 0, including 0 and infinity; rescale it when you rescale the
        loss. A number, a traced scalar, or a schedule on the step counter (negative values count as
        0); or `tilting.AutoTilt(fraction)`, which chooses the tilt in every step.
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule. It is `--rho` of the official code, not the paper's
        "rho = 20", which is the size of the noise: see `from_paper`.
      s: number of samples, a positive integer known before tracing.
      noise: law of the perturbations, `(key, params) -> perturbation`, or a design such as
        `antithetic(law)`, which makes samples depend on each other: see `tsam_jax.noise`. It
        receives the masked leaves (None elsewhere). Sample j of a step draws with
        `jax.random.split(key of the step, s)[j]`. With strategy "unrolled", a law is called once
        for each sample, in the order 0..s-1.
      delta: fraction of the tilt attributed to the sampling, between 0 and 1: the weights use
        (1 - delta) t. A number, a traced scalar, or a schedule; "half", the paper's choice, is 0.5.
        Must be 0 with an `AutoTilt`, which chooses the tilt of the weights.
      mask: pytree of booleans over the parameters (a prefix is enough), or a function from
        parameters to one. Only leaves marked True are perturbed. Default: all leaves.
      aux: source of the returned auxiliary output (such as BatchNorm statistics). "first": the
        first finite sample, before its ascent; "mean": the mean over the finite samples, before
        their ascents; "clean": theta, at the cost of one more loss evaluation.
      strategy: how samples are evaluated; results agree to rounding. "vectorized": one `vmap`;
        "unrolled": a Python loop while tracing; "streamed": a `lax.scan`, in the memory of one
        sample (not with an `AutoTilt`); "auto": the fastest in our measurements. Without `jit`,
        "streamed" is unrolled.
      sample_axis: mesh axis over which samples are spread, s / devices on each device, with one sum
        of a gradient at the end. The step must run in a `jax.shard_map` over this axis
        (`axis_names={sample_axis}` leaves the other axes to `jit`). Default: every device evaluates
        all samples.
      split_batch: argument of the loss that holds the batch, to give each sample a slice of it: a
        name, a position (1 is the first after the parameters), or a tuple of these; True means
        "batch". s must divide the number of examples (inside `jax.shard_map`, those of the device).
        `aux` is then that of a slice, or the mean over slices; "clean" uses the whole batch.

    Returns:
      A `GradientEstimator` without memory. `value` is the tilted loss of the samples at tilt
      (1 - delta) t; its gradient at fixed perturbations is the estimate. Metrics: `losses` and
      `weights`, shape (s,), with loss NaN and weight 0 for a non-finite sample; `tilt` of the
      weights; `effective_sample_size`, between 1 and s.

    Raises:
      ValueError: if a number is out of range, or a name is not one of the choices; in a step, if
        s does not divide a batch to be split.
      TypeError: if `s` is not an integer; in a step, if the loss has no argument `split_batch`.

    Cost: 2s gradient evaluations per step; s if `rho` is the number 0. With noise `none` all
    samples are the same, and the cost is that of s = 1. With neither noise nor ascent it is `erm`.
    With `split_batch`: 2, or 1 if `rho` is the number 0, with any noise, because an evaluation of
    a slice counts as its fraction of the batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import noise, value_and_grad
      >>> loss = lambda x: jnp.sum(x**4)
      >>> step = value_and_grad(loss, tsam(t=20.0, rho=0.05, s=3, noise=noise.sphere(radius=0.1)))
      >>> x = jnp.array([1.0, -1.0])
      >>> (value, grad), state = step(x, step.init(x))
      >>> state.last.metrics["weights"].shape, bool(value > loss(x))
      ((3,), True)

    Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Algorithms 1
    and 3; `split_batch` is not in the paper. With delta = 0 the mathematics is that of the official
    code, which has no delta. Deviations from that code: losses and weights of a float64 model keep
    its precision instead of being rounded to float32; leaves without gradient do not stay
    perturbed. Deviations from the paper: delta is a fraction of t, where the paper subtracts it
    from t; its default is 0, as in the official code, where the paper's is "half".
    """
    _checks.nonnegative("tsam", rho=rho)
    _check("tsam", t, s, noise, delta, aux, strategy, sample_axis)
    still = noise is noise_laws.none
    batch: BatchArgument | None = None
    if split_batch is not False:
        batch = "batch" if split_batch is True else split_batch
        _checks.batch("tsam(split_batch=...)", batch)
    distinct = 1 if still and batch is None else s  # without noise, all samples are equal
    climbs = not _checks.is_static_zero(rho)
    is_erm = distinct == 1 and still and not climbs

    def tilt_at(step: Array) -> Any:
        if isinstance(t, AutoTilt):
            return functools.partial(tilt_for_ess, fraction=at(t.fraction, step))
        return tilts(t, delta, step)[0]

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        draw = noise_laws.drawer(noise, step, key, s)

        def start(j: Any) -> tuple[Loss, Params]:
            of_sample = loss if batch is None else loss.on(j, s, batch)
            if still:
                return of_sample, params
            return of_sample, displace(params, draw(j, _tree.select(params, mask)))  # Alg. 3, l. 2

        def climb(point: Params, grad: Params) -> tuple[Params, Array]:  # Alg. 3, line 3
            climbed, others = _tree.split(grad, mask)
            direction, finite = _tree.unit_and_finite(climbed)
            return displace(point, direction, at(rho, step)), finite & _tree.all_finite(others)

        if is_erm:  # directly: other operations would change how XLA rounds the base optimizer
            here = loss(params)
            metrics = spread(_fold.weigh_one(here, tilt_at(step)), s)
            return here._replace(metrics=metrics), memory
        sampled = _fold.tilted(  # Alg. 1, lines 3 and 4
            start,
            distinct,
            tilt_at(step),
            climb=climb if climbs else None,
            strategy=strategy,
            aux="mean" if aux == "mean" else "first",
            axis=sample_axis if distinct == s else None,
        )
        if distinct < s:
            sampled = sampled._replace(metrics=spread(sampled.metrics, s))
        kept = loss.value(params)[1] if aux == "clean" else sampled.aux
        return sampled._replace(aux=kept), memory

    evaluations = 1 if batch is not None else distinct  # of the whole batch, per point
    cost = Cost(evaluations * (1 + climbs), values=float(aux == "clean" and not is_erm))
    return GradientEstimator(no_memory(**shapes_of(s)), estimate, cost)


def _check(
    owner: str, t: Any, s: Any, noise: Any, delta: Any, aux: Any, strategy: Any, sample_axis: Any
) -> None:
    """Raises on arguments out of range, and on options incompatible with `AutoTilt`."""
    _checks.positive_int(owner, s=s)
    if delta != "half":
        _checks.fraction(owner, delta=delta)
    _checks.choice(owner, _checks.AUX_POLICIES, aux=aux)
    _checks.choice(owner, _checks.STRATEGIES, strategy=strategy)
    _checks.axis(owner, sample_axis=sample_axis)
    if not callable(noise):
        msg = f"`{owner}(noise=...)` must be a law of `tsam_jax.noise` or a function (key, params)"
        msg += f" -> perturbation, got {noise!r}."
        raise TypeError(msg)
    if not isinstance(t, AutoTilt):
        _checks.nonnegative(owner, finite=False, t=t)
        return
    if not _checks.is_static_zero(delta):
        msg = f"`{owner}(delta=...)` must be 0 with an `AutoTilt`, got {delta!r}."
        raise ValueError(msg)
    if strategy == "streamed":
        msg = (
            f"`{owner}(strategy=...)` cannot be 'streamed' with an `AutoTilt`, since it merges"
            " gradients before all losses are known. Use 'auto', 'vectorized' or 'unrolled'."
        )
        raise ValueError(msg)


def spread(metrics: Mapping[str, Any], s: int) -> dict[str, Array]:
    """Metrics of s equal samples, from those of one."""
    return {
        "losses": jnp.broadcast_to(metrics["losses"], (s,)),
        "weights": jnp.broadcast_to(metrics["weights"] / s, (s,)),
        "tilt": metrics["tilt"],
        "effective_sample_size": metrics["effective_sample_size"] * s,
    }


def tilted_sampling(
    t: ScalarOrSchedule | AutoTilt,
    s: int,
    *,
    noise: NoiseLaw = DEFAULT_NOISE,
    mask: Mask | None = None,
    aux: AuxPolicy = "first",
    strategy: Strategy = "auto",
    sample_axis: str | None = None,
    split_batch: bool | BatchArgument = False,
) -> GradientEstimator:
    r"""Naive tilted sampling: `tsam` without the ascent (rho = 0).

    Estimates the gradient of $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$ by
    $\epsilon_j \sim$ noise, $w = \mathrm{softmax}(t L(\theta + \epsilon))$,
    $\hat g = \sum_j w_j g(\theta + \epsilon_j)$.

    Args:
      t: tilt, as for `tsam`.
      s: number of samples, a positive integer known before tracing.
      noise: law of the perturbations, as for `tsam`.
      mask: leaves to perturb, as for `tsam`.
      aux: source of the auxiliary output, as for `tsam`.
      strategy: how samples are evaluated, as for `tsam`.
      sample_axis: mesh axis over which samples are spread, as for `tsam`.
      split_batch: argument of the loss to split into slices, as for `tsam`.

    Returns:
      A `GradientEstimator` with the metrics of `tsam`; `value` is the tilted loss of the samples.

    Raises:
      ValueError: as for `tsam`.
      TypeError: as for `tsam`.

    Cost: s gradient evaluations per step; 1 with noise `none` or with `split_batch`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import noise, value_and_grad
      >>> estimator = tilted_sampling(t=1.0, s=2, noise=noise.gaussian(rms=0.1))
      >>> x = jnp.ones(3)
      >>> step = value_and_grad(jnp.sum, estimator)
      >>> (value, grad), state = step(x, step.init(x))
      >>> [round(g, 4) for g in grad.tolist()]
      [1.0, 1.0, 1.0]

    Source: Li et al. 2025, Eq. 70, with the t that its printed denominator lacks.
    """
    _check("tilted_sampling", t, s, noise, 0.0, aux, strategy, sample_axis)
    options: dict[str, Any] = {"noise": noise, "mask": mask, "aux": aux, "strategy": strategy}
    return tsam(t, 0.0, s, **options, sample_axis=sample_axis, split_batch=split_batch)


def shared_tsam(
    t: ScalarOrSchedule | AutoTilt,
    rho: ScalarOrSchedule,
    s: int,
    *,
    noise: NoiseLaw = DEFAULT_NOISE,
    mask: Mask | None = None,
    aux: AuxPolicy = "clean",
    strategy: Strategy = "auto",
    sample_axis: str | None = None,
) -> GradientEstimator:
    r"""TSAM with one ascent shared by all samples, along the gradient at the parameters.

    For j = 1..s, with $\epsilon_j \sim$ noise:

    $\hat\theta_j = \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert} + \epsilon_j; \quad
    w = \mathrm{softmax}(t L(\hat\theta)); \quad \hat g = \sum_j w_j g(\hat\theta_j).$

    This is `tilted_sampling` around the point of `sam`. It differs from `tsam`, where each sample
    ascends along its own gradient $g(\theta + \epsilon_j)$. For the quadratic loss
    $\frac a2 \lVert \theta \rVert^2$ at t = 0, the expected gradients are $a (\theta + \rho \,
    u(\theta))$ here and $a (\theta + \rho E[u(\theta + \epsilon)])$ for `tsam`, where u
    normalises. The difference vanishes for small noise. For large noise, $E[u(\theta + \epsilon)]$
    is short, so the same rho has more effect here.

    Args:
      t: tilt, as for `tsam`.
      rho: length of the ascent, as for `sam`.
      s: number of samples, a positive integer known before tracing.
      noise: law of the perturbations, as for `tsam`.
      mask: leaves to perturb, as for `tsam`.
      aux: source of the auxiliary output. "clean", the default: theta, at no extra cost; "first" or
        "mean": the samples, as for `tilted_sampling`.
      strategy: how samples are evaluated, as for `tsam`.
      sample_axis: mesh axis over which samples are spread, as for `tsam`.

    Returns:
      A `GradientEstimator` with the metrics of `tsam`; `value` is the tilted loss of the samples.

    Raises:
      ValueError: as for `tsam`.
      TypeError: as for `tsam`.

    Cost: s + 1 gradient evaluations per step, versus 2s for `tsam`. If `rho` is the number 0,
    it is `tilted_sampling`. Without noise, all samples are the same, and the cost is that of `sam`.

    Example:
      >>> shared_tsam(t=20.0, rho=0.05, s=3).cost.gradients
      4

    Source: ours; a cheaper variant of Li et al. 2025, Algorithm 3.
    """
    _checks.nonnegative("shared_tsam", rho=rho)
    _check("shared_tsam", t, s, noise, 0.0, aux, strategy, sample_axis)
    climbs = not _checks.is_static_zero(rho)
    options: dict[str, Any] = {"noise": noise, "mask": mask, "strategy": strategy}
    of_samples: AuxPolicy = "first" if climbs and aux == "clean" else aux
    sampling = tilted_sampling(t, s, **options, aux=of_samples, sample_axis=sample_axis)
    if not climbs:
        return sampling

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = loss(params)
        top = ascend(params, first.grad, at(rho, step), mask)
        sampled, memory = sampling.estimate(loss, top, memory, step=step, key=key)
        return sampled._replace(aux=first.aux if aux == "clean" else sampled.aux), memory

    distinct = 1 if noise is noise_laws.none else s
    return GradientEstimator(sampling.init, estimate, Cost(1 + distinct))


def from_paper(
    t: ScalarOrSchedule,
    s: int,
    *,
    rho: ScalarOrSchedule = 20.0,
    alpha: ScalarOrSchedule = 0.995,
    delta: ScalarOrSchedule | Literal["half"] = "half",
    **options: Any,
) -> GradientEstimator:
    r"""`tsam` with the paper's parameters, where one rho bounds noise and ascent together.

    A fraction alpha of rho is the noise and the rest is the ascent: a sphere of radius
    $\alpha \rho$ and an ascent step of $(1 - \alpha) \rho$, so that $\lVert \epsilon \rVert \le
    \rho$. The paper's rho = 20 and alpha = 0.995 give 19.9 and 0.1, the values in the official run
    scripts.

    Args:
      t: tilt, as for `tsam`.
      s: number of samples, as for `tsam`.
      rho: radius of the neighbourhood, >= 0; a number, a traced scalar, or a schedule. It scales
        with the number of parameters: 20 suits networks with millions of them.
      alpha: fraction of rho used for noise, between 0 and 1; a number, a traced scalar, or a
        schedule.
      delta: as for `tsam`; the paper uses "half".
      **options: `mask`, `aux`, `strategy`, `sample_axis`, `split_batch`, as for `tsam`.

    Returns:
      A `GradientEstimator`: that of `tsam`.

    Raises:
      ValueError: if a number is out of range.

    Cost: 2s gradient evaluations per step; 2 with `split_batch`.

    Example:
      >>> from_paper(t=20.0, s=5).cost.gradients
      10

    Source: Li et al. 2025, Appendix C.1 ("rho to be 20", "alpha to be 0.995", and delta = t/2,
    which is the fraction 0.5). The printed Algorithm 3 has no alpha; this reading matches the
    official scripts.
    """
    _checks.nonnegative("from_paper", rho=rho)
    _checks.fraction("from_paper", alpha=alpha)

    def split(step: Array) -> tuple[Scalar, Scalar]:
        share, radius = at(alpha, step), at(rho, step)
        return share * radius, (1 - share) * radius

    if callable(alpha) or callable(rho):
        law = noise_laws.sphere(radius=lambda step: split(step)[0])
        return tsam(t, lambda step: split(step)[1], s, noise=law, delta=delta, **options)
    radius, ascent = split(jnp.int32(0))
    law = noise_laws.sphere(radius=radius)
    return tsam(t, ascent, s, noise=law, delta=delta, **options)
