"""Tilted losses, their weights, and the partial result that samples are folded into.

For losses L_1..L_s and a tilt t >= 0 (unit: one over the unit of the loss),

    L_t = (1/t) log((1/s) sum_j exp(t L_j)),        w_j = exp(t L_j) / sum_i exp(t L_i),

and w is the gradient of L_t in L. t = 0 is the mean, t = inf the maximum. Losses are
handled in float32 at least. A loss that is not finite counts as absent: it gets weight 0
and the rest is renormalised; if no loss is finite the result is NaN.

Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Eq. 3,
Definition 3.1 and Lemma 3.2.
"""

from tsam_jax.tilting._auto import AutoTilt, tilt_for_ess
from tsam_jax.tilting._means import (
    TiltedMean,
    merge,
    merge_over,
    stacked_mean,
    tilted_mean,
    weighted_mean,
)
from tsam_jax.tilting._weights import effective_sample_size, tilt_weights, tilted_loss

__all__ = [
    "AutoTilt",
    "TiltedMean",
    "effective_sample_size",
    "merge",
    "merge_over",
    "stacked_mean",
    "tilt_for_ess",
    "tilt_weights",
    "tilted_loss",
    "tilted_mean",
    "weighted_mean",
]
