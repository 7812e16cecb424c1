"""Sets of TensorFlow Datasets are read without TensorFlow, or there are words on what to do."""

import importlib.util
import socket

import numpy as np
import pytest
import tiny_builders
from test_text_tables import words
from text_files import write_vocab

from tsam_jax import data
from tsam_jax.data import DataError, tfds


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for name in tiny_builders.SETS:
        tiny_builders.prepare(name, folder)
    return folder


def test_images_are_carved_and_test_is_the_test_part(data_dir):
    splits = data.load("tiny_shapes", data_dir=data_dir, validation=4)
    assert [len(part.labels) for part in splits[:3]] == [8, 4, 5]
    assert splits.class_names == ("x", "y", "z")
    assert splits.kind == "image"
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.labels.dtype == np.int32
    for part in splits[:3]:
        assert (part.inputs[:, 0, 0, 1] == part.labels).all()
    carved = [*splits.train.inputs[:, 0, 0, 0], *splits.validation.inputs[:, 0, 0, 0]]
    assert sorted(carved) == list(range(12))


def test_the_prefix_may_be_written_out(data_dir):
    named = data.load("tfds:tiny_shapes", data_dir=data_dir)
    assert (named.test.inputs == data.load("tiny_shapes", data_dir=data_dir).test.inputs).all()


@pytest.mark.parametrize(
    "name", ["tiny_shapes:1.0.0", "tfds:tiny_shapes:1.0.0", "tiny_shapes:1.*.*"]
)
def test_a_name_may_have_a_version(data_dir, name):
    versioned = data.read_splits(data.open_splits(name, data_dir=data_dir))
    assert (
        versioned.train.inputs == data.load("tiny_shapes", data_dir=data_dir).train.inputs
    ).all()


@pytest.mark.parametrize("name", ["glue/cola", "glue/cola:2.0.0", "tfds:glue/cola:2.0.0"])
def test_glue_with_a_version_reports_on_its_validation_split(data_dir, tmp_path, name):
    splits = data.open_splits(name, data_dir=data_dir, vocab=write_vocab(tmp_path), validation=2)
    assert [len(part.labels) for part in splits[:3]] == [6, 2, 4]


@pytest.mark.parametrize("name", ["tiny_shapes:9.9.9", "cifar10:9.9.9"])
def test_a_version_that_does_not_exist_is_refused(data_dir, name, no_network):
    with pytest.raises(DataError, match=f"{name[:-6]}.*9.9.9"):
        data.open_splits(name, data_dir=data_dir)


def test_all_splits_of_the_source_are_used_and_grey_stays_grey(data_dir):
    splits = data.load("tiny_grey", data_dir=data_dir, size=4)
    assert [part.inputs.shape for part in splits[:3]] == [(k, 4, 4, 1) for k in (6, 3, 3)]
    assert sorted(splits.train.inputs[:, 0, 0, 0]) == list(range(6))
    assert (splits.train.inputs[:, 0, 0, 0] % 2 == splits.train.labels).all()


def test_images_of_two_sizes_need_a_size(data_dir):
    with pytest.raises(DataError, match=r"tiny_grey.*train, record \d: is 4 x .*`size=`"):
        data.load("tiny_grey", data_dir=data_dir)


def test_the_premise_is_the_first_sentence_and_matched_is_the_test_part(data_dir, tmp_path):
    vocab = write_vocab(tmp_path)
    splits = data.load("tiny_pairs", data_dir=data_dir, vocab=vocab, validation=2)
    assert [len(part.labels) for part in splits[:3]] == [6, 2, 3]
    sentence = {1: "[CLS] a [SEP] b [SEP]", 0: "[CLS] c [SEP] b [SEP]"}
    for part in splits[:3]:
        assert words(part.inputs) == [sentence[label] for label in part.labels]


def test_scores_are_regression(data_dir, tmp_path):
    splits = data.load("tiny_scores", data_dir=data_dir, vocab=write_vocab(tmp_path))
    assert splits.num_classes is None
    assert splits.train.labels.dtype == np.float32
    index = ["abcd".index(row.split()[1]) for row in words(splits.train.inputs)]
    assert (splits.train.labels == np.array(index) / 2).all()


def test_images_without_a_label_are_refused(data_dir):
    with pytest.raises(DataError, match=r"tiny_boxes: must have one label.* the features image"):
        data.load("tiny_boxes", data_dir=data_dir)


@pytest.mark.parametrize(
    "name", ["cifar10:3.0.2", "cifar100", "dtd", "glue/sst2", "glue/cola:2.0.0"]
)
def test_what_is_not_prepared_says_how_to_prepare_it(tmp_path, name, no_network):
    with pytest.raises(DataError, match="pip install tensorflow-cpu") as error:
        data.load(name, data_dir=tmp_path)
    assert f"tfds.prepare('{name}', '{tmp_path}')" in str(error.value)
    assert "--data-dir" in str(error.value)


def test_an_unknown_name_is_refused(tmp_path, no_network):
    words = "'cifra10' is neither a kind with a path.* Perhaps you meant `cifar10`"
    with pytest.raises(DataError, match=words):
        data.load("cifra10", data_dir=tmp_path)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_preparing_says_what_is_missing(tmp_path, no_network, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install tensorflow-cpu"):
        tfds.prepare("cifar10", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    with pytest.raises(DataError, match=r"downloads/manual.*cifar-10-binary.tar.gz"):
        tfds.prepare("cifar10", tmp_path)


def test_what_is_prepared_is_not_prepared_again(data_dir, no_network):
    tfds.prepare("tiny_shapes", data_dir)


def test_lost_records_are_noticed(tmp_path):
    tiny_builders.prepare("TinyShapes", tmp_path)
    folder = tmp_path / "tiny_shapes" / "1.0.0"
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"12"', '"13"'))
    with pytest.raises(DataError, match="train, records 0 to 12: cannot be read"):
        data.load("tiny_shapes", data_dir=tmp_path)


def test_damaged_files_are_refused(tmp_path):
    tiny_builders.prepare("TinyShapes", tmp_path)
    [path] = (tmp_path / "tiny_shapes" / "1.0.0").glob("*train*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="train, records 0 to 11: cannot be read"):
        data.load("tiny_shapes", data_dir=tmp_path)


def test_other_formats_are_refused(tmp_path):
    tiny_builders.prepare("TinyShapes", tmp_path)
    info = tmp_path / "tiny_shapes" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="must be in array_record format"):
        data.load("tiny_shapes", data_dir=tmp_path)
