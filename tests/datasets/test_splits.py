"""Parts are carved from train, or are those of the source; subsets are nested and stratified."""

import itertools

import numpy as np
import pytest

from tsam_jax.data import DataError
from tsam_jax.data.splits import Source, array_records, cut


def source(classes=4, **sizes):
    """Inputs are numbers of their own, labels come in runs."""
    parts, first = {}, 0
    for part, size in sizes.items():
        inputs = np.arange(first, first + size)
        parts[part] = array_records(inputs, (inputs * classes // (first + size)).astype(np.int32))
        first += size
    return Source("toy", parts, classes)


def rows(records):
    return records.read(np.arange(len(records.labels))).tolist()


def test_the_parts_are_all_examples_once():
    splits = cut(source(train=50), validation=8, test=0.2)
    assert [len(part.labels) for part in splits[:3]] == [32, 8, 10]
    assert sorted(itertools.chain(*map(rows, splits[:3]))) == list(range(50))


def test_labels_stay_with_their_inputs():
    train = cut(source(train=50), validation=8, test=0.2, subset=9).train
    assert (np.array(rows(train)) * 4 // 50 == train.labels).all()


def test_parts_of_the_source_stay_as_they_are():
    splits = cut(source(train=20, validation=5, test=4))
    assert [rows(splits.validation), rows(splits.test)] == [
        list(range(20, 25)),
        list(range(25, 29)),
    ]
    assert sorted(rows(splits.train)) == list(range(20))


def test_a_validation_part_without_a_test_part_is_the_test_part():
    splits = cut(source(train=20, validation=5), validation=4)
    assert rows(splits.test) == list(range(20, 25))
    assert sorted(rows(splits.train) + rows(splits.validation)) == list(range(20))


def test_the_cut_is_seeded():
    first, again, other = (cut(source(train=50), split_seed=seed) for seed in (0, 0, 1))
    assert rows(first.validation) == rows(again.validation)
    assert rows(first.validation) != rows(other.validation)


def test_training_examples_are_shuffled():
    train = cut(source(train=100, test=5)).train
    assert rows(train) != sorted(rows(train))


def test_subsets_are_nested_and_leave_other_parts_alone():
    small, large, whole = (cut(source(train=50, test=9), subset=k) for k in (5, 20, None))
    assert rows(large.train)[:5] == rows(small.train)
    assert rows(whole.train)[:20] == rows(large.train)
    assert rows(small.validation) == rows(whole.validation)
    few = cut(source(train=50, test=9), subset={"test": 4, "validation": 2})
    assert [len(part.labels) for part in few[:3]] == [45, 2, 4]
    assert rows(few.test) == sorted(rows(few.test)) != [50, 51, 52, 53]


def test_stratified_parts_have_the_shares_of_the_whole():
    labels = np.repeat([0, 1, 2], [60, 30, 10]).astype(np.int32)
    toy = Source("toy", {"train": array_records(np.arange(100), labels)}, 3)
    splits = cut(toy, validation=20, test=10, stratified=True, subset=30)
    counts = [np.bincount(part.labels, minlength=3).tolist() for part in splits[:3]]
    assert counts == [[18, 9, 3], [12, 6, 2], [6, 3, 1]]
    other = cut(toy, validation=20, test=10, stratified=True, subset=30, split_seed=1)
    assert rows(other.train) != rows(splits.train)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation": 0}, r"1 to 19.*got 0"),
        ({"validation": 0.01}, "that amounts to at least one example, got 0.01"),
        ({"validation": 1.5}, "fraction between 0 and 1"),
        ({"validation": True}, "fraction between 0 and 1"),
        ({"validation": 10, "test": 10}, "must add up to less than the 20 examples"),
        ({"subset": 99}, "must be at most 16 for the train part, got 99"),
        ({"subset": {"dev": 3}}, "train, validation, test"),
        ({"subset": 0}, "positive number"),
    ],
)
def test_impossible_sizes_are_refused(options, words):
    with pytest.raises(DataError, match=words):
        cut(source(train=20), **options)


def test_a_size_for_a_part_that_the_source_has_is_refused():
    with pytest.raises(DataError, match=r"`test` sets the size of a carved.*subset=\{'test'"):
        cut(source(train=20, test=3), test=2)


def test_regression_is_not_stratified():
    with pytest.raises(DataError, match="needs classes"):
        cut(source(train=20)._replace(num_classes=None), stratified=True)
