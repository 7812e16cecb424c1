"""SAM against davda54/sam and optax.contrib.sam; see tests/data/golden/README.md."""

import golden_records
import jax.numpy as jnp
import pytest
from golden_records import replay

from tsam_jax import methods

NAMES = golden_records.names("davda54_sam", "optax_sam")


def make_sam(meta):
    """`sam` with the peer's settings: `sync_period` - 1 ascent steps, of rho each."""
    steps = meta.get("sync_period", 2) - 1
    return methods.sam(rho=steps * meta["rho"], steps=steps)


def check(name, dtype, tolerance):
    record = golden_records.load(name)
    golden_records.check(replay(record, make_sam(record.meta), dtype), record, tolerance)


def test_all_records_are_covered():
    assert len(NAMES) == 4 + 6


@pytest.mark.parametrize("name", NAMES)
def test_float64(name, x64):
    check(name, jnp.float64, 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_float32(name):
    check(name, jnp.float32, 1e-5)
