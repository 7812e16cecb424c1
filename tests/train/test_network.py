"""A model as pure functions: modes, dropout, other state, inputs of several arrays, chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsam_jax import methods, value_and_grad
from tsam_jax.train.metrics import cross_entropy
from tsam_jax.train.network import Batch, in_chunks, make_network


class Small(nnx.Module):
    """BatchNorm, dropout, a dense layer; called with two arrays by name."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(3, 2, dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, x, shift):
        return self.dense(self.dropout(self.norm(x + shift)))


@pytest.fixture(scope="module")
def network():
    return make_network(Small, cross_entropy)


@pytest.fixture(scope="module")
def start(network):
    return network.init(jax.random.key(0))


BATCH = Batch(
    {"x": jnp.arange(12.0).reshape(4, 3) ** 1.5, "shift": jnp.ones((4, 3))},
    jnp.array([0, 1, 1, 0]),
)


def test_evaluation_is_without_dropout_and_in_float32(network, start):
    outputs = network.predict(start[0], BATCH.inputs, start[1])
    np.testing.assert_array_equal(outputs, network.predict(start[0], BATCH.inputs, start[1]))
    assert outputs.dtype == jnp.float32
    normalised = (BATCH.inputs["x"] + 1) / jnp.sqrt(1 + 1e-5)  # mean 0, variance 1 at the start
    by_hand = normalised @ start[0]["dense"]["kernel"]
    np.testing.assert_allclose(outputs, by_hand, rtol=0.05, atol=0.05)


def test_a_training_step_moves_the_statistics_and_the_masks_once(network, start):
    params, rest = start
    loss, after = network.loss(params, BATCH, rest)
    again, _ = network.loss(params, BATCH, rest)
    later, _ = network.loss(params, BATCH, after)
    assert loss == again  # the same keys, the same mask
    assert loss != later
    mean = 0.5 * (BATCH.inputs["x"] + 1).mean(axis=0)
    np.testing.assert_allclose(after["norm"]["mean"], mean, rtol=1e-5)


def test_all_probes_of_a_step_see_the_same_mask(network, start):
    """With rho = 0 the second gradient of SAM is the first, if the mask is the same."""
    params, rest = start
    estimator = methods.sam(rho=1e-12)
    estimate = value_and_grad(network.loss, estimator, has_aux=True)
    (_, sam), _ = estimate(params, estimate.init(params), BATCH, rest)
    plain = jax.grad(network.loss, has_aux=True)(params, BATCH, rest)[0]
    jax.tree.map(np.testing.assert_array_equal, sam, plain)


def test_the_criterion_is_the_mean_loss(network):
    outputs = jnp.array([[5.0, 0.0], [5.0, 0.0]])
    found = network.criterion(outputs, jnp.array([0, 1]))
    assert found == pytest.approx(2.5 + np.log1p(np.exp(-5)), rel=1e-5)


def test_a_model_may_be_given_and_is_not_changed():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    before = model.kernel[...]
    network = make_network(model, cross_entropy)
    params, rest = network.init(jax.random.key(0))
    np.testing.assert_array_equal(params["kernel"], before)
    assert params["kernel"] is not before  # the training state is given up, the model is not
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(network.merge(params, rest)(x), model(x), rtol=1e-6)


def test_augmentation_is_for_training_and_preparation_for_both():
    model = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
    model.kernel[...] = jnp.ones((1, 1))
    network = make_network(model, cross_entropy, prepare=lambda x: x / 10)
    params, rest = network.init(jax.random.key(0))
    assert network.augment(jax.random.key(0), jnp.array([[5.0]])) == 0.5
    assert network.predict(params, jnp.array([[5.0]]), rest) == 0.5
    with_augmentation = make_network(model, cross_entropy, augment=lambda key, x: x + 1)
    assert with_augmentation.augment(jax.random.key(0), jnp.array([[5.0]])) == 6


@pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
def test_chunks_change_nothing(size):
    inputs = {"a": jnp.arange(14.0).reshape(7, 2), "b": jnp.arange(7)}
    found = in_chunks(lambda some: some["a"] * 2 + some["b"][:, None], inputs, size)
    np.testing.assert_array_equal(found, inputs["a"] * 2 + inputs["b"][:, None])


