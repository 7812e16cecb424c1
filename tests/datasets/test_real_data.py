"""Real files, in the folder that TSAM_JAX_DATA names: skipped without it.

It has cifar10_jpeg.npz (encoded CIFAR-10), glue/TASK/train.tsv.gz and dev.tsv.gz, and
bert-base-uncased-vocab.txt.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from tsam_jax import data

ROOT = Path(os.environ.get("TSAM_JAX_DATA", ""))
pytestmark = pytest.mark.skipif(
    "TSAM_JAX_DATA" not in os.environ, reason="TSAM_JAX_DATA names no folder of real data"
)

# task: rows of train and of dev, rows of dev by class. Where the files are samples, their own.
GLUE = {
    "CoLA": (8551, 1043, [322, 721]),
    "SST-2": (67349, 872, [428, 444]),
    "MRPC": (3668, 408, [129, 279]),
    "STS-B": (5749, 1500, None),
    "RTE": (2490, 277, [146, 131]),
    "WNLI": (635, 71, [40, 31]),
    "QNLI": (9999, 5463, [2702, 2761]),
    "MNLI": (8999, 1000, [347, 333, 320]),
    "QQP": (23496, 9372, [5981, 3391]),
}


@pytest.mark.parametrize("task", GLUE)
def test_glue(task):
    train, dev, counts = GLUE[task]
    splits = data.open_splits(
        f"glue:{task}", data_dir=ROOT / "glue", vocab=ROOT / "bert-base-uncased-vocab.txt"
    )
    assert len(splits.train.labels) + len(splits.validation.labels) == train
    assert len(splits.test.labels) == dev
    assert splits.vocab_size == 30522
    if counts is None:
        assert (splits.test.labels.min(), splits.test.labels.max()) == (0, 5)
    else:
        assert np.bincount(splits.test.labels).tolist() == counts


def test_the_vocabulary_gives_the_ids_of_bert():
    splits = data.load(
        "glue:SST-2",
        data_dir=ROOT / "glue",
        vocab=ROOT / "bert-base-uncased-vocab.txt",
        subset={"train": 10, "validation": 10, "test": 872},
    )
    # "it 's a charming and often affecting journey ."
    expected = [101, 2009, 1005, 1055, 1037, 11951, 1998, 2411, 12473, 4990, 1012, 102, 0]
    assert splits.test.inputs["token_ids"][0, :13].tolist() == expected
    assert splits.test.labels[0] == 1


def test_cifar10():
    splits = data.load(
        f"npz:{ROOT / 'cifar10_jpeg.npz'}", stratified=True, validation=5000, subset=10_000
    )
    assert [part.inputs.shape for part in splits[:3]] == [
        (10_000, 32, 32, 3),
        (5000, 32, 32, 3),
        (10_000, 32, 32, 3),
    ]
    assert [np.bincount(part.labels).tolist() for part in splits[:3]] == [
        [1000] * 10,
        [500] * 10,
        [1000] * 10,
    ]
    np.testing.assert_allclose(splits.mean, [0.4913, 0.4821, 0.4465], atol=0.005)
    np.testing.assert_allclose(splits.std, [0.2452, 0.2428, 0.2606], atol=0.003)
    assert splits.class_names[0] == "airplane"
