"""Measures of flatness, slices of the loss surface, and the paper's theory and toy problems.

All are pure functions of `(loss_fn, params, ...)`. You can jit them, and vmap most of them over a
leading axis of `params` (seeds) or over the noise size. `loss_fn` is a loss with its data closed
over: for the paper's figures, the mean loss over a fixed set of training examples, in evaluation
mode and without augmentation. `mean_over_batches` and `mean_over_sequence` make one from a data set
of any size. Estimates from random draws have standard errors.

The figures are in `tsam_jax.analysis.figures`, a separate import, because it needs matplotlib.
"""

from tsam_jax.analysis.batches import mean_over_batches, mean_over_sequence
from tsam_jax.analysis.curvature import (
    Eigenpairs,
    Eigenvalues,
    top_eigenpairs,
    top_eigenvalues,
)
from tsam_jax.analysis.landscapes import (
    Plane,
    Projection,
    filter_normalised,
    loss_between,
    loss_on_line,
    loss_on_plane,
    plane_of_trajectory,
    plane_through,
    project,
    random_direction,
)
from tsam_jax.analysis.neighbourhood import (
    NeighbourhoodLoss,
    neighbourhood_curve,
    neighbourhood_loss,
    perturbed_losses,
)
from tsam_jax.analysis.objectives import Objectives, cross_objective_table, objectives
from tsam_jax.analysis.products import gauss_newton_loss, gauss_newton_product, hvp
from tsam_jax.analysis.sampler import (
    GradientQuality,
    ReferenceGradient,
    SampleDiagnostics,
    gradient_quality,
    reference_gradient,
    sample_diagnostics,
)
from tsam_jax.analysis.sharpness import (
    Estimate,
    WorstCase,
    average_sharpness,
    m_sharpness,
    worst_case_sharpness,
)
from tsam_jax.analysis.spectrum import (
    HessianTrace,
    Spectrum,
    hessian_trace,
    smoothed_density,
    spectral_density,
)
from tsam_jax.analysis.summary import report
from tsam_jax.analysis.theory import (
    GeneralisationBound,
    generalisation_bound,
    small_tilt_expansion,
    tilt_derivative,
    tilted_hessian_product,
)
from tsam_jax.analysis.tilted import TiltedStatistics, t_sharpness, tilted_statistics

__all__ = [
    "Eigenpairs",
    "Eigenvalues",
    "Estimate",
    "GeneralisationBound",
    "GradientQuality",
    "HessianTrace",
    "NeighbourhoodLoss",
    "Objectives",
    "Plane",
    "Projection",
    "ReferenceGradient",
    "SampleDiagnostics",
    "Spectrum",
    "TiltedStatistics",
    "WorstCase",
    "average_sharpness",
    "cross_objective_table",
    "filter_normalised",
    "gauss_newton_loss",
    "gauss_newton_product",
    "generalisation_bound",
    "gradient_quality",
    "hessian_trace",
    "hvp",
    "loss_between",
    "loss_on_line",
    "loss_on_plane",
    "m_sharpness",
    "mean_over_batches",
    "mean_over_sequence",
    "neighbourhood_curve",
    "neighbourhood_loss",
    "objectives",
    "perturbed_losses",
    "plane_of_trajectory",
    "plane_through",
    "project",
    "random_direction",
    "reference_gradient",
    "report",
    "sample_diagnostics",
    "small_tilt_expansion",
    "smoothed_density",
    "spectral_density",
    "t_sharpness",
    "tilt_derivative",
    "tilted_hessian_product",
    "tilted_statistics",
    "top_eigenpairs",
    "top_eigenvalues",
    "worst_case_sharpness",
]
