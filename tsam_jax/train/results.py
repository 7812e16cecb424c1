"""What a comparison of methods found: the record and its JSON form.

Numbers are per seed throughout; nothing is averaged before it is shown. Accuracies are fractions
in [0, 1], losses are in nats, and a budget is a number of mini-batch gradients.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}
_ARRAYS = (
    "curve_epochs",
    "noise_rms",
    "neighbourhood_mean",
    "neighbourhood_variance",
    "loss",
    "top_eigenvalue",
)


@dataclasses.dataclass(frozen=True, eq=False)
class MethodResult:
    """One method, all its seeds.

    What was not measured, because the run was interrupted, is nan, or has no columns.

    Attributes:
      label: what the user typed, e.g. "tsam(t=20, rho=0.8, s=3)"; unique in a comparison.
      name: the method's name, e.g. "tsam".
      settings: every resolved setting, learning rate and weight decay included.
      gradients_per_step: mini-batch gradients per training step.
      steps_per_epoch: training steps per epoch.
      epochs: finished epochs.
      planned_epochs: epochs asked for.
      seeds: the seeds, one per row of the arrays.
      gradient_evaluations: mini-batch gradients per seed so far.
      wall_seconds: training time per seed.
      curve_epochs: (points,), increasing: after how many epochs the curves were measured.
      curves: name -> (seeds, points): train_loss, train_accuracy (on the labels that were trained
        on, noise included), validation_loss, validation_accuracy, test_loss, test_accuracy.
      noise_rms: (n,), sizes of the noise, root mean square per coordinate.
      neighbourhood_mean: (seeds, n), mean of the training loss under that noise; (seeds, 0) when
        the analysis was not reached.
      neighbourhood_variance: like `neighbourhood_mean`, population variance.
      loss: (seeds,), training loss at the final parameters, full training set.
      top_eigenvalue: (seeds,), largest Hessian eigenvalue of that loss.
    """

    label: str
    name: str
    settings: dict[str, Any]
    gradients_per_step: float
    steps_per_epoch: int
    epochs: int
    planned_epochs: int
    seeds: tuple[int, ...]
    gradient_evaluations: int
    wall_seconds: float
    curve_epochs: np.ndarray
    curves: dict[str, np.ndarray]
    noise_rms: np.ndarray
    neighbourhood_mean: np.ndarray
    neighbourhood_variance: np.ndarray
    loss: np.ndarray
    top_eigenvalue: np.ndarray

    def __post_init__(self) -> None:
        """Makes NumPy arrays of all arrays, and checks their shapes.

        Raises:
          ValueError: if a shape does not fit the seeds, measured epochs and noise sizes.
        """
        seeds, sizes, points = len(self.seeds), np.size(self.noise_rms), np.size(self.curve_epochs)
        allowed: dict[str, list[tuple[int, ...]]] = {
            "curve_epochs": [(points,)],
            "noise_rms": [(sizes,)],
            "neighbourhood_mean": [(seeds, sizes), (seeds, 0)],
            "neighbourhood_variance": [(seeds, sizes), (seeds, 0)],
            "loss": [(seeds,)],
            "top_eigenvalue": [(seeds,)],
        }
        for field, shapes in allowed.items():
            array = _checked(f"MethodResult.{field}", getattr(self, field), shapes)
            object.__setattr__(self, field, array)  # frozen
        curves = {
            name: _checked(f"MethodResult.curves[{name!r}]", curve, [(seeds, points)])
            for name, curve in self.curves.items()
        }
        object.__setattr__(self, "curves", curves)

    @property
    def is_analysed(self) -> bool:
        """Whether the neighbourhood of the solution was measured."""
        return self.noise_rms.size > 0 and self.neighbourhood_mean.shape[1] > 0

    def to_json_dict(self) -> dict[str, Any]:
        """Returns a dictionary of JSON values; see `Comparison.to_json_dict`."""
        return {
            field.name: _to_json(getattr(self, field.name), f"{self.label}.{field.name}")
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_json_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json_dict` wrote."""
        numbers = {name: _numbers(data[name]) for name in _ARRAYS}
        scalars = {
            name: float(_numbers(data[name])) for name in ("gradients_per_step", "wall_seconds")
        }
        read = {
            "settings": _from_json(data["settings"]),
            "seeds": tuple(data["seeds"]),
            "curves": {name: _numbers(curve) for name, curve in data["curves"].items()},
        }
        return cls(**{**data, **numbers, **scalars, **read})


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Several methods on one task, trained and examined alike.

    Attributes:
      task: what was trained on. `name` (a string) and `label_noise` (the fraction of training
        labels that were replaced) are put into words in the report; other entries are listed.
      config: the resolved configuration of the run. Where it has `methods`, a sequence of labels,
        the report says which of them were not started.
      versions: package -> version.
      complete: False if the run was interrupted.
      methods: the results, in the order in which they are shown.
    """

    task: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    complete: bool
    methods: tuple[MethodResult, ...]

    def to_json_dict(self) -> dict[str, Any]:
        """Returns a dictionary that `json.dumps(..., allow_nan=False)` accepts.

        Infinities become the strings "Infinity" and "-Infinity", nan becomes null. In number and
        array fields null is read back as nan. In `settings`, `task` and `config`, where null also
        stands for None, nan is read back as None; tuples come back as lists, paths as strings.

        Returns:
          Dictionaries, lists, strings, numbers, booleans and None only.
        """
        return {
            "task": _to_json(self.task, "task"),
            "config": _to_json(self.config, "config"),
            "versions": dict(self.versions),
            "complete": bool(self.complete),
            "methods": [method.to_json_dict() for method in self.methods],
        }

    @classmethod
    def from_json_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json_dict` wrote."""
        return cls(
            task=_from_json(data["task"]),
            config=_from_json(data["config"]),
            versions=dict(data["versions"]),
            complete=data["complete"],
            methods=tuple(MethodResult.from_json_dict(method) for method in data["methods"]),
        )


def _checked(what: str, values: Any, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.size == 0 and any(math.prod(shape) == 0 for shape in shapes):
        # JSON keeps no shape behind an empty list: [] may stand for (0, 3).
        array = array.reshape(next(shape for shape in shapes if math.prod(shape) == 0))
    if array.shape not in shapes:
        msg = f"`{what}` must have shape {' or '.join(map(str, shapes))}, got {array.shape}."
        raise ValueError(msg)
    return array


def _to_json(value: Any, where: str) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _to_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    # A setting that cannot be recorded must not be lost silently.
    msg = f"`{where}` cannot be written as JSON: {value!r} of type {type(value).__name__}."
    raise TypeError(msg)


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return _INFINITIES.get(value, value) if isinstance(value, str) else value


def _numbers(value: Any) -> np.ndarray:
    # float64 turns None, JSON's null, into nan.
    return np.asarray(_from_json(value), np.float64)
