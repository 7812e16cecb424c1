"""What `preview` shows is what a step gets, with the labels that are trained on."""

import jax
import numpy as np
import pytest

from tsam_jax import data
from tsam_jax.train import config
from tsam_jax.train.preview import preview
from tsam_jax.train.task import prepare_task

RNG = np.random.default_rng(0)
PART = data.Examples(
    RNG.integers(0, 256, (40, 8, 8, 3), np.uint8), RNG.integers(0, 3, 40).astype(np.int32)
)
SPLITS = data.Splits(
    PART,
    PART,
    PART,
    num_classes=3,
    class_names=("cat", "dog", "owl"),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
)
TASK = config.Task(model="cnn", augmentation="crop-flip", label_noise=0.5, train_size=None)


def test_images_and_labels_are_those_of_training():
    figure = preview(TASK, SPLITS, seed=1, images=6)
    *panels, matrix = figure.get_axes()
    pictures = [panel.images[0].get_array() for panel in panels]
    np.testing.assert_allclose(pictures[:6], PART.inputs[:6] / 255)
    loaded = prepare_task(TASK, SPLITS, [1])
    seen = loaded.network.augment(jax.random.split(jax.random.key(1), 3)[2], PART.inputs[:6])
    undone = np.clip(np.asarray(seen) * SPLITS.std + SPLITS.mean, 0, 1)
    np.testing.assert_allclose(pictures[18:], undone, atol=1e-6)
    assert np.abs(undone - PART.inputs[:6] / 255).max() > 0.5  # some were shifted or mirrored

    given = np.asarray(loaded.data.train.labels[0])
    for panel, old, new in zip(panels[:6], PART.labels, given, strict=False):
        names = SPLITS.class_names
        expected = names[new] if old == new else f"{names[new]}\n(is {names[old]})"
        assert panel.get_title() == expected
    shares = matrix.images[0].get_array()
    assert shares[1, 2] == pytest.approx(np.mean(given[PART.labels == 1] == 2))
    wrong = 1 - np.sum(np.diag(shares) * np.bincount(PART.labels)) / 40
    assert wrong == pytest.approx(0.5)


def test_what_has_no_images_is_refused():
    flat = SPLITS._replace(train=data.Examples(np.zeros((4, 2)), np.zeros(4, np.int32)))
    with pytest.raises(config.ConfigError, match="`preview` is for images in classes"):
        preview(TASK, flat)
