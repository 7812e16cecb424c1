"""TSAM with the paper's numbers."""

from typing import Any, Literal

import jax

from tsam_jax import noise as noise_laws
from tsam_jax._checks import check_nonnegative
from tsam_jax._types import Scalar, ScalarOrSchedule
from tsam_jax.estimator import GradientEstimator
from tsam_jax.methods._common import at, check_share, zero_step
from tsam_jax.methods._tsam import tsam


def from_paper(
    t: ScalarOrSchedule,
    s: int,
    *,
    rho: ScalarOrSchedule = 20.0,
    alpha: ScalarOrSchedule = 0.995,
    delta: ScalarOrSchedule | Literal["half"] = "half",
    **options: Any,
) -> GradientEstimator:
    r"""`tsam` in the paper's own terms, where one rho bounds noise and ascent together.

    The share alpha of the ball goes to the noise and the rest to the ascent: a sphere of radius
    $\alpha \rho$ and an ascent step of $(1 - \alpha) \rho$, so that $\lVert \epsilon \rVert \le
    \rho$. The paper's rho = 20 and alpha = 0.995 give 19.9 and 0.1, which are the values in the
    official run scripts.

    Args:
      t: tilt, as for `tsam`.
      s: number of samples, as for `tsam`.
      rho: radius of the neighbourhood, >= 0; a number, a traced scalar, or a schedule. It depends
        on the number of parameters: 20 is for networks with millions.
      alpha: share of the noise, between 0 and 1; a number, a traced scalar, or a schedule.
      delta: as for `tsam`; the paper's is "half".
      **options: `mask`, `aux`, `strategy`, `sample_axis`, `split_batch`, `key`, as for `tsam`.

    Returns:
      A `GradientEstimator`: that of `tsam`.

    Raises:
      ValueError: if a number is out of its range.

    Cost: 2s gradient evaluations a step; 2 with `split_batch`.

    Example:
      >>> from_paper(t=20.0, s=5).cost.gradients
      10

    Source: Li et al. 2025, Appendix C.1 ("rho to be 20", "alpha to be 0.995", delta = t/2). The
    printed Algorithm 3 has no alpha; this reading is the one that matches the official scripts.
    """
    check_nonnegative("from_paper", rho=rho)
    check_share("from_paper", alpha=alpha)

    def split(step: jax.Array) -> tuple[Scalar, Scalar]:
        share, radius = at(alpha, step), at(rho, step)
        return share * radius, (1 - share) * radius

    if callable(alpha) or callable(rho):
        law = noise_laws.sphere(radius=lambda step: split(step)[0])
        return tsam(t, lambda step: split(step)[1], s, noise=law, delta=delta, **options)
    radius, ascent = split(zero_step())
    law = noise_laws.sphere(radius=radius)
    return tsam(t, ascent, s, noise=law, delta=delta, **options)
