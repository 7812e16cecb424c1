"""ASAM, GSAM, WSAM and other SAMs against their authors' code; see tests/data/golden/README.md."""

import golden_records
import jax.numpy as jnp
import numpy as np
import pytest
from golden_records import STEPS, replay

from tsam_jax import methods

FAMILIES = ("tsamrepo_sam", "po_sam", "davda54_asam", "samsung_asam", "gsam", "po_wsam")
NAMES = golden_records.names(*FAMILIES)


def learning_rate(meta):
    """Schedule of GSAM's records: constant for one step, then a cosine."""
    if meta.get("schedule") != "cosine":
        return lambda step: jnp.asarray(meta["lr"])
    return lambda step: (
        meta["lr"] * (1 + jnp.cos(jnp.pi * jnp.maximum(step - 1.0, 0.0) / meta["T_max"])) / 2
    )


def make_gsam(meta):
    if meta["schedule"] != "cosine":
        return methods.gsam(meta["rho"], meta["alpha"], adapt=meta["adaptive"], eta=0.0)
    ends = {key: meta[key] for key in ("rho_min", "rho_max")}
    follow = methods.rho_from_lr(learning_rate(meta), **ends, lr_min=0.0, lr_max=meta["lr"])
    # the authors' code sets the learning rate only after the first step
    return methods.gsam(
        lambda step: jnp.where(step == 0, meta["rho_min"], follow(step)), meta["alpha"]
    )


def make_estimator(name, meta):
    match meta["peer"]:
        case "gsam":
            return make_gsam(meta)
        case "po_wsam":
            return methods.wsam(meta["rho"], meta["gamma"])
        case "samsung_asam" if meta["cls"] == "ASAM":
            named = {"adapt": True} if "named_weight" in name else {}  # theta has one axis
            return methods.asam(meta["rho"], eta=meta["eta"], **named)
        case _ if meta.get("adaptive", False):
            return methods.asam(meta["rho"], eta=0.0, adapt=True)
        case _:
            return methods.sam(meta["rho"])


def check(name, dtype, tolerance):
    record = golden_records.load(name)
    meta = record.meta
    actual = replay(record, make_estimator(name, meta), dtype, learning_rate(meta))
    gamma = meta.get("gamma", 0.5)
    golden_records.check(actual, record, tolerance, share=gamma / (1 - gamma))


def test_all_records_are_covered():
    assert len(NAMES) == 2 + 4 + 4 + 7 + 6 + 2


@pytest.mark.parametrize("name", NAMES)
def test_float64(name, x64):
    check(name, jnp.float64, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_float32(name):
    check(name, jnp.float32, 1e-5)


@pytest.mark.parametrize("name", golden_records.names("gsam"))
def test_rho_follows_the_learning_rate(name, x64):
    meta, arrays = golden_records.load(name).meta, golden_records.load(name).arrays
    steps = np.arange(STEPS)
    np.testing.assert_allclose([learning_rate(meta)(k) for k in steps], arrays["lr_used"])
    if meta["schedule"] == "cosine":
        rho = methods.rho_from_lr(
            learning_rate(meta),
            rho_min=meta["rho_min"],
            rho_max=meta["rho_max"],
            lr_min=0.0,
            lr_max=meta["lr"],
        )
        np.testing.assert_allclose([rho(k) for k in steps[1:]], arrays["rho_used"][1:])
        assert arrays["rho_used"][0] == meta["rho_min"]
