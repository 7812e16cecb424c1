"""Losses and metrics by name. Everything that depends on a metric reads its row of `METRICS`."""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from tsam_jax.train import config

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(outputs, labels) -> the loss of each example; shapes (n, outputs), (n,) and (n,), float32."""


def cross_entropy(outputs: jax.Array, labels: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy of logits (n, K), with targets 1 - e + e/K and e/K for e = `smoothing`.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
    Section 7; `optax.smooth_labels`.
    """
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)  # type: ignore[no-any-return]
    targets = optax.smooth_labels(jax.nn.one_hot(labels, outputs.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(outputs, targets)  # type: ignore[no-any-return]


def official(outputs: jax.Array, labels: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """Kullback-Leibler divergence from smoothed labels, as in the paper's code.

    KL(p || softmax(outputs)),  p = 1 - e for the label and e / (K - 1) for each other class:
    unlike the smoothed cross-entropy it can reach 0. The difference is a constant, which changes no
    tilt weight.

    Source: the loss of the official code of Li et al., "Tilted Sharpness-Aware Minimization", ICML
    2025, where e = 0.1.
    """
    classes = outputs.shape[-1]
    truth = jax.nn.one_hot(labels, classes)
    targets = (1 - smoothing) * truth + smoothing / (classes - 1) * (1 - truth)
    return optax.losses.kl_divergence(jax.nn.log_softmax(outputs), targets)  # type: ignore[no-any-return]


def squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Squared error of the only output, shape (n, 1): regression."""
    return (outputs[:, 0] - labels) ** 2


LOSSES: Mapping[str, Callable[..., jax.Array]] = {
    "cross-entropy": cross_entropy,
    "official": official,
    "mse": squared_error,
}
"""Name -> loss."""


class Metric(NamedTuple):
    """A number that is measured on a part of a data set.

    `function` maps (outputs, labels), NumPy arrays of all examples, to a number; NaN if the values
    come from elsewhere. `labels` are those it is for; `percent` is how it is shown.
    """

    name: str
    function: Callable[[Any, Any], Any] = lambda outputs, labels: float("nan")  # noqa: ARG005
    labels: Literal["classes", "numbers", "any"] = "classes"
    percent: bool = False
    higher_is_better: bool = True

    def shown(self, value: float | None, digits: int = 2) -> str:
        """Formats a value."""
        if value is None or np.isnan(value):
            return "-"
        return f"{100 * value:.{digits}f} %" if self.percent else f"{value:.4g}"

    def better(self, value: float) -> float:
        """Returns a number that is larger for better values; -inf for an unknown one."""
        signed = value if self.higher_is_better else -value
        return -np.inf if np.isnan(value) else signed


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of examples whose largest output is the label's."""
    return float(np.mean(outputs.argmax(axis=-1) == labels))


def matthews(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation of the predicted and the true classes, 0 if either is constant."""
    from sklearn import metrics  # slow to import, and few runs need it

    with warnings.catch_warnings(action="ignore"):  # of a single class
        return float(metrics.matthews_corrcoef(labels, outputs.argmax(axis=-1)))


def f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """F1 score of class 1; of more than two classes, the mean of their scores."""
    from sklearn import metrics  # slow to import, and few runs need it

    classes, predicted = range(outputs.shape[-1]), outputs.argmax(axis=-1)
    scores = metrics.f1_score(labels, predicted, labels=classes, average=None, zero_division=0)
    return float(scores[1] if len(scores) == 2 else np.mean(scores))


def pearson(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of the only output, shape (n, 1), and the label.

    0 if either is constant; NaN if a prediction is not finite.
    """
    return _correlation("pearsonr", outputs, labels)


def spearman(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's correlation: that of the ranks, in which equal values share their mean rank."""
    return _correlation("spearmanr", outputs, labels)


def _correlation(function: str, outputs: np.ndarray, labels: np.ndarray) -> float:
    from scipy import stats

    pair = np.stack([outputs[:, 0], labels]).astype(np.float64)
    if not (np.isfinite(pair).all() and np.ptp(pair, axis=1).all()):
        return 0.0 if np.isfinite(pair).all() else float("nan")
    with warnings.catch_warnings(action="ignore"):  # nearly constant predictions: no news
        return float(np.nan_to_num(getattr(stats, function)(*pair).statistic))


_ROWS = (
    Metric("loss", labels="any", higher_is_better=False),
    Metric("accuracy", accuracy, percent=True),
    Metric("matthews", matthews),
    Metric("f1", f1),
    Metric("pearson", pearson, labels="numbers"),
    Metric("spearman", spearman, labels="numbers"),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ROWS}
"""Name -> metric. The network computes "loss", whose function is that of the task."""

_GLUE: Mapping[str, tuple[str, ...]] = {
    "cola": ("matthews", "accuracy"),
    "mrpc": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("accuracy", "f1"),
}
"""Task -> what it is judged by, if that is not the accuracy alone.

Source: Wang et al., "GLUE", ICLR 2019, Table 1; CoLA's accuracy is in the table of Li et al. 2025.
"""


def metric(name: str) -> Metric:
    """Returns the metric of a logged name such as "validation_accuracy"; else a user's own one."""
    name = name.partition("_")[2] if name.startswith(("train_", "validation_", "test_")) else name
    return METRICS.get(name, Metric(name))


def metrics_of(task: config.Task, num_classes: int | None) -> tuple[str, ...]:
    """Names of the metrics of a task, besides its loss.

    The first one selects epochs and settings. Those that the task names; else those of the GLUE
    task, in files or in TensorFlow Datasets, versioned or not; else the accuracy; () for other
    regression. `num_classes` is None for regression.

    Raises:
      ConfigError: if a name is unknown, or not for such labels.
    """
    labels = "numbers" if num_classes is None else "classes"
    allowed = [name for name, one in METRICS.items() if one.labels == labels]
    for name in task.metrics:
        config.known(name, allowed, f"metric (`--metrics`) of {labels}")
    glue = re.match(r"(?:tfds:)?glue[:/]([\w-]+)", task.dataset)
    usual = _GLUE.get(re.sub("[-_]", "", glue[1]).lower()) if glue else None
    return tuple(task.metrics) or usual or (() if num_classes is None else ("accuracy",))
