"""The training loop: what it computes, what it spends, and that seeds do not mix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsam_jax.train import config, loop
from tsam_jax.train.settings import parse
from tsam_jax.train.task import load_data, make_network

TASK = config.Task(train_size=200, width=8, depth=1)
OPTIMIZER = config.Optimizer(batch_size=60)
SEEDS = [0, 1]


@pytest.fixture(scope="module")
def data():
    return load_data(TASK, SEEDS)


@pytest.fixture(scope="module")
def network(data):
    return make_network(TASK, data.train)


def trained(network, data, text, seeds, epochs=3, every=1):
    [setting] = parse(text)
    program = loop.make_program(network, setting, OPTIMIZER, TASK.train_size)
    rows = [SEEDS.index(seed) for seed in seeds]
    start = program.init(jnp.asarray(seeds))
    rounds = list(
        loop.train(program, start, loop.select_seeds(data, rows), epochs=epochs, every=every)
    )
    return program, rounds


def test_an_epoch_of_erm_is_sgd_with_momentum_and_coupled_weight_decay(network, data):
    program, rounds = trained(network, data, "erm(lr=0.05)", [1], epochs=1)
    init_key, order_key, _ = jax.random.split(jax.random.key(1), 3)
    params, rest = network.init(init_key)
    order = jax.random.permutation(jax.random.fold_in(order_key, 0), TASK.train_size)
    velocity = jax.tree.map(jnp.zeros_like, params)
    for rows in order[:180].reshape(3, 60):  # what is left after the last full batch is left out
        batch = data.train._replace(
            inputs=data.train.inputs[rows], labels=data.train.labels[1][rows]
        )
        grads = jax.grad(lambda p, b=batch: network.loss(p, b, rest)[0])(params)
        velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 5e-4 * p, velocity, grads, params)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
    found = jax.tree.map(lambda x: x[0], rounds[0].state.params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert program.steps_per_epoch == 3


@pytest.mark.parametrize(
    "text", ["sam(rho=0.1)", "tsam(t=5, rho=0.1, s=2, noise=sphere(rms=0.05))"]
)
def test_seeds_together_give_what_each_gives_alone(network, data, text):
    _, together = trained(network, data, text, SEEDS)
    for row, seed in enumerate(SEEDS):
        _, alone = trained(network, data, text, [seed])
        for name in alone[-1].metrics:
            np.testing.assert_allclose(
                together[-1].metrics[name][row], alone[-1].metrics[name][0], rtol=1e-3, atol=1e-3
            )


def test_seeds_differ_in_labels_weights_and_noise(network, data):
    program, _ = trained(network, data, "tsam(t=1, rho=0.1, s=1)", SEEDS, epochs=1)
    state = program.init(jnp.asarray(SEEDS))
    assert (data.train.labels[0] != data.train.labels[1]).any()
    kernel = jax.tree.leaves(state.params)[1]
    assert not np.allclose(kernel[0], kernel[1])
    keys = jax.random.key_data(state.estimator.key)
    assert (keys[0] != keys[1]).any()


def test_rounds_end_where_they_should(network, data):
    _, rounds = trained(network, data, "erm()", [0], epochs=5, every=2)
    assert [this.epoch for this in rounds] == [2, 4, 5]


def test_measures_are_of_the_stated_parts(network, data):
    _, rounds = trained(network, data, "erm()", [0], epochs=1)
    params = jax.tree.map(lambda x: x[0], rounds[0].state.params)
    part = data.test
    model_logits = network_logits(network, params, part)
    losses = optax.softmax_cross_entropy_with_integer_labels(model_logits, part.labels)
    assert rounds[0].metrics["test_loss"][0] == pytest.approx(float(losses.mean()), rel=1e-4)
    hits = (model_logits.argmax(-1) == part.labels).mean()
    assert rounds[0].metrics["test_accuracy"][0] == pytest.approx(float(hits), rel=1e-4)


def network_logits(network, params, part):
    """The MLP by hand: dense, ReLU, dense."""
    del network
    first, second = (params["layers"][i] for i in (0, 1))
    hidden = jnp.maximum(part.inputs @ first["kernel"] + first["bias"], 0)
    return hidden @ second["kernel"] + second["bias"]


def test_a_gradient_budget_buys_epochs_by_cost():
    texts = ["erm()", "sam(rho=1)", "tsam(t=1, rho=1, s=3)", "sam(rho=1, steps=6)"]
    settings = [parse(text)[0] for text in [*texts, "sam(rho=1, steps=999)", "erm(budget=50)"]]
    budget = config.Budget(budget=600)
    assert [budget.epochs_for(setting) for setting in settings] == [600, 300, 100, 85, 1, 50]
    fixed = config.Budget(epochs=9)
    assert [fixed.epochs_for(setting) for setting in settings] == [9, 9, 9, 9, 9, 50]
