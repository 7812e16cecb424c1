"""Batch, samples and parameters over a mesh of 8 devices, against one device."""

from pathlib import Path

import device_programs
import pytest

PROGRAM = Path(__file__).parent / "mesh_program.py"
LINES = {
    "samples_under_jit": [f"jit {name}" for name in ("tsam", "chosen", "hmc", "masked")],
    "samples_in_shard_map": [
        f"shard_map {name}"
        for name in ("tsam", "mean", "worst", "sampling", "pairs", "split", "still", "chosen")
    ],
    "batch_in_shard_map": [
        f"axis_name {name}" for name in ("sam", "gsam", "esam2", "vasso", "xsam", "m_sam")
    ],
    "one_reduction": ["reduction"],
    "every_gradient_is_exchanged": ["gradients"],
    "refusals": ["refusals"],
}


@pytest.mark.parametrize("part", LINES)
def test_on_a_mesh(part):
    assert device_programs.run(PROGRAM, part) == LINES[part]


@pytest.mark.slow
def test_parameters_stay_sharded():
    assert device_programs.run(PROGRAM, "parameters_stay_sharded") == ["fsdp"]
