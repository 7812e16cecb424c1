"""Statistics over seeds: the numbers of the table, for the terminal and for the report."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from tsam_jax.train.results import Comparison, MethodResult

_CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over seeds and the half width of its 95 % interval (nan where unknown)."""

    mean: float
    half_width: float


class SummaryRow(NamedTuple):
    """One method's line in the table.

    Attributes:
      label: the method as typed.
      test_accuracy: at the last measured epoch.
      early_stopped_accuracy: test accuracy where the seed's validation accuracy is best.
      test_loss: at the last measured epoch.
      neighbourhood_mean: mean training loss under noise of the stated size.
      neighbourhood_variance: its variance.
      top_eigenvalue: largest Hessian eigenvalue.
      gradient_evaluations: mini-batch gradients per seed.
      wall_seconds: training time per seed.
    """

    label: str
    test_accuracy: Estimate
    early_stopped_accuracy: Estimate
    test_loss: Estimate
    neighbourhood_mean: Estimate
    neighbourhood_variance: Estimate
    top_eigenvalue: Estimate
    gradient_evaluations: int
    wall_seconds: float


def mean_and_interval(values: Any, /) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds, and half the width of its 95 % confidence interval.

    mean +- q s / sqrt(n),  with s the unbiased standard deviation and q the 97.5 % quantile of
    Student's t with n - 1 degrees of freedom (4.30 for 3 seeds, not 1.96).

    Args:
      values: (seeds, ...), real numbers. A nan makes its column nan: it is not skipped.

    Returns:
      Two arrays of shape (...): the means, nan for no seed, and the half widths, nan for one.

    Example:
      >>> mean, half_width = mean_and_interval([1.0, 2.0, 3.0])
      >>> round(float(mean), 3), round(float(half_width), 3)
      (2.0, 2.484)

    Reference: Student (W. S. Gosset), "The probable error of a mean", Biometrika 6(1), 1908.
    """
    values = np.asarray(values, np.float64)
    count = values.shape[0]
    unknown = np.full(values.shape[1:], np.nan)
    if count == 0:
        return unknown, unknown
    mean = np.mean(values, axis=0)
    if count == 1:
        return mean, unknown
    with np.errstate(invalid="ignore"):  # inf - inf is a nan that is wanted
        spread = np.std(values, axis=0, ddof=1)
    quantile = special.stdtrit(count - 1, (1 + _CONFIDENCE) / 2)
    return mean, quantile * spread / math.sqrt(count)


def stated_noise_rms(comparison: Comparison, /) -> float | None:
    """The noise size of the table: the middle one of those at which every method was examined.

    Args:
      comparison: the results; methods without an analysis are left out.

    Returns:
      The root mean square per coordinate, or None if there is no common size.
    """
    analysed = [method.noise_rms for method in comparison.methods if method.is_analysed]
    common = functools.reduce(np.intersect1d, analysed) if analysed else np.array([])
    return float(common[len(common) // 2]) if len(common) else None


def summary_rows(comparison: Comparison, /) -> tuple[SummaryRow, ...]:
    """The numbers of the table, for the terminal and for the report.

    Args:
      comparison: the results, complete or not.

    Returns:
      A row per method, in order; nan where something was not measured. The neighbourhood is that
      of `stated_noise_rms(comparison)`.
    """
    rms = stated_noise_rms(comparison)
    return tuple(_summary_row(method, rms) for method in comparison.methods)


def _summary_row(method: MethodResult, rms: float | None) -> SummaryRow:
    return SummaryRow(
        label=method.label,
        test_accuracy=_estimate(last(method, "test_accuracy")),
        early_stopped_accuracy=_estimate(early_stopped_accuracy(method)),
        test_loss=_estimate(last(method, "test_loss")),
        neighbourhood_mean=_estimate(_at_size(method, method.neighbourhood_mean, rms)),
        neighbourhood_variance=_estimate(_at_size(method, method.neighbourhood_variance, rms)),
        top_eigenvalue=_estimate(method.top_eigenvalue),
        gradient_evaluations=method.gradient_evaluations,
        wall_seconds=method.wall_seconds,
    )


def _estimate(values: np.ndarray) -> Estimate:
    mean, half_width = mean_and_interval(values)
    return Estimate(float(mean), float(half_width))


def last(method: MethodResult, name: str) -> np.ndarray:
    """The last value of a curve, shape (seeds,); nan if it was not measured."""
    curve = method.curves.get(name)
    unknown = np.full(len(method.seeds), np.nan)
    return unknown if curve is None or not method.curve_epochs.size else curve[:, -1]


def early_stopped_accuracy(method: MethodResult) -> np.ndarray:
    """Test accuracy where the validation accuracy of a seed is best, shape (seeds,); or nan."""
    validation, test = (method.curves.get(f"{part}_accuracy") for part in ("validation", "test"))
    if validation is None or test is None or not method.curve_epochs.size:
        return np.full(len(method.seeds), np.nan)
    known = np.where(np.isnan(validation), -np.inf, validation)
    best = np.argmax(known, axis=1)[:, None]  # the first of equals
    at_best = np.take_along_axis(test, best, axis=1)[:, 0]
    return np.where(np.isneginf(known.max(axis=1)), np.nan, at_best)


def _at_size(method: MethodResult, values: np.ndarray, rms: float | None) -> np.ndarray:
    if not method.is_analysed or rms is None:
        return np.full(len(method.seeds), np.nan)
    return values[:, np.flatnonzero(method.noise_rms == rms)[0]]
