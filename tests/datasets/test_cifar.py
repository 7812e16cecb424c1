"""CIFAR's Python files: what is read, and pickles that are refused without being executed."""

import os
import pickle
import tarfile

import numpy as np
import pytest

from tsam_jax import data
from tsam_jax.data import DataError
from tsam_jax.data.cifar import BATCHES, load_pickle

NAMES = [f"class{i}".encode() for i in range(10)]


def batch(first, n=4, labels=None, key=b"labels"):
    """Image i has red = i, green = 100 and blue = 200, except for its first pixel's red, 255."""
    images = np.zeros((n, 3, 32, 32), np.uint8)
    images[:, 0] = np.arange(first, first + n)[:, None, None]
    images[:, 1], images[:, 2] = 100, 200
    images[:, 0, 0, 1] = 255
    labels = [(first + i) % 10 for i in range(n)] if labels is None else labels
    return {b"batch_label": b"x", key: labels, b"data": images.reshape(n, 3072), b"filenames": []}


def cifar10():
    files = {name: batch(4 * i) for i, name in enumerate(BATCHES)}
    return files | {"test_batch": batch(60), "batches.meta": {b"label_names": NAMES}}


def cifar100(n=100):
    def part(first):
        fine = [(first + i) % 100 for i in range(n)]
        coarse = {b"coarse_labels": [label % 20 for label in fine]}
        return batch(first, n, fine, b"fine_labels") | coarse

    names = {b"fine_label_names": [b"f%d" % i for i in range(100)]}
    names[b"coarse_label_names"] = [b"c%d" % i for i in range(20)]
    return {"train": part(0), "test": part(50), "meta": names}


def write(folder, files, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not isinstance(content, bytes):
            content = pickle.dumps(content, protocol)
        (folder / name).write_bytes(content)
    return f"cifar:{folder}"


def check_images(splits):
    for part in splits[:3]:
        red = part.inputs[:, 5, 5, 0]
        assert (red % 10 == part.labels).all()
        assert (part.inputs[:, 0, 1, 0] == 255).all()
        assert (part.inputs[:, 1, 0, 0] == red).all()
        assert (part.inputs[..., 1] == 100).all()
        assert (part.inputs[..., 2] == 200).all()


@pytest.mark.parametrize("protocol", range(6))
def test_cifar10_is_read(tmp_path, protocol):
    splits = data.load(write(tmp_path, cifar10(), protocol), validation=3)
    assert [part.inputs.shape for part in splits[:3]] == [(k, 32, 32, 3) for k in (17, 3, 4)]
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.labels.dtype == np.int32
    assert splits.class_names == tuple(name.decode() for name in NAMES)
    assert splits.test.inputs[:, 5, 5, 0].tolist() == [60, 61, 62, 63]
    check_images(splits)


# The pickle of {"data": array([[1, 2]], uint8), "labels": [7]} by Python 2 and numpy 1, by hand.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
    b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87"
    b"Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\x02tb"
    b"U\x06labelsq\x08]q\tK\x07au."
)


def test_pickles_of_python_2_are_read():
    found = load_pickle(PYTHON_2, "batch")
    assert found["data"].tolist() == [[1, 2]]
    assert found["data"].dtype == np.uint8
    assert found["labels"] == [7]


def test_cifar100_has_classes_and_superclasses(tmp_path):
    name = write(tmp_path, cifar100())
    fine, coarse = data.load(name, validation=1), data.load(name, validation=1, coarse=True)
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    assert (fine.class_names[7], coarse.class_names[7]) == ("f7", "c7")
    assert (fine.test.inputs[:, 5, 5, 0] % 100 == fine.test.labels).all()
    assert (fine.test.labels % 20 == coarse.test.labels).all()
    write(tmp_path / "ten", cifar10())
    with pytest.raises(DataError, match="`coarse` needs superclasses, which CIFAR-10"):
        data.load(f"cifar:{tmp_path / 'ten'}", coarse=True)


