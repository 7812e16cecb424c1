"""The benchmark runs, and its arithmetic is right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "step.py"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    output = tmp_path_factory.mktemp("benchmark") / "step.json"
    options = ["--models", "mlp", "--samples", "2", "--batch", "2", "--repeats", "3", "--output"]
    subprocess.run([sys.executable, SCRIPT, *options, output], check=True, capture_output=True)
    return json.loads(output.read_text())


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
