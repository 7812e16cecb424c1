"""Streamed batches: their order, from any position."""

import dataclasses

import jax
import numpy as np
import pytest

from tsam_jax.data import Records
from tsam_jax.data.streaming import Streamed, order

INPUTS = {"token_ids": np.arange(46, dtype=np.int32).reshape(23, 2)}
LABELS = np.arange(23, dtype=np.int32)


def streamed(key, **options):
    records = Records(LABELS, lambda rows: {"token_ids": INPUTS["token_ids"][rows]})
    return Streamed(records, batch_size=4, key=key, **options)


def seen(batches, epoch, first=0):
    return [batch.labels.tolist() for batch in batches.epoch(epoch, first)]


def test_an_epoch_has_every_example_at_most_once_and_inputs_stay_with_labels(key):
    batches = streamed(key)
    labels = []
    for batch in batches.epoch(0):
        assert (batch.inputs["token_ids"][:, 0] == 2 * batch.labels).all()
        labels += batch.labels.tolist()
    assert len(labels) == len(set(labels)) == 20 == 4 * batches.steps


@pytest.mark.parametrize("threads", [1, 3])
def test_the_order_is_that_of_the_key_and_the_epoch(key, threads):
    batches = streamed(key, threads=threads)
    for epoch in range(3):
        assert seen(batches, epoch) == order(jax.random.fold_in(key, epoch), 23, 4).tolist()
    assert seen(batches, 1) != seen(batches, 2)
    assert seen(batches, 1) != seen(streamed(jax.random.key(7)), 1)


@pytest.mark.parametrize("first", [0, 3, 5])
def test_it_resumes_at_any_batch(key, first):
    assert seen(streamed(key), 2, first) == seen(streamed(key), 2)[first:]


def test_a_position_outside_of_the_epoch_is_refused(key):
    with pytest.raises(ValueError, match="0 to 5, the number of batches, got 6"):
        list(streamed(key).epoch(0, 6))


@pytest.mark.parametrize("batch_size", [0, 24])
def test_impossible_batch_sizes_are_refused(key, batch_size):
    with pytest.raises(ValueError, match=r"from 1 to 23, the number of examples"):
        order(key, 23, batch_size)
    with pytest.raises(ValueError, match=r"from 1 to 23, the number of examples"):
        list(dataclasses.replace(streamed(key), batch_size=batch_size).epoch(0))


def test_what_a_reader_raises_comes_through(key):
    def read(rows):
        raise ValueError("image 3 is corrupt")

    with pytest.raises(ValueError, match="image 3 is corrupt"):
        list(Streamed(Records(LABELS, read), batch_size=4, key=key).epoch(0))
