"""Batches, in memory and streamed: the same order, from any position, on any devices."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tsam_jax.data import Examples, Records
from tsam_jax.data.streaming import InMemory, Streamed, order

INPUTS = {"token_ids": np.arange(46, dtype=np.int32).reshape(23, 2)}
LABELS = np.arange(23, dtype=np.int32)


def in_memory(key, **options):
    return InMemory(Examples(INPUTS, LABELS), batch_size=4, key=key, **options)


def streamed(key, **options):
    records = Records(LABELS, lambda rows: {"token_ids": INPUTS["token_ids"][rows]})
    return Streamed(records, batch_size=4, key=key, **options)


BOTH = pytest.mark.parametrize("make", [in_memory, streamed])


def seen(batches, epoch, first=0):
    return [np.asarray(batch.labels).tolist() for batch in batches.epoch(epoch, first)]


@BOTH
def test_an_epoch_has_every_example_at_most_once_and_inputs_stay_with_labels(make, key):
    batches = make(key)
    labels = []
    for batch in batches.epoch(0):
        assert (np.asarray(batch.inputs["token_ids"])[:, 0] == 2 * np.asarray(batch.labels)).all()
        labels += np.asarray(batch.labels).tolist()
    assert len(labels) == len(set(labels)) == 20 == 4 * batches.steps


def test_streaming_changes_nothing(key):
    for epoch in range(3):
        assert seen(in_memory(key), epoch) == seen(streamed(key, threads=3), epoch)


@BOTH
def test_the_order_is_that_of_the_key_and_the_epoch(make, key):
    assert seen(make(key), 1) == order(jax.random.fold_in(key, 1), 23, 4).tolist()
    assert seen(make(key), 1) != seen(make(key), 2)
    assert seen(make(key), 1) != seen(make(jax.random.key(7)), 1)


@BOTH
@pytest.mark.parametrize("first", [0, 3, 5])
def test_it_resumes_at_any_batch(make, key, first):
    assert seen(make(key), 2, first) == seen(make(key), 2)[first:]


@BOTH
def test_a_position_outside_of_the_epoch_is_refused(make, key):
    with pytest.raises(ValueError, match="0 to 5, got 6"):
        list(make(key).epoch(0, 6))


@pytest.mark.parametrize("batch_size", [0, 24])
def test_impossible_batch_sizes_are_refused(key, batch_size):
    with pytest.raises(ValueError, match=r"between 1 and the 23 examples"):
        order(key, 23, batch_size)
    with pytest.raises(ValueError, match=r"between 1 and the 23 examples"):
        list(dataclasses.replace(streamed(key), batch_size=batch_size).epoch(0))


def test_what_a_reader_raises_comes_through(key):
    def read(rows):
        raise ValueError("image 3 is corrupt")

    with pytest.raises(ValueError, match="image 3 is corrupt"):
        list(Streamed(Records(LABELS, read), batch_size=4, key=key).epoch(0))


@BOTH
def test_batches_are_placed_over_the_mesh(make, key):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    for batch in make(key, sharding=sharding).epoch(0):
        assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(batch))
