"""Metrics of GLUE, by scikit-learn and scipy: of all predictions of a part, on the host.

They are no means over examples (F1, correlations), so that means over batches would be wrong.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tsam_jax.train import config, losses
from tsam_jax.train.network import Network

HostMetric = Callable[[np.ndarray, np.ndarray], float]
"""(outputs (n, K), labels (n,)) -> a number, the larger the better."""


def matthews(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation of the predicted and the true classes.

    Args:
      outputs: logits, shape (n, K).
      labels: shape (n,), integers in 0..K - 1.

    Returns:
      A number in -1..1; 0 if all predictions, or all labels, are the same.

    Example:
      >>> round(matthews(np.array([[1, 0], [0, 1], [0, 1], [0, 1]]), np.array([0, 1, 1, 0])), 4)
      0.5774
    """
    predicted = outputs.argmax(axis=-1)
    if _constant(predicted) or _constant(labels):
        return 0.0
    from sklearn import metrics  # slow to import, and few runs need it

    return float(metrics.matthews_corrcoef(labels, predicted))


def f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The harmonic mean of precision and recall of class 1; of more than two classes, their mean.

    Args:
      outputs: logits, shape (n, K).
      labels: shape (n,), integers in 0..K - 1.

    Returns:
      A number in 0..1; 0 if a class is never right.

    Example:
      >>> round(f1(np.array([[1, 0], [0, 1], [0, 1], [0, 1]]), np.array([0, 1, 1, 0])), 4)
      0.8
    """
    classes = outputs.shape[-1]
    options: dict[str, Any] = {"average": "binary" if classes == 2 else "macro"}
    if classes > 2:
        options["labels"] = range(classes)
    predicted = outputs.argmax(axis=-1)
    from sklearn import metrics  # slow to import, and few runs need it

    return float(metrics.f1_score(labels, predicted, zero_division=0, **options))


def pearson(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of the only output and the label.

    Args:
      outputs: shape (n, 1).
      labels: shape (n,), real numbers.

    Returns:
      A number in -1..1; 0 if the predictions, or the labels, are constant; NaN if a prediction is
      not finite.

    Example:
      >>> round(pearson(np.array([[1.0], [2.0], [3.0]]), np.array([10.0, 20.0, 30.0])), 6)
      1.0
    """
    return _correlation("pearsonr", outputs, labels)


