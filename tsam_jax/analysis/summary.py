"""All measures of flatness for several models, as plain data."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax import _checks, noise
from tsam_jax._checks import Params
from tsam_jax.analysis.curvature import top_eigenvalues
from tsam_jax.analysis.neighbourhood import neighbourhood_loss, perturbed_losses
from tsam_jax.analysis.sharpness import worst_case_sharpness
from tsam_jax.analysis.spectrum import hessian_trace
from tsam_jax.analysis.tilted import tilted_statistics


def report(
    models: Mapping[str, tuple[Callable[[Params], jax.Array], Params]],
    key: jax.Array,
    /,
    *,
    rms: tuple[float, ...] = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05),
    t: float = 20.0,
    rho: float = 0.1,
    num_samples: int = 100,
    num_eigenvalues: int = 5,
    num_matvecs: int | None = None,
    num_probes: int = 32,
) -> dict[str, dict[str, Any]]:
    """Compute all measures of flatness for several models, for a table of them.

    All models use the same noise, so differences are less noisy than values. With the training data
    in `loss_fn`, the measures are those of the paper. A network with BatchNorm must be in
    evaluation mode in `loss_fn`.

    Args:
      models: name -> (loss_fn, params), with loss_fn: `params -> scalar`, as from
        `mean_over_batches`.
      key: random key.
      rms: sizes of the Gaussian noise per coordinate. Default: 0.005, and those of Figure 2.
      t: tilt of the tilted statistics, at each noise size.
      rho: radius of the worst-case sharpness.
      num_samples: draws of the noise per size.
      num_eigenvalues: k of `top_eigenvalues`; the paper reports 5.
      num_matvecs: Lanczos steps, as for `top_eigenvalues`.
      num_probes: probes of the trace.

    Returns:
      Name -> dict of floats and lists of floats, ready for `json.dumps` (None replaces non-finite
      numbers). Lists have the length of `rms` or `num_eigenvalues`; "..._se" are standard errors.
      Costs len(rms) * num_samples losses, 20 gradients, and 2 * num_probes + 80 gradients or more,
      per model.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.analysis import report
      >>> bowl = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * x**2)
      >>> row = report(
      ...     {"bowl": (bowl, jnp.zeros(2))}, jax.random.key(0), rms=(0.1,), num_eigenvalues=1
      ... )["bowl"]
      >>> round(row["top_eigenvalues"][0], 3), round(row["trace"], 3), sorted(row)[0]
      (3.0, 4.0, 'effective_sample_size')

    Source: Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Section 5.2 and
    Figure 2, and the other measures of this package.
    """
    _checks.nonnegative("report", finite=False, t=t)
    _checks.nonnegative("report", rho=rho)
    _checks.positive_int("report", num_samples=num_samples, num_probes=num_probes)

    def measure(loss_fn: Callable[[Params], jax.Array], params: Params) -> dict[str, Any]:
        keys = jax.random.split(key, 4)

        def at_size(size: jax.Array) -> Any:
            law = noise.gaussian(rms=size)
            moments = neighbourhood_loss(
                loss_fn, params, keys[0], noise=law, num_samples=num_samples
            )
            draws = perturbed_losses(loss_fn, params, keys[0], noise=law, num_samples=num_samples)
            return moments, tilted_statistics(draws, t)

        moments, tilted = jax.lax.map(at_size, jnp.asarray(rms))
        top = top_eigenvalues(loss_fn, params, keys[1], k=num_eigenvalues, num_matvecs=num_matvecs)
        traces = hessian_trace(loss_fn, params, keys[2], num_probes=num_probes)
        worst = worst_case_sharpness(loss_fn, params, keys[3], rho=rho)
        return {
            "loss": loss_fn(params),
            "rms": jnp.asarray(rms),
            "mean": moments.mean,
            "mean_se": moments.standard_error,
            "variance": moments.variance,
            "variance_se": moments.variance_standard_error,
            "tilt": jnp.asarray(t, float),
            "tilted_loss": tilted.loss,
            "tilted_loss_se": tilted.loss_standard_error,
            "t_sharpness": tilted.variance,
            "t_sharpness_se": tilted.variance_standard_error,
            "effective_sample_size": tilted.effective_sample_size,
            "rho": jnp.asarray(rho, float),
            "worst_case_sharpness": worst.sharpness,
            "top_eigenvalues": top.values,
            "top_eigenvalue_residuals": top.residuals,
            "trace": traces.trace.value,
            "trace_se": traces.trace.standard_error,
        }

    rows = {}
    for name, (loss_fn, params) in models.items():
        row = jax.device_get(jax.jit(lambda p, f=loss_fn: measure(f, p))(params))
        rows[name] = {field: _plain(value) for field, value in row.items()}
    return rows


def _plain(value: np.ndarray) -> Any:
    """Floats and lists of floats; None for non-finite numbers, which JSON lacks."""
    if np.ndim(value):
        return [_plain(x) for x in value]
    number = float(value)
    return number if math.isfinite(number) else None
