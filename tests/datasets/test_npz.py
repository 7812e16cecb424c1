"""Arrays in an .npz file: the forms that are read, and what is refused by file and row."""

import io

import numpy as np
import pytest
from PIL import Image

from tsam_jax import data
from tsam_jax.data import DataError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3
    images = rng.integers(0, 256, (12, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = labels
    return {"train_images": images, "train_labels": labels.astype(np.uint8)}


@pytest.fixture
def write(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return f"npz:{tmp_path / 'set.npz'}"

    return write


def encoded(images):
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    return np.concatenate(files), np.cumsum([0, *map(len, files)])


def check_labels_are_of_their_images(splits):
    for part in splits[:3]:
        assert (part.inputs[:, 0, 0, 0] == part.labels).all()


def test_images_stay_uint8_and_are_carved(write, arrays):
    splits = data.load(write(**arrays, class_names=np.array(["x", "y", "z"])), test=2, validation=3)
    assert [part.inputs.shape for part in splits[:3]] == [(k, 4, 4, 3) for k in (7, 3, 2)]
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.labels.dtype == np.int32
    assert splits.class_names == ("x", "y", "z")
    check_labels_are_of_their_images(splits)


def test_encoded_images_are_decoded(write, arrays):
    content, offsets = encoded(arrays["train_images"])
    plain = data.load(write(**arrays), test=2)
    name = write(train_jpeg=content, train_offsets=offsets, train_labels=arrays["train_labels"])
    assert (data.load(name, test=2).train.inputs == plain.train.inputs).all()


@pytest.mark.parametrize("prefix", ["val", "validation"])
def test_parts_of_the_file_are_the_parts(write, arrays, prefix):
    images, labels = arrays.values()
    name = write(
        x_train=images,
        y_train=labels[:, None],
        x_test=images[:2],
        y_test=labels[:2],
        **{f"{prefix}_inputs": images[2:5], f"{prefix}_labels": labels[2:5]},
    )
    splits = data.load(name)
    assert [len(part.labels) for part in splits[:3]] == [12, 3, 2]
    assert (splits.validation.inputs == images[2:5]).all()
    check_labels_are_of_their_images(splits)


def test_grey_images_get_a_channel(write, arrays):
    images = arrays["train_images"][..., 0]
    splits = data.load(write(train_images=images, **labels(arrays)), test=2, validation=3)
    assert [part.inputs.shape for part in splits[:3]] == [(k, 4, 4, 1) for k in (7, 3, 2)]
    found = np.concatenate([part.inputs[..., 0] for part in splits[:3]])
    assert sorted(x.tobytes() for x in found) == sorted(x.tobytes() for x in images)
    check_labels_are_of_their_images(splits)
    np.testing.assert_allclose(splits.mean, [splits.train.inputs.mean() / 255], rtol=1e-6)


def test_a_channel_that_is_constant_in_train_only_is_normalised(write, arrays):
    images = arrays["train_images"].copy()
    images[..., 2] = 9
    test = {"test_images": arrays["train_images"], "test_labels": arrays["train_labels"]}
    splits = data.load(write(**(arrays | {"train_images": images}), **test))
    assert splits.std[2] == 1
    for part in splits[:3]:
        pixels = data.augmentation.normalise(part.inputs, splits.mean, splits.std)
        assert np.isfinite(pixels).all()
        assert abs(pixels[..., 2]).max() <= 1


def test_vectors_and_numbers_are_regression_on_vectors(write):
    inputs, targets = np.eye(12), np.linspace(0, 1, 12)
    splits = data.load(write(train_inputs=inputs, train_labels=targets), validation=1, test=1)
    assert splits.kind == "vector"
    assert splits.num_classes is None
    assert splits.mean == ()
    assert splits.train.inputs.dtype == splits.train.labels.dtype == np.float32
    np.testing.assert_allclose(
        targets[splits.train.inputs.argmax(axis=1)], splits.train.labels, rtol=1e-6
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_may_be_first(write, channels):
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 6, channels), np.uint8)
    images[:, 0, 0, 0] = np.arange(12) % 3
    splits = data.load(
        write(train_images=np.moveaxis(images, -1, 1), train_labels=images[:, 0, 0, 0])
    )
    check_labels_are_of_their_images(splits)
    rows = splits.train.inputs
    assert rows.shape[1:] == (5, 6, channels)
    assert all((rows == image).all(axis=(1, 2, 3)).any() for image in rows)
    everything = np.concatenate([part.inputs for part in splits[:3]])
    assert sorted(map(bytes, everything)) == sorted(map(bytes, images))


def test_bands_stay_last_and_are_resized(write):
    images = np.full((12, 20, 20, 12), np.arange(12), np.uint8)
    splits = data.load(write(train_images=images, train_labels=np.arange(12) % 3), size=10)
    assert splits.train.inputs.shape[1:] == (10, 10, 12)
    assert splits.train.inputs[0, 3, 3].tolist() == list(range(12))


def test_pixels_of_rounded_arithmetic_are_in_0_to_1(write, arrays):
    images = np.full((12, 4, 4, 3), 1 + 1e-6)
    assert data.load(write(train_images=images, **labels(arrays))).train.inputs.max() == np.float32(
        1 + 1e-6
    )


def test_names_in_bytes_and_labels_of_any_integer_type(write, arrays):
    labels = arrays["train_labels"]
    for dtype in (np.uint64, ">i2", np.int8):
        arrays["train_labels"] = labels.astype(dtype)
        splits = data.load(write(**arrays, class_names=np.array([b"x", b"y", b"z"])))
        assert splits.class_names == ("x", "y", "z")
        check_labels_are_of_their_images(splits)


def test_labels_from_1_are_said(write, arrays):
    arrays["train_labels"] = arrays["train_labels"] + 1
    with pytest.warns(data.DataWarning, match="no example has label 0"):
        assert data.load(write(**arrays)).num_classes == 4


def test_keys_without_a_meaning_are_not_read(write, arrays):
    splits = data.load(write(**arrays, notes=np.array([{"a": 1}], object)))
    check_labels_are_of_their_images(splits)


def test_arrays_beyond_memory_are_refused(write, arrays, monkeypatch):
    name = write(**arrays)
    monkeypatch.setattr("os.sysconf", lambda _: 10)
    with pytest.raises(DataError, match=r"set.npz: needs 0.0 GiB of memory; this machine has 0.0"):
        data.load(name)


@pytest.mark.parametrize("size", [0, -3, 10**6, True, 2.0, "4"])
def test_absurd_sizes_are_refused(write, arrays, size):
    with pytest.raises(DataError, match="`size` must be an integer from 1 to 8192"):
        data.load(write(**arrays), size=size)


def test_size_is_for_images(write):
    name = write(train_inputs=np.zeros((12, 3)), train_labels=np.arange(12) % 2)
    with pytest.raises(DataError, match="`size` applies to images only, but these are vectors"):
        data.load(name, size=3)


def test_size_resizes(write, arrays):
    assert data.load(write(**arrays), size=2).train.inputs.shape[1:] == (2, 2, 3)


def labels(arrays):
    return {"train_labels": arrays["train_labels"]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train_images": np.zeros((12, 4), int)}, r"must be images.*got int64 of shape \(12, 4\)"),
        ({"train_images": np.zeros((12, 4, 4, 3), int)}, "must be images.*got int64"),
        (
            {"train_images": np.zeros((11, 4, 4, 3), np.uint8)},
            "as many rows as labels, 12, got 11",
        ),
        ({"train_images": np.zeros((12, 2, 2, 2, 2))}, "must be images"),
        ({"train_images": np.array([object()])}, "cannot be read as .npz"),
        ({"train_labels": np.zeros((12, 3), int)}, r"shape \(n,\), got int64 of shape \(12, 3\)"),
        ({"train_labels": np.array(["a"] * 12)}, r"must be numbers of shape \(n,\)"),
        ({"train_labels": np.arange(12) - 1}, r"train example 0: label -1 is unknown"),
        ({"train_labels": np.full(12, np.inf)}, "train_labels, row 0: .* in float32, got inf"),
        ({"train_labels": np.r_[np.arange(11.0), 1e300]}, "row 11: must be finite .* got 1e.300"),
        ({"train_labels": np.arange(12) + 2**32 + 1}, "row 0: a class .* got 4294967297"),
        ({"train_labels": np.r_[np.arange(11), 10**9]}, "row 11: a class .* got 1000000000"),
        ({"train_labels": np.full(12, 2**64 - 1, np.uint64)}, "must be from 0 to 99999"),
        ({"train_labels": np.full(12, -(2**40))}, "row 0: a class .* got -1099511627776"),
        ({"train_labels": np.array(3)}, r"numbers of shape \(n,\), got int64 of shape \(\)"),
        ({"train_images": np.array(3.0)}, r"must be images.*got float64 of shape \(\)"),
        (
            {"train_images": np.full((12, 4, 4, 3), 255.0)},
            r"row 0: floating-point pixels must be in 0\.\.1",
        ),
        ({"train_images": np.full((12, 4, 4), -0.5)}, "row 0: floating-point pixels must be in 0"),
        ({"train_images": np.full((12, 4, 4, 3), np.nan)}, "row 0: floating-point pixels"),
        ({"train_images": np.zeros((12, 16, 32, 32), np.uint8)}, "no axis looks like channels"),
        ({"class_names": np.array("x")}, r"class_names: must be strings of.*shape \(\)"),
        ({"class_names": np.array([1.5, 2.5, 3.5])}, "class_names: must be strings"),
        ({"class_names": np.array(["x", "y", "x"])}, "class_names: 'x' appears twice"),
        (
            {"class_names": np.array(["x", "y", "z"]), "train_labels": np.arange(12.0)},
            "labels must be integers.* got floating point",
        ),
        (
            {"test_images": np.zeros((2, 4, 5, 3), np.uint8), "test_labels": np.zeros(2, int)},
            r"inputs of equal shape, got \('train', \(4, 4, 3\)\), \('test', \(4, 5, 3\)\)",
        ),
        ({"class_names": np.array(["x", "y"])}, "train example 2: label 2 is unknown.* 0 to 1"),
        ({"test_images": np.zeros((1, 4, 4, 3), np.uint8)}, "inputs and labels, got only test_im"),
        ({"train_x": np.zeros(1), "x_train": np.zeros((12, 2))}, "mean the same; keep one"),
        ({"test_inputs": np.zeros((1, 2)), "test_labels": np.zeros(1, int)}, "the same kind"),
        ({"train_jpeg": np.zeros(3, np.uint8)}, "a part must have inputs and labels"),
    ],
)
def test_wrong_arrays_are_refused(write, arrays, changed, words):
    with pytest.raises(DataError, match=words):
        data.load(write(**arrays | changed))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_row_that_is_not_finite_is_named(write, value):
    inputs = np.zeros((12, 3))
    inputs[7, 1] = value
    with pytest.raises(DataError, match="train_inputs, row 7: entries must be finite"):
        data.load(write(train_inputs=inputs, train_labels=np.arange(12) % 2))


def test_an_unknown_label_of_another_part_is_named(write, arrays):
    test = {"test_images": arrays["train_images"][:2], "test_labels": np.array([0, 3])}
    with pytest.raises(DataError, match="test example 1: label 3 is unknown"):
        data.load(write(**arrays, **test))


@pytest.mark.parametrize("damage", ["short", "decreasing", "beyond", "image"])
def test_damaged_encoded_images_are_refused(write, arrays, damage):
    content, offsets = encoded(arrays["train_images"])
    if damage == "short":
        offsets = offsets[:-1]
    elif damage == "decreasing":
        offsets[3], offsets[4] = offsets[4], offsets[3]
    elif damage == "beyond":
        offsets[-1] += 1
    else:
        content[offsets[5] : offsets[5] + 20] = 0
    words = "image 5: cannot be decoded" if damage == "image" else "13 non-decreasing offsets"
    with pytest.raises(DataError, match=words):
        data.load(write(train_jpeg=content, train_offsets=offsets, **labels(arrays)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_files_that_are_no_npz_are_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad.npz: cannot be read as .npz"):
        data.load(f"npz:{tmp_path / 'bad.npz'}")


def test_a_missing_file_and_a_file_without_train_are_refused(tmp_path, write):
    with pytest.raises(DataError, match="no such file"):
        data.load(f"npz:{tmp_path / 'nowhere.npz'}")
    with pytest.raises(DataError, match=r"no training part; expected keys are .*, got foo"):
        data.load(write(foo=np.zeros(3)))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="got a single array"):
        data.load(f"npz:{tmp_path / 'one.npy'}")
