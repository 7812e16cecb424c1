"""The digits are real, split without overlap; label noise is what it says."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tsam_jax.data import LABEL_NOISE, corrupt_labels, digits, redraw_labels


def test_the_parts_are_all_of_the_digits_once():
    splits = digits.load()
    images, labels = load_digits(return_X_y=True)
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part.labels) for part in parts] == [1000, 297, 500]
    inputs = np.concatenate([part.inputs for part in parts])
    assert sorted((16 * inputs).tolist()) == sorted(images.tolist())
    counts = np.bincount(np.concatenate([part.labels for part in parts]))
    assert counts.tolist() == np.bincount(labels).tolist()


def test_the_parts_are_consecutive_in_a_seeded_permutation():
    splits, labels = digits.load(split_seed=3), load_digits(return_X_y=True)[1]
    shuffled = labels[np.random.default_rng(3).permutation(1797)]
    assert (splits.train.labels == shuffled[:1000]).all()
    assert (splits.validation.labels == shuffled[1000:1297]).all()
    assert (splits.test.labels == shuffled[1297:]).all()


def test_the_split_is_reproducible_and_seeded():
    first, again, other = digits.load(), digits.load(), digits.load(split_seed=1)
    assert (first.test.labels == again.test.labels).all()
    assert (first.test.labels != other.test.labels).any()


@pytest.mark.parametrize("sizes", [(1500, 297), (0, 297), (1000, 0)])
def test_sizes_that_leave_no_test_images_are_refused(sizes):
    with pytest.raises(ValueError, match="1797"):
        digits.load(train_size=sizes[0], validation_size=sizes[1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_exactly_the_fraction_becomes_another_class(seed, fraction):
    clean = np.random.default_rng(seed).integers(0, 10, 500)
    before = clean.copy()
    noisy = corrupt_labels(clean, fraction=fraction, num_classes=10, seed=seed)
    assert (noisy != clean).sum() == round(500 * fraction)
    assert (clean == before).all()
    assert noisy.min() >= 0
    assert noisy.max() <= 9


def test_the_other_classes_are_equally_likely():
    clean = np.zeros(90_000, int)
    noisy = corrupt_labels(clean, fraction=1.0, num_classes=10, seed=0)
    counts = np.bincount(noisy, minlength=10)
    assert counts[0] == 0
    assert abs(counts[1:] - 10_000).max() < 4 * np.sqrt(10_000 * 8 / 9)  # 4 standard errors


@pytest.mark.parametrize(("fraction", "classes"), [(-0.1, 10), (1.1, 10), (0.4, 1)])
def test_impossible_noise_is_refused(fraction, classes):
    with pytest.raises(ValueError, match=r"corrupt_labels\("):
        corrupt_labels(np.zeros(10, int), fraction=fraction, num_classes=classes, seed=0)


def test_the_official_law_redraws_from_all_classes():
    clean = np.zeros(90_000, int)
    noisy = redraw_labels(clean, fraction=0.5, num_classes=10, seed=0)
    wrong = np.bincount(noisy, minlength=10)[1:]
    expected = 90_000 * 0.5 / 10
    assert abs(wrong - expected).max() < 4 * np.sqrt(expected * 0.95)  # 4 standard errors
    assert abs((noisy != clean).mean() - 0.45) < 4 * np.sqrt(0.45 * 0.55 / 90_000)


def test_the_official_laws_number_of_redrawn_labels_is_random():
    clean = np.full(500, 3)
    counts = {
        int((redraw_labels(clean, fraction=0.4, num_classes=10, seed=i) != clean).sum())
        for i in range(5)
    }
    assert len(counts) > 1


def test_the_official_law_is_that_of_its_seed_and_leaves_its_argument_alone():
    clean = np.arange(200, dtype=np.int32) % 5
    before = clean.copy()
    noisy = redraw_labels(clean, fraction=0.2, num_classes=5)
    assert noisy.dtype == np.int32
    assert (clean == before).all()
    assert (noisy == redraw_labels(clean, fraction=0.2, num_classes=5, seed=12345)).all()


def test_the_official_laws_labels_are_those_that_its_calls_give():
    # as run with NumPy's global generator: seed 12345, rand(12), choice(100, 3)
    noisy = redraw_labels(np.full(12, -1), fraction=0.5, num_classes=100)
    assert noisy.tolist() == [-1, 77, 10, 81, *[-1] * 8]


@pytest.mark.parametrize("law", LABEL_NOISE)
def test_no_law_is_for_regression(law):
    with pytest.raises(ValueError, match=r"num_classes=\.\.\.\)` must be at least 2, got None"):
        LABEL_NOISE[law](np.zeros(3, np.float32), fraction=0.1, num_classes=None, seed=0)
