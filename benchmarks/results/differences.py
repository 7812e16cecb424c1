"""Differences of test accuracy within seeds, between the methods of a stored comparison.

python benchmarks/results/differences.py benchmarks/results/cifar10_small/noise20/report.json

Reads the report.json of the stored results: a list of methods with curves of shape (seeds, points).
Reports of `tsam-jax compare` hold the differences to their first setting themselves.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tsam_jax.train.table import mean_and_interval


def differences(path: Path) -> Iterator[str]:
    """A line for each ordered pair of methods, in percent: mean over seeds and 95 % interval."""
    for a, b in itertools.permutations(json.loads(path.read_text())["methods"], 2):
        at_end = interval(last(a) - last(b))
        early = interval(early_stopped(a) - early_stopped(b))
        yield f"{name(a)} - {name(b)}: {at_end}; both stopped early: {early}"


def last(method: dict[str, Any]) -> np.ndarray:
    return np.array(method["curves"]["test_accuracy"])[:, -1]


def early_stopped(method: dict[str, Any]) -> np.ndarray:
    """Test accuracy of each seed at the first epoch of its best validation accuracy."""
    best = np.argmax(method["curves"]["validation_accuracy"], axis=1)[:, None]
    return np.take_along_axis(np.array(method["curves"]["test_accuracy"]), best, axis=1)[:, 0]


def name(method: dict[str, Any]) -> str:
    return f"{method['name']}, {method['epochs']} epochs"


def interval(values: np.ndarray) -> str:
    mean, half_width = mean_and_interval(100 * values)
    return f"{mean:.1f} ± {half_width:.1f}"


if __name__ == "__main__":
    for line in differences(Path(sys.argv[1])):
        print(line)
