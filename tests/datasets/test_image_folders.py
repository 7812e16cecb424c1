"""Images in folders and archives: what is read, as what part, and what is refused."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tsam_jax import data
from tsam_jax.data import DataError


def png(value, size=(4, 4), mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(file, kind)
    return file.getvalue()


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return f"folder:{root}"


def images(part, classes="ab", per_class=5, first=0):
    return {
        f"{part}{name}/{i}.png": png(first + 10 * k + i)
        for k, name in enumerate(classes)
        for i in range(per_class)
    }


def pixels(examples):
    return sorted(examples.inputs[:, 0, 0, 0].tolist())


def test_class_folders_are_carved_into_parts(tmp_path):
    splits = data.load(write(tmp_path, images("")), validation=2, test=3)
    assert splits.class_names == ("a", "b")
    assert splits.num_classes == 2
    assert splits.kind == "image"
    assert splits.train.inputs.shape == (5, 4, 4, 3)
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.labels.dtype == np.int32
    for part in splits[:3]:
        assert (part.inputs[:, 0, 0, 0] // 10 == part.labels).all()
    everything = sum((pixels(part) for part in splits[:3]), [])  # noqa: RUF017  # three short lists
    assert sorted(everything) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_folders_of_parts_are_the_parts(tmp_path):
    files = images("train/") | images("val/", first=100) | images("test/", first=200)
    splits = data.load(write(tmp_path, files))
    assert [len(part.labels) for part in splits[:3]] == [10, 10, 10]
    assert [pixels(part)[0] for part in splits[:3]] == [0, 100, 200]


def test_val_without_test_is_the_test_part(tmp_path):
    files = images("train/") | images("val/", first=100)
    splits = data.load(write(tmp_path, files), validation=2)
    assert pixels(splits.test)[0] == 100
    assert len(splits.validation.labels) == 2


def test_a_zip_archive_is_read_like_its_folder(tmp_path):
    folder = data.load(write(tmp_path / "here", images("")), test=3)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, content in images("").items():
            archive.writestr(f"top/{name}", content)
        archive.writestr("__MACOSX/top/a/._0.png", b"rubbish")
    zipped = data.load(f"folder:{tmp_path / 'all.zip'}", test=3)
    assert (zipped.train.inputs == folder.train.inputs).all()


def test_statistics_are_those_of_the_training_part(tmp_path):
    splits = data.load(write(tmp_path, images("")), validation=2, test=3)
    assert splits.mean == pytest.approx([splits.train.inputs.mean() / 255] * 3)
    assert len(splits.std) == 3


def test_grey_and_palette_images_become_rgb(tmp_path):
    files = images("") | {"a/grey.png": png(7, mode="L"), "b/palette.gif": png(9, kind="GIF")}
    splits = data.load(write(tmp_path, files), validation=1, test=1)
    assert splits.train.inputs.shape[1:] == (4, 4, 3)


def test_hidden_files_and_notes_are_passed_over(tmp_path):
    files = images("") | {".DS_Store": b"x", "a/._0.png": b"x", "a/notes.txt": b"x"}
    with pytest.warns(data.DataWarning, match=r"left out 1 of 11 files, .*\(1 \.txt\)\.$"):
        splits = data.load(write(tmp_path, files), test=3, validation=3)
    assert len(splits.train.labels) == 4


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/bad.png": b""}, "a/bad.png: is empty"),
        ({"a/bad.png": b"no image"}, "a/bad.png: cannot be decoded"),
        ({"a/bad.png": png(1, (64, 64))[:60]}, "a/bad.png: cannot be decoded"),
        ({"z.png": png(1)}, "z.png: is in no folder of a class"),
        ({"b/wide.png": png(1, (5, 4))}, r"is 4 x (5|4) x 3, and .* are 4 x (4|5) x 3.*`size=`"),
    ],
)
def test_files_that_are_no_images_of_one_size_are_refused(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        data.load(write(tmp_path, images("") | files))


def test_size_resizes_all_images(tmp_path):
    files = images("") | {"b/wide.png": png(200, (9, 5))}
    splits = data.load(write(tmp_path, files), size=3, test=1, validation=1)
    assert splits.train.inputs.shape[1:] == (3, 3, 3)
    with pytest.raises(DataError, match="`size` must be at least 1"):
        data.load(f"folder:{tmp_path}", size=0)


def test_a_class_that_is_not_in_train_is_refused(tmp_path):
    files = images("train/") | images("test/", classes="ac")
    with pytest.raises(DataError, match=r"test/c/0.png: label 'c' is unknown; the classes are"):
        data.load(write(tmp_path, files))


def test_a_folder_beside_train_that_is_no_part_is_refused(tmp_path):
    with pytest.raises(DataError, match="'extra' is beside the training folder"):
        data.load(write(tmp_path, images("train/") | images("extra/")))


def test_what_has_no_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="is empty"):
        data.load(write(tmp_path, {}))
    with pytest.raises(DataError, match="at least two classes"):
        data.load(write(tmp_path, images("", classes="a")))


def test_corrupt_archives_are_refused(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK rubbish")
    with pytest.raises(DataError, match=r"bad.zip: is no zip archive"):
        data.load(f"folder:{tmp_path / 'bad.zip'}")
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in images("").items():
            archive.writestr(name, content)
    content = bytearray(path.read_bytes())
    content[50] ^= 255  # in the first image
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.zip, a/0.png: is corrupt in the archive"):
        data.load(f"folder:{path}")
