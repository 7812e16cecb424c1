"""The record of a comparison and its statistics over seeds."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tsam_jax.train.results import Comparison, MethodResult
from tsam_jax.train.summary import mean_and_interval, stated_noise_rms, summary_rows

CURVES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def method(label="sam(rho=0.1)", *, seeds=2, epochs=3, sizes=(0.01, 0.02, 0.05), **changes):
    columns = np.arange(seeds * epochs, dtype=float).reshape(seeds, epochs)
    points = np.arange(seeds * len(sizes), dtype=float).reshape(seeds, len(sizes))
    fields = {
        "label": label,
        "name": label.partition("(")[0],
        "settings": {"rho": 0.1, "lr": 0.03},
        "gradients_per_step": 2.0,
        "steps_per_epoch": 20,
        "epochs": epochs,
        "planned_epochs": epochs,
        "seeds": tuple(range(seeds)),
        "gradient_evaluations": 40 * epochs,
        "wall_seconds": 1.5,
        "curve_epochs": np.arange(1.0, epochs + 1),
        "curves": dict.fromkeys((*CURVES, "test_loss", "test_accuracy"), columns),
        "noise_rms": np.array(sizes),
        "neighbourhood_mean": points,
        "neighbourhood_variance": points + 100,
        "loss": np.zeros(seeds),
        "top_eigenvalue": np.ones(seeds),
    }
    return MethodResult(**{**fields, **changes})


def comparison(*methods, **changes):
    fields = {"task": {}, "config": {}, "versions": {}, "complete": True, "methods": methods}
    return Comparison(**{**fields, **changes})


def round_trip(record):
    return Comparison.from_json_dict(json.loads(json.dumps(record.to_json_dict(), allow_nan=False)))


def assert_same(one, other):
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name == "methods":
            for a, b in zip(left, right, strict=True):
                assert_same(a, b)
        elif field.name == "curves":
            assert left.keys() == right.keys()
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right, strict=True)
        else:
            assert left == right, field.name


def test_json_round_trip():
    record = comparison(
        method(), method("erm", seeds=1), task={"name": "digits"}, versions={"jax": "0.10.2"}
    )
    assert_same(round_trip(record), record)


def test_json_round_trip_of_non_finite_numbers():
    record = comparison(
        method(
            "tsam(t=inf)",
            settings={"t": math.inf, "low": -math.inf, "nested": [{"t": math.inf}]},
            loss=np.array([np.nan, np.inf]),
            wall_seconds=math.nan,
        )
    )
    back = round_trip(record).methods[0]
    assert back.settings == record.methods[0].settings
    np.testing.assert_array_equal(back.loss, [np.nan, np.inf])
    assert math.isnan(back.wall_seconds)


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"seeds": 0}, {"seeds": 0, "epochs": 0}])
def test_json_round_trip_of_empty_arrays(changes):
    seeds = changes.get("seeds", 2)
    record = comparison(method(**changes, neighbourhood_mean=np.zeros((seeds, 0))))
    assert_same(round_trip(record), record)


def test_json_reads_containers_back_as_documented():
    record = comparison(config={"sizes": (1, 2), "out": Path("runs") / "a", "x": np.float32(0.5)})
    assert round_trip(record).config == {"sizes": [1, 2], "out": "runs/a", "x": 0.5}


def test_a_setting_that_cannot_be_recorded_is_an_error():
    with pytest.raises(TypeError, match=r"`sam\(rho=0.1\).settings.noise` cannot be written"):
        comparison(method(settings={"noise": object()})).to_json_dict()


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match=r"`MethodResult.loss` must have shape \(2,\), got \(3,\)"):
        method(loss=np.zeros(3))
    with pytest.raises(ValueError, match=r"curves\['test_loss'\]` must have shape \(2, 3\)"):
        method(curves={"test_loss": np.zeros((2, 4))})
    with pytest.raises(ValueError, match=r"shape \(2, 3\) or \(2, 0\), got \(2, 2\)"):
        method(neighbourhood_mean=np.zeros((2, 2)))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10, 31, 200])
def test_interval_is_students(count):
    values = np.random.default_rng(count).normal(size=(count, 3))
    mean, half_width = mean_and_interval(values)
    low, high = scipy.stats.t.interval(
        0.95, count - 1, loc=values.mean(axis=0), scale=scipy.stats.sem(values, axis=0)
    )
    np.testing.assert_allclose(mean - half_width, low, rtol=1e-9)
    np.testing.assert_allclose(mean + half_width, high, rtol=1e-9)


def test_interval_of_one_seed_is_unknown_and_nan_is_not_skipped():
    mean, half_width = mean_and_interval([0.5])
    assert mean == 0.5
    assert np.isnan(half_width)
    assert np.isnan(mean_and_interval([0.5, np.nan])[0])
    assert np.isnan(mean_and_interval([])[0])


def test_summary_takes_the_last_epoch_and_the_best_validation_epoch_of_each_seed():
    record = method()
    record.curves["validation_accuracy"] = np.array([[0.1, 0.9, 0.2], [0.7, 0.7, np.nan]])
    record.curves["test_accuracy"] = np.array([[0.3, 0.4, 0.5], [0.6, 0.7, 0.8]])
    (row,) = summary_rows(comparison(record))
    assert row.test_accuracy.mean == pytest.approx(0.65)
    assert row.early_stopped_accuracy.mean == pytest.approx(0.5)  # 0.4 and, first of equals, 0.6
    quantile = scipy.stats.t.ppf(0.975, 1)
    assert row.test_accuracy.half_width == pytest.approx(quantile * 0.15)


def test_summary_is_at_the_middle_of_the_common_noise_sizes():
    record = comparison(
        method("erm"),
        method("sam", sizes=(0.005, 0.02, 0.05, 0.1)),
        method("tsam", sizes=(0.7,), neighbourhood_mean=np.zeros((2, 0))),  # not analysed
    )
    assert stated_noise_rms(record) == 0.05
    erm, sam, tsam = summary_rows(record)
    assert erm.neighbourhood_mean.mean == pytest.approx((2 + 5) / 2)
    assert sam.neighbourhood_variance.mean == pytest.approx(100 + (2 + 6) / 2)
    assert np.isnan(tsam.neighbourhood_mean.mean)


def test_summary_of_what_was_not_measured_is_nan():
    record = method(epochs=0, sizes=(), curves={}, top_eigenvalue=np.full(2, np.nan))
    (row,) = summary_rows(comparison(record))
    assert stated_noise_rms(comparison(record)) is None
    estimates = [value.mean for value in row if isinstance(value, tuple)]
    assert len(estimates) == 6
    assert np.all(np.isnan(estimates))
    assert summary_rows(comparison()) == ()
