"""The benchmarks run, and their arithmetic is right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "benchmarks"


def run(script, folder, *options, env=None):
    command = [sys.executable, SCRIPTS / script, *options, "--output", folder / "record.json"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **(env or {})})
    return json.loads((folder / "record.json").read_text())


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    options = ["--models", "mlp", "--samples", "2", "--batch", "2", "--repeats", "3"]
    return run("step.py", tmp_path_factory.mktemp("benchmark"), *options)


def test_every_strategy_is_measured_against_its_count_of_gradients(record):
    plain, sam, *tilted = record["measurements"]
    assert plain["ratio_quartiles"] == [1.0, 1.0, 1.0]
    assert (sam["method"], sam["gradients"]) == ("sam", 2)
    assert [x["strategy"] for x in tilted] == ["vectorized", "unrolled", "streamed"]
    for this in tilted:
        assert this["outcome"] == "measured"
        pairs = zip(this["seconds"], plain["seconds"], strict=True)
        ratios = sorted(a / (4 * b) for a, b in pairs)
        assert this["ratio_quartiles"][1] == pytest.approx(ratios[1])


def test_recommendation_is_the_fastest(record):
    (row,) = record["recommendation"]
    medians = {
        x["strategy"]: sorted(x["seconds"])[1]
        for x in record["measurements"]
        if x["method"] == "tsam"
    }
    assert row["best"] == min(medians, key=medians.get)
    assert row["auto_over_best"] == pytest.approx(medians[row["auto"]] / medians[row["best"]])


def test_variances_of_the_designs_are_relative_to_plain_draws(tmp_path):
    options = ["--problems", "quadratic", "--samples", "4", "--draws", "40"]
    fast_compile = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    record = run("variance.py", tmp_path, *options, env=fast_compile)
    assert record["settings"] == {"draws": 40}
    [rows] = record["relative_to_plain"].values()
    assert [row["s"] for row in rows] == [4, 4, 4, 4]
    assert [row["tilt_times_spread"] for row in rows] == [0.0, 0.1, 1.0, 10.0]
    for kind in "variance", "squared_error":
        of = {design: [row[kind][design] for row in rows] for design in rows[0][kind]}
        assert of["plain"] == [1.0] * 4
        assert of["antithetic"][0] == of["both"][0] == 0.0  # gradients are odd, so pairs cancel
        assert 0 < of["antithetic"][1] < 0.1 < of["antithetic"][2]
        assert min(of["orthogonal"]) > 0.5


def test_noise_is_measured_against_plain_gradients(tmp_path):
    options = ["--models", "mlp", "--samples", "1", "--batch", "2", "--repeats", "3"]
    fast_compile = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    [steps] = run("noise.py", tmp_path, *options, env=fast_compile)["models"].values()
    assert list(steps) == ["gradient", "sphere", "sphere by jax.random.normal", "free"]
    plain = sorted(steps["gradient"]["seconds"])[1]
    for name, row in steps.items():
        assert row["compile_cpu_seconds"] > 0
        gradients = 1 if name == "gradient" else 2
        ratio = sorted(row["seconds"])[1] / (gradients * plain)
        assert row["ratio_quartiles"][1] == pytest.approx(ratio)
    assert steps["sphere"]["cpu_ratio_quartiles"][0] > 0
