"""Differences of test accuracy within seeds, between the methods of a report of `tsam-jax compare`.

python -m benchmarks.differences benchmarks/results/cifar10_small/noise20/report.json
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tsam_jax.train.results import Comparison, MethodResult
from tsam_jax.train.summary import early_stopped_accuracy, last, mean_and_interval


def differences(path: Path) -> Iterator[str]:
    """A line for each ordered pair of methods, in percent: mean over seeds and 95 % interval."""
    methods = Comparison.from_json_dict(json.loads(path.read_text())).methods
    for a, b in itertools.permutations(methods, 2):
        at_end = interval(last(a, "test_accuracy") - last(b, "test_accuracy"))
        early = interval(early_stopped_accuracy(a) - early_stopped_accuracy(b))
        yield f"{name(a)} - {name(b)}: {at_end}; both stopped early: {early}"


def name(method: MethodResult) -> str:
    return f"{method.name}, {method.epochs} epochs"


def interval(values: np.ndarray) -> str:
    mean, half_width = mean_and_interval(100 * values)
    return f"{mean:.1f} ± {half_width:.1f}"


if __name__ == "__main__":
    for line in differences(Path(sys.argv[1])):
        print(line)