class Conv(nnx.Module):
    """Two convolutions of kernel 1 (dense layers of pixels) with BatchNorm, dropout, a mean."""

    def __init__(self, rngs):
        self.first = nnx.Conv(2, 3, (1, 1), rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.second = nnx.Conv(3, 2, (1, 1), rngs=rngs)
        self.last = nnx.BatchNorm(2, momentum=0.6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        return self.dropout(self.last(self.second(x)).mean((1, 2)))


BATCHES = np.random.default_rng(0).normal(3, 2, (5, 4, 3, 3, 2)).astype(np.float32)


def test_recalibrated_statistics_are_the_means_of_those_of_the_batches():
    network = make_network(Conv, cross_entropy)
    params, rest = network.init(jax.random.key(0))
    found = jax.jit(network.recalibrate)(params, rest, BATCHES)
    pixels = BATCHES.reshape(5, 4 * 9, 2)
    hidden = pixels @ np.asarray(params["first"]["kernel"])[0, 0]
    mean, var = hidden.mean(axis=1), hidden.var(axis=1)
    hidden = np.maximum((hidden - mean[:, None]) / np.sqrt(var[:, None] + 1e-5), 0)
    last = hidden @ np.asarray(params["second"]["kernel"])[0, 0]
    for name, by_hand in {
        "norm": (mean.mean(0), var.mean(0)),
        "last": (last.mean(axis=1).mean(0), last.var(axis=1).mean(0)),
    }.items():
        np.testing.assert_allclose(found[name]["mean"], by_hand[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name]["var"], by_hand[1], rtol=1e-4, atol=1e-5)
    assert (found["dropout"]["rngs"]["key"] == rest["dropout"]["rngs"]["key"]).all()
    assert found["dropout"]["rngs"]["count"] == rest["dropout"]["rngs"]["count"]


def test_recalibration_does_not_depend_on_the_statistics_before(network, start):
    params, rest = start
    batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), BATCH.inputs)
    moved = network.loss(params, BATCH, rest)[1]
    recalibrate = jax.jit(network.recalibrate)
    one, other = (recalibrate(params, x, batches)["norm"] for x in (rest, moved))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)


def test_recalibration_prepares_inputs_as_evaluation_does():
    network = make_network(Conv, cross_entropy, prepare=lambda x: x / 10)
    plain = make_network(Conv, cross_entropy)
    params, rest = network.init(jax.random.key(0))
    found = jax.jit(network.recalibrate)(params, rest, BATCHES)
    desired = jax.jit(plain.recalibrate)(params, rest, BATCHES / 10)
    for name in ("norm", "last"):
        np.testing.assert_allclose(found[name]["mean"], desired[name]["mean"], rtol=1e-4, atol=1e-6)


def test_without_batchnorm_nothing_is_recalibrated():
    network = make_network(lambda rngs: nnx.Dropout(0.5, rngs=rngs), cross_entropy)
    params, rest = network.init(jax.random.key(0))
    assert network.recalibrate(params, rest, jnp.ones((2, 3, 2))) is rest


class Centred(nnx.Module):
    """A layer of the user's own, with a running mean of another name and momentum."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.centre, self.use_running_average = nnx.BatchStat(jnp.ones(2)), False
        self.linear = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        if not self.use_running_average:
            self.centre[...] = 0.7 * self.centre[...] + 0.3 * x.mean(0)
        return self.linear(self.norm(x) - self.centre[...])


def test_recalibration_covers_layers_of_ones_own():
    network = make_network(Centred, cross_entropy)
    params, rest = network.init(jax.random.key(0))
    batches = np.random.default_rng(0).normal(3, 2, (5, 8, 2)).astype(np.float32)
    found = jax.jit(network.recalibrate)(params, rest, batches)
    np.testing.assert_allclose(found["centre"], batches.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found["norm"]["mean"], batches.mean((0, 1)), rtol=1e-5)


class Frozen(nnx.Module):
    """Statistics that no batch changes, beside one that does."""

    def __init__(self, rngs):
        self.frozen, self.norm = nnx.BatchNorm(2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)
        self.unused = nnx.BatchStat(jnp.full(2, 7.0))
        self.calls = nnx.BatchStat(jnp.array(4))

    def __call__(self, x):
        self.calls[...] += 1
        return self.norm(self.frozen(x, use_running_average=True))


def test_statistics_that_no_batch_changes_stay_as_they_are():
    network = make_network(Frozen, cross_entropy)
    params, rest = network.init(jax.random.key(0))
    rest["frozen"]["mean"] = jnp.array([1.0, 2.0])
    found = jax.jit(network.recalibrate)(params, rest, BATCHES[:, :, 0, 0])
    for name in ("frozen", "unused", "calls"):
        jax.tree.map(np.testing.assert_array_equal, found[name], rest[name])
    assert found["calls"].dtype == rest["calls"].dtype
    mean = (BATCHES[:, :, 0, 0] - jnp.array([1.0, 2.0])).mean((0, 1))
    np.testing.assert_allclose(found["norm"]["mean"], mean, rtol=1e-4)