def test_the_folder_above_and_the_archive_will_do(tmp_path):
    write(tmp_path / "cifar-10-batches-py", cifar10())
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    inner = data.load(f"cifar:{tmp_path / 'cifar-10-batches-py'}")
    for place in (tmp_path, tmp_path / "cifar-10-python.tar.gz"):
        assert (data.load(f"cifar:{place}").train.inputs == inner.train.inputs).all()


def test_missing_batches_are_said(tmp_path):
    files = cifar10()
    del files["data_batch_3"], files["batches.meta"]
    with pytest.warns(data.DataWarning, match=r"skipped missing files: data_batch_3\.$"):
        splits = data.load(write(tmp_path, files), validation=1)
    assert len(splits.train.labels) == 15
    assert splits.num_classes == 10


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "call",
    [
        lambda mark: Call(os.system, f"touch {mark}"),
        lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Call(exec, f"open({str(mark)!r}, 'w')"),
        lambda mark: Call(getattr, os, "system"),
        lambda mark: Call(np.fromfile, str(mark)),
        lambda mark: Call(np.load, str(mark)),
    ],
)
def test_pickles_that_call_are_refused_and_not_executed(tmp_path, call, protocol):
    mark = tmp_path / "executed"
    try:
        payload = pickle.dumps({b"data": call(mark), b"labels": [1]}, protocol)
    except TypeError:  # a module does not pickle
        payload = b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    for name in ("data_batch_2", "batches.meta", "test_batch"):
        with pytest.raises(
            DataError, match=rf"{name}: cannot be read as a CIFAR.*it imports"
        ) as caught:
            data.load(write(tmp_path / name, cifar10() | {name: payload}))
        assert len(str(caught.value).removeprefix(str(tmp_path))) < 200
    assert not mark.exists()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "it imports os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.", "it imports os.system"),
        (b"cnumpy\nndarray\n(I99999999999\nt\x81.", "cannot be read"),
        (b"cnumpy\ndtype\n(S'O8'\ntR.", "an array that is not uint8"),
        (b"c_codecs\nencode\n(S'x'\nS'hex'\ntR.", "not encoded as latin1"),
        (b"c_codecs\nencode\n}S'__name__'\nS'x'\nsb.", "state of an object that is not an array"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "cannot be read"),
        (b"\x82\x01.", "cannot be read"),
        (b"P1\n.", "cannot be read"),
        (b"", "cannot be read"),
        (b"]" * 5000, "cannot be read"),
        (pickle.dumps([1]), "cannot be read"),
        (pickle.dumps({b"labels": [1]}), "must have an array `data`"),
        (pickle.dumps(batch(0, labels=[1, 2, 3])), r"must have shape \(3, 3072\).*\(4, 3072\)"),
        (pickle.dumps(batch(0, labels=[1, 2, 3, 10])), "image 3: the label"),
        (pickle.dumps(batch(0, labels=[1, 2, True, 3])), "image 2: the label"),
        (pickle.dumps(batch(0) | {b"data": np.zeros((4, 3072))}), "an array that is not uint8"),
        (pickle.dumps(batch(0))[:-5000], "cannot be read"),
    ],
)
def test_damaged_and_odd_files_are_refused(tmp_path, payload, words):
    with pytest.raises(DataError, match=rf"data_batch_2[:,] .*({words})|data_batch_2, {words}"):
        data.load(write(tmp_path, cifar10() | {"data_batch_2": payload}))


def test_what_is_not_cifar_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder or archive"):
        data.load(f"cifar:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="is not the Python version of CIFAR"):
        data.load(f"cifar:{tmp_path}")
    (tmp_path / "x.tar.gz").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="cannot be read as a CIFAR archive"):
        data.load(f"cifar:{tmp_path / 'x.tar.gz'}")
    write(tmp_path, cifar10() | {"batches.meta": {b"label_names": NAMES[:9]}})
    with pytest.raises(DataError, match="`label_names` must have 10 names, got 9"):
        data.load(f"cifar:{tmp_path}")
    write(tmp_path, cifar10() | {"batches.meta": {b"label_names": [*NAMES[:9], b"\xbf"]}})
    with pytest.raises(DataError, match="`label_names` has a name that is not UTF-8 text"):
        data.load(f"cifar:{tmp_path}")