def spearman(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's correlation of the ranks of the only output and of the label.

    Args:
      outputs: shape (n, 1).
      labels: shape (n,), real numbers; equal ones share the mean of their ranks.

    Returns:
      As of `pearson`.

    Example:
      >>> spearman(np.array([[1.0], [2.0], [9.0]]), np.array([1.0, 2.0, 3.0]))
      1.0
    """
    return _correlation("spearmanr", outputs, labels)


HOST_METRICS: Mapping[str, HostMetric] = {
    "matthews": matthews,
    "f1": f1,
    "pearson": pearson,
    "spearman": spearman,
}
"""Name -> metric that sees all predictions of a part at once."""

_OF_NUMBERS = ("pearson", "spearman")

GLUE: Mapping[str, tuple[str, ...]] = {
    "CoLA": ("matthews", "accuracy"),
    "SST-2": ("accuracy",),
    "MRPC": ("accuracy", "f1"),
    "STS-B": ("pearson", "spearman"),
    "QQP": ("accuracy", "f1"),
    "MNLI": ("accuracy",),
    "QNLI": ("accuracy",),
    "RTE": ("accuracy",),
    "WNLI": ("accuracy",),
}
"""Task -> what it is judged by; the first one chooses settings and epochs.

Source: Wang et al., "GLUE", ICLR 2019, Table 1; CoLA's accuracy is in the table of Li et al. 2025.
"""

_ONE_IN_PAPER = ("MRPC", "QQP")  # whose F1 the paper's table does not have


def glue_average(measured: Mapping[str, Mapping[str, float]]) -> float:
    """The average of the paper's table of GLUE.

    Args:
      measured: task, a key of `GLUE`, -> metric -> value.

    Returns:
      The plain mean of 11 numbers: both of CoLA and of STS-B, the accuracy of the other seven.

    Raises:
      ValueError: if one of them is missing.

    Example:
      >>> glue_average({task: dict.fromkeys(names, 0.5) for task, names in GLUE.items()})
      0.5

    Source: Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025, Table 1; its column AVG is
    this mean within 0.03, where a mean over tasks of the means of pairs is not.
    """
    columns = [
        (task, name)
        for task, names in GLUE.items()
        for name in (names[:1] if task in _ONE_IN_PAPER else names)
    ]
    missing = [f"{task} {name}" for task, name in columns if name not in measured.get(task, {})]
    if missing:
        msg = f"`measured` must have all columns of the table; it lacks {', '.join(missing)}."
        raise ValueError(msg)
    return float(np.mean([measured[task][name] for task, name in columns]))


def metrics_of(task: config.Task, num_classes: int | None) -> tuple[str, ...]:
    """What a task is measured by, beside its loss.

    Args:
      task: the task; its `metrics` are taken if it names some.
      num_classes: number of classes; None for regression.

    Returns:
      Names, the first of which chooses: those of the task in `GLUE`, else the accuracy of classes.

    Raises:
      ConfigError: if a name is unknown, or not for such labels.
    """
    allowed = [*losses.METRICS, *(name for name in HOST_METRICS if name not in _OF_NUMBERS)]
    if num_classes is None:
        allowed = list(_OF_NUMBERS)
    for name in task.metrics:
        if name not in allowed:
            labels = "numbers" if num_classes is None else "classes"
            msg = f"`--metrics` of {labels} must be of {', '.join(allowed)}, got {name!r}."
            raise config.ConfigError(msg)
    known = {_plain(name): names for name, names in GLUE.items()}
    kind, _, name = task.dataset.replace("/", ":").partition(":")
    usual = known.get(_plain(name)) if kind == "glue" else None
    return tuple(task.metrics) or usual or (() if num_classes is None else ("accuracy",))


def with_metrics(network: Network, names: Sequence[str]) -> Network:
    """A network that is also measured on the host.

    Args:
      network: the network.
      names: metrics; those that are not of `HOST_METRICS` it has already.

    Returns:
      The network; if there are any, its `score` also returns the outputs, for them.
    """
    chosen = {name: HOST_METRICS[name] for name in names if name in HOST_METRICS}
    if not chosen:
        return network

    def score(outputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        return {**network.score(outputs, labels), "outputs": outputs}

    return network._replace(score=score, host_metrics=chosen)


def measured_on_host(
    measure: Callable[[Any, Any], dict[str, Any]],
    metrics: Mapping[str, HostMetric],
    parts: Sequence[str],
) -> Callable[[Any, Any], dict[str, Any]]:
    """A function that measures, with what is measured on the host in place of the outputs.

    Args:
      measure: (state, data) -> numbers, shape (g,), and "PART_outputs", shape (g, n, K).
      metrics: name -> metric.
      parts: the measured parts.

    Returns:
      (state, data) -> numbers, shape (g,) each.
    """
    if not metrics:
        return measure

    def measured(state: Any, data: Any) -> dict[str, Any]:
        found: dict[str, Any] = jax.device_get(measure(state, data))
        for part in parts:
            outputs = found.pop(f"{part}_outputs")
            labels = np.asarray(getattr(data, part).labels)[..., : outputs.shape[1]]
            rows = list(zip(outputs, np.broadcast_to(labels, outputs.shape[:2]), strict=True))
            for name, metric in metrics.items():
                found[f"{part}_{name}"] = np.array([metric(*row) for row in rows], np.float32)
        return found

    return measured


def _correlation(function: str, outputs: np.ndarray, labels: np.ndarray) -> float:
    predicted = np.asarray(outputs[:, 0], np.float64)
    if not np.isfinite(predicted).all():
        return float("nan")
    if _constant(predicted) or _constant(labels):
        return 0.0
    from scipy import stats

    with warnings.catch_warnings():  # nearly constant predictions: rounding, and no news
        warnings.simplefilter("ignore")
        found = getattr(stats, function)(predicted, np.asarray(labels, np.float64))
    return float(found.statistic) if np.isfinite(found.statistic) else 0.0


def _constant(values: np.ndarray) -> bool:
    return bool(np.all(values == values[0]))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
