"""Methods: functions that return a `GradientEstimator`.

A new method is one function and its lines in the tables below, from which the contract test, the
command line, the documentation and the benchmark find it.
"""

from collections.abc import Callable

from tsam_jax.estimator import GradientEstimator
from tsam_jax.methods.ascent import (
    HalfPrecisionWarning,
    asam,
    erm,
    esam2,
    gsam,
    matrices,
    pgn,
    rho_from_lr,
    rsam,
    sam,
    wsam,
)
from tsam_jax.methods.batches import m_sam, microbatched, per_device
from tsam_jax.methods.hmc import tsam_hmc
from tsam_jax.methods.memory import fsam, looksam, vasso, xsam
from tsam_jax.methods.tilted import from_paper, shared_tsam, tilted_sampling, tsam

METHODS: dict[str, Callable[..., GradientEstimator]] = {
    f.__name__: f
    for f in (
        *(erm, sam, asam, esam2, pgn, wsam, gsam, looksam, tilted_sampling, tsam, from_paper),
        shared_tsam,
        *(tsam_hmc, vasso, fsam, xsam, rsam),
    )
}
"""Name -> function that returns the `GradientEstimator`."""

WRAPPERS: dict[str, Callable[..., GradientEstimator]] = {
    f.__name__: f for f in (m_sam, microbatched, per_device)
}
"""Name -> function that wraps a `GradientEstimator`, its first argument, in another."""

__all__ = [*METHODS, *WRAPPERS, "HalfPrecisionWarning", "matrices", "rho_from_lr"]
__all__ += ["FORMULAS", "METHODS", "METRICS", "WRAPPERS"]

METRICS = {
    "loss": "loss at the parameters (rsam: at the randomly perturbed parameters)",
    "cosine": "cosine of the angle between the gradients at both ends of the ascent",
    "losses": "loss of each sample, of each step size (esam2) or of each alpha (xsam); NaN for "
    "non-finite samples, and for xsam in steps without a search",
    "weights": "tilt weight of each sample",
    "tilt": "tilt of the weights, in 1/loss",
    "effective_sample_size": "1 / sum of squared weights, from 1 to s",
    "acceptance": "fraction of the proposals that each chain accepted",
    "rho": "length of the ascent that was chosen",
    "alpha": "interpolation coefficient in use",
}
"""Name -> meaning of each metric that a method returns; float32 at least."""

# g is the gradient at theta, u(v) = v / ||v||, theta' = theta + rho u(g) is the ascent point, and
# g' is the gradient there. ghat(B) is the estimate of the inner estimator on a batch B.
FORMULAS = {
    "erm": "g",
    "sam": "g' = g(theta + rho u(g))",
    "asam": "g(theta + rho T^2 g / ||T g||), T = |theta| + eta",
    "esam2": "g(theta + rho* u(g)), rho* = argmax_k L(theta + rho_k u(g))",
    "pgn": "(1 - alpha) g + alpha g'",
    "wsam": "(1 - a) g + a g', a = gamma / (1 - gamma)",
    "gsam": "g' - alpha (g - <g, u(g')> u(g'))",
    "looksam": "every k-th step g', else g + alpha ||g|| u(g_v), g_v = g' - <g', u(g)> u(g)",
    "rsam": "g(theta + D + rho u(g(theta + D))), D ~ gamma ||w_filter|| N(0, I)",
    "vasso": "g(theta + rho u(m)), m <- (1 - theta_m) m + theta_m g",
    "fsam": "g(theta + rho u(g - sigma m)), m <- lmbda m + (1 - lmbda) g",
    "xsam": "||g'|| v(alpha*), v from u(theta' - theta) to u(g'), "
    "alpha* = argmax L(theta + rho_m v)",
    "tilted_sampling": "sum_j w_j g(theta + eps_j), w = softmax(t L(theta + eps))",
    "tsam": "sum_j w_j g(p_j), p_j = theta + eps_j + rho u(g(theta + eps_j)), "
    "w = softmax((1 - delta) t L(p))",
    "from_paper": "tsam with rho_paper split: noise alpha rho_paper, ascent (1 - alpha) rho_paper",
    "shared_tsam": "sum_j w_j g(p_j), p_j = theta + rho u(g) + eps_j, w = softmax(t L(p))",
    "tsam_hmc": "sum_j w_j g(theta + e_j), e_j by Hamiltonian steps towards exp(delta t L) "
    "on the ball",
    "m_sam": "1/n sum_i ghat(B_i), micro-batches B_1 .. B_n of m examples",
    "microbatched": "ghat(B), with L and g averaged over micro-batches of m examples",
    "per_device": "1/n sum_i ghat(B_i), B_i the part of the batch on device i of n",
}
"""Name -> formula of the gradient estimate, on one line."""
