"""Tiny ImageNet's layout, in small: as a folder and as the archive."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tsam_jax import data
from tsam_jax.data import DataError


def jpeg(value):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def files():
    val = [("val_0.JPEG", "n02"), ("val_1.JPEG", "n01"), ("val_2.JPEG", "n02")]
    annotations = "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in val)
    files = {
        "wnids.txt": b"n02\nn01\n",
        "words.txt": b"n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tox\n",
        "val/val_annotations.txt": annotations.encode(),
        "test/images/test_0.JPEG": jpeg(255),
    }
    files |= {f"val/images/{name}": jpeg(200 + 20 * (wnid == "n02")) for name, wnid in val}
    for i, wnid in enumerate(["n01", "n02"]):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"n01_0.JPEG\t0\t10\t63\t58\n"
        files |= {f"train/{wnid}/images/{wnid}_{k}.JPEG": jpeg(100 * i + k) for k in range(6)}
    return files


@pytest.fixture(params=["folder", "archive"])
def write(request, tmp_path):
    def write(files):
        if request.param == "archive":
            path = tmp_path / "tiny-imagenet-200.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in files.items():
                    archive.writestr(f"tiny-imagenet-200/{name}", content)
            return f"tiny-imagenet:{path}"
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return f"tiny-imagenet:{tmp_path}"

    return write


def test_train_is_carved_and_val_is_the_test_part(write, files):
    splits = data.load(write(files), validation=4)
    assert [len(part.labels) for part in splits[:3]] == [8, 4, 3]
    assert splits.class_names == ("goldfish", "ox")
    assert splits.test.labels.tolist() == [1, 0, 1]
    levels = splits.test.inputs[:, 0, 0, 0].astype(int)
    assert (abs(levels - [220, 200, 220]) < 5).all()
    for part in (splits.train, splits.validation):
        assert ((part.inputs[:, 0, 0, 0] > 50) == part.labels).all()


def test_streamed_images_are_those_in_memory(write, files):
    name = write(files)
    train = data.open_splits(name, validation=4).train
    some = np.array([5, 0, 5])
    assert (train.read(some) == data.load(name, validation=4).train.inputs[some]).all()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("wnids.txt", None, "has no wnids.txt"),
        ("val/images/val_1.JPEG", None, r"val/images/val_1.JPEG is missing"),
        ("wnids.txt", b"n01\nn05\n", "label 'n02' is unknown"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn01\nval_1.JPEG\n", "line 2: has no class"),
        ("wnids.txt", b"n\xff1\nn05\n", "line 1: byte 1 is not UTF-8"),
    ],
)
def test_damaged_layouts_are_refused(write, files, name, content, words):
    files = {key: value for key, value in files.items() if key != name}
    if content is not None:
        files[name] = content
    with pytest.raises(DataError, match=words):
        data.load(write(files))
