"""Flatness measures of a solution: loss over a neighbourhood, largest Hessian eigenvalues.

Pure functions of `(loss_fn, params, key)`: they can be jitted, and vmapped over a leading axis of
`params` (seeds) or over the noise size. `loss_fn` is the loss to be examined, with its data
closed over: for the paper's figures the mean loss over a fixed set of training examples, in
evaluation mode and without augmentation.
"""

from tsam_jax.analysis.curvature import Eigenvalues, hvp, top_eigenvalues
from tsam_jax.analysis.neighbourhood import NeighbourhoodLoss, neighbourhood_loss

__all__ = ["Eigenvalues", "NeighbourhoodLoss", "hvp", "neighbourhood_loss", "top_eigenvalues"]
