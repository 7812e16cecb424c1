"""Augmentation is what brute force on each image says, and deterministic by its key."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.data import augmentation


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(1, 256, (64, 6, 7, 3), np.uint8)


def shifted(image, down, right):
    """What is seen through a window that starts at (down, right) from the image's corner."""
    height, width, channels = image.shape
    out = np.zeros_like(image)
    for i, j, c in itertools.product(range(height), range(width), range(channels)):
        if 0 <= i + down < height and 0 <= j + right < width:
            out[i, j, c] = image[i + down, j + right, c]
    return out


def test_normalise_is_per_channel(images):
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    got = augmentation.normalise(jnp.asarray(images), mean, std)
    for c in range(3):
        np.testing.assert_allclose(
            got[..., c], (images[..., c] / 255 - mean[c]) / std[c], rtol=2e-6, atol=1e-7
        )
    assert got.dtype == jnp.float32


def test_normalise_takes_floating_point_as_it_is():
    images = jnp.full((1, 2, 2, 1), 0.75, jnp.bfloat16)
    got = augmentation.normalise(images, [0.25], [0.5])
    assert got.dtype == jnp.bfloat16
    assert (got == 1).all()


def test_each_crop_is_one_of_the_shifts(images, key):
    cropped = np.asarray(augmentation.random_crop(key, jnp.asarray(images), 2))
    places = list(itertools.product(range(-2, 3), repeat=2))
    found = []
    for image, crop in zip(images, cropped, strict=True):
        found += [place for place in places if (shifted(image, *place) == crop).all()]
    assert len(found) == len(images)
    assert len(set(found)) > 15  # of 25: the images do not share their shift
    assert {-2, 2} <= {down for down, _ in found} & {right for _, right in found}


def test_a_crop_without_padding_changes_nothing(images, key):
    assert (augmentation.random_crop(key, jnp.asarray(images), 0) == images).all()


def test_about_half_of_the_images_are_mirrored_left_to_right(images, key):
    flipped = np.asarray(augmentation.random_flip(key, jnp.asarray(images)))
    mirrored = 0
    for image, flip in zip(images, flipped, strict=True):
        if (flip == image[:, ::-1]).all():
            mirrored += 1
        else:
            assert (flip == image).all()
    assert abs(mirrored - 32) <= 4 * 4  # 4 standard deviations


@pytest.mark.parametrize("size", [0, 3, 4])
def test_each_patch_is_a_square_that_the_border_may_cut(images, key, size):
    cut = np.asarray(augmentation.cutout(key, jnp.asarray(images), size))
    corners = set()
    for image, patched in zip(images, cut, strict=True):
        candidates = [
            (top, left)
            for top, left in itertools.product(
                range(-(size // 2), 6 - size // 2), range(-(size // 2), 7 - size // 2)
            )
            if (patched == with_patch(image, top, left, size)).all()
        ]
        assert candidates
        corners.add(candidates[0])
    if size:
        tops, lefts = zip(*corners, strict=True)
        assert (min(tops), max(tops)) == (-(size // 2), 5 - size // 2)
        assert (min(lefts), max(lefts)) == (-(size // 2), 6 - size // 2)


def with_patch(image, top, left, size):
    out = image.copy()
    out[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 0
    return out


def test_the_share_of_images_with_a_patch(key):
    cut = augmentation.cutout(key, jnp.ones((400, 2, 2, 1)), 1, probability=0.25)
    assert abs(int((cut.sum(axis=(1, 2, 3)) == 3).sum()) - 100) < 4 * np.sqrt(400 * 3 / 16)


def test_official_cuts_out_half_of_the_images_after_normalising(key):
    images = jnp.full((100, 32, 32, 3), 255, jnp.uint8)
    got = np.asarray(augmentation.official(key, images, [0.5] * 3, [0.25] * 3))
    assert set(np.unique(got)) == {-2.0, 0.0, 2.0}  # padding, patch, image
    centre = got[:, 4:28, 4:28]  # out of the padding's reach
    patched = (centre == 0).any(axis=(1, 2, 3)).sum()
    assert abs(patched - 50) < 4 * np.sqrt(25)
    assert (got == 0).sum(axis=(1, 2, 3)).max() <= 3 * 16 * 16


def test_the_steps_of_the_official_recipe_have_keys_of_their_own(images, key):
    crop_key, flip_key, cutout_key = jax.random.split(key, 3)
    expected = augmentation.random_flip(flip_key, jnp.asarray(images))
    expected = augmentation.random_crop(crop_key, expected, 4)
    expected = augmentation.normalise(expected, [0.5] * 3, [0.25] * 3)
    expected = augmentation.cutout(cutout_key, expected, 16, probability=0.5)
    got = augmentation.official(key, jnp.asarray(images), [0.5] * 3, [0.25] * 3)
    np.testing.assert_array_equal(got, expected)


def test_compiled_and_mapped_it_is_the_same(images, key):
    def augment(key, images):
        return augmentation.official(key, images, [0.5] * 3, [0.25] * 3, padding=1, cutout_size=2)

    once = augment(key, jnp.asarray(images))
    np.testing.assert_allclose(jax.jit(augment)(key, images), once, rtol=1e-6)
    keys = jnp.stack([key, jax.random.key(1)])
    both = jax.jit(jax.vmap(augment, in_axes=(0, None)))(keys, images)
    np.testing.assert_allclose(both[0], once, rtol=1e-6)
    assert (np.asarray(both[1]) != np.asarray(once)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channel_statistics_are_numpys(images, dtype):
    given = images if dtype == np.uint8 else (images / 255).astype(np.float32)
    mean, std = augmentation.channel_statistics(given)
    flat = (images / 255).reshape(-1, 3)
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, flat.std(axis=0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_constant_channel_has_standard_deviation_1(images, dtype):
    train = images.copy() if dtype == np.uint8 else (images / 255).astype(np.float32)
    other = train.copy()
    train[..., 1] = 77 if dtype == np.uint8 else 0.1
    mean, std = augmentation.channel_statistics(train)
    assert std[1] == 1
    assert 0 < std[0] < 1
    assert jnp.allclose(augmentation.normalise(jnp.asarray(train), mean, std)[..., 1], 0, atol=1e-6)
    # and where the channel is constant in the training images only
    assert abs(augmentation.normalise(jnp.asarray(other), mean, std)).max() < 20


def test_a_single_pixel_has_statistics():
    assert augmentation.channel_statistics(np.full((1, 1, 1, 1), 51, np.uint8)) == ((0.2,), (1.0,))
