"""Losses by name, against NumPy and against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.train.losses import LOSSES, accuracy

OUTPUTS = jnp.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
LABELS = jnp.array([0, 2])


def log_softmax():
    x = np.asarray(OUTPUTS, np.float64)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_cross_entropy():
    found = LOSSES["cross-entropy"](OUTPUTS, LABELS)
    np.testing.assert_allclose(found, [-log_softmax()[0, 0], -log_softmax()[1, 2]], rtol=1e-6)


def test_smoothing_as_in_optax_gives_each_class_its_share():
    targets = np.full((2, 3), 0.1 / 3)
    targets[[0, 1], [0, 2]] += 0.9
    found = LOSSES["cross-entropy"](OUTPUTS, LABELS, smoothing=0.1)
    np.testing.assert_allclose(found, -(targets * log_softmax()).sum(axis=1), rtol=1e-5)


def test_the_official_smoothing_gives_the_other_classes_their_share_and_can_reach_zero():
    targets = np.full((2, 3), 0.1 / 2)
    targets[[0, 1], [0, 2]] = 0.9
    divergence = (targets * (np.log(targets) - log_softmax())).sum(axis=1)
    found = LOSSES["official"](OUTPUTS, LABELS, smoothing=0.1)
    np.testing.assert_allclose(found, divergence, rtol=1e-5)
    best = LOSSES["official"](jnp.log(jnp.asarray(targets)), LABELS, smoothing=0.1)
    np.testing.assert_allclose(best, 0, atol=1e-6)


def test_the_official_loss_without_smoothing_is_the_cross_entropy():
    found = LOSSES["official"](OUTPUTS, LABELS)
    np.testing.assert_allclose(found, LOSSES["cross-entropy"](OUTPUTS, LABELS), rtol=1e-6)


def test_squared_error_is_of_the_only_output():
    assert LOSSES["mse"](jnp.array([[1.0], [3.0]]), jnp.array([0.0, 5.0])).tolist() == [1, 4]


def test_accuracy():
    assert accuracy(OUTPUTS, LABELS).item() == pytest.approx(0.5)
