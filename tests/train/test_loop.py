"""The training loop: what it computes, what it spends, and that seeds do not mix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tsam_jax.train import config, loop
from tsam_jax.train.losses import cross_entropy
from tsam_jax.train.network import Batch, make_network
from tsam_jax.train.settings import parse
from tsam_jax.train.task import load_task

TASK = config.Task(train_size=200, width=8, depth=1)
OPTIMIZER = config.Optimizer(batch_size=60)
SEEDS = [0, 1]


@pytest.fixture(scope="module")
def task():
    return load_task(TASK, SEEDS)


@pytest.fixture(scope="module")
def data(task):
    return task.data


@pytest.fixture(scope="module")
def network(task):
    return task.network


def trained(network, data, text, seeds, epochs=3, every=1, optimizer=OPTIMIZER):
    [setting] = parse(text)
    plan = loop.plan_for(setting, optimizer, TASK.train_size, epochs)
    program = loop.make_program(network, plan, TASK.train_size)
    rows = [SEEDS.index(seed) for seed in seeds]
    start = program.init(seeds)
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
    state = program.init(SEEDS)
    assert (data.train.labels[0] != data.train.labels[1]).any()
    kernel = jax.tree.leaves(state.params)[1]
    assert not np.allclose(kernel[0], kernel[1])
    keys = state.estimator.key
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


def trained_params(network, data, optimizer, text="sam(rho=0.1)", epochs=2):
    _, rounds = trained(network, data, text, [0], epochs=epochs, optimizer=optimizer)
    return rounds[-1]


def assert_close(a, b, rtol=1e-4, atol=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def test_a_batch_in_parts_is_the_batch(network, data):
    whole = trained_params(network, data, OPTIMIZER)
    parts = trained_params(network, data, dataclasses.replace(OPTIMIZER, accumulate=3))
    assert_close(parts.state.params, whole.state.params, rtol=1e-3, atol=1e-5)


def test_the_average_of_the_parameters_is_measured(network, data):
    averaged = dataclasses.replace(OPTIMIZER, ema=0.5)
    [setting] = parse("erm(lr=0.05)")
    plan = loop.plan_for(setting, averaged, TASK.train_size, 2)
    program = loop.make_program(network, plan, TASK.train_size)
    one = loop.select_seeds(data, [0])
    start = program.init([0])
    average = jax.tree.map(np.array, start.params)
    [first, second] = loop.train(program, start, one, epochs=2, every=1, stream=stream_of(data))
    # The decay is (1 + n) / (10 + n) in step n, up to 0.5; the parameters in between are those of
    # training without an average.
    single = loop.make_program(network, plan._replace(ema=None), TASK.train_size)
    state = single.init([0])
    for n in range(6):
        batch = list(stream_of(data)(n // 3))[n % 3]
        state = single.feed(state, jax.tree.map(lambda x: x[None], batch))
        kept = min(0.5, (1 + n) / (10 + n))
        average = jax.tree.map(lambda a, p, k=kept: k * a + (1 - k) * p, average, state.params)
    assert_close(second.state.average[0], average)
    params = jax.tree.map(lambda x: x[0], second.state.average[0])
    logits = network_logits(network, params, data.test)
    hits = (logits.argmax(-1) == data.test.labels).mean()
    assert second.metrics["test_accuracy"][0] == pytest.approx(float(hits), rel=1e-4)
    assert first.epoch == 1


def stream_of(data):
    """The batches of seed 0 from the host, in the order of the device."""
    order_key = jax.random.split(jax.random.key(0), 3)[1]

    def batches(epoch):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), TASK.train_size)
        for rows in np.asarray(order)[:180].reshape(3, 60):
            yield Batch(np.asarray(data.train.inputs)[rows], np.asarray(data.train.labels[0])[rows])

    return batches


def test_streamed_data_are_the_data_on_the_device(network, data, monkeypatch):
    monkeypatch.setattr(loop, "_DISPATCH", 2)  # of three batches: a full and a shorter dispatch
    [setting] = parse("tsam(t=5, rho=0.1, s=2)")
    plan = loop.plan_for(setting, OPTIMIZER, TASK.train_size, 3)
    program = loop.make_program(network, plan, TASK.train_size)
    one = loop.select_seeds(data, [0])
    ends = []
    for stream in (None, stream_of(data)):
        *_, last = loop.train(program, program.init([0]), one, epochs=3, every=2, stream=stream)
        assert last.epoch == 3
        ends.append(last.state._replace(key=jax.random.key_data(last.state.key)))
    assert_close(*ends)


def test_the_metrics_of_the_last_step_are_logged(network, data):
    """Under names of their own, and as means over the samples."""
    _, rounds = trained(network, data, "tsam(t=50, rho=0.1, s=3)", SEEDS, epochs=1)
    last, metrics = rounds[0].state.estimator.last.metrics, rounds[0].metrics
    assert last["losses"].shape == (2, 3)
    for seed in range(2):
        size = float(1 / (last["weights"][seed] ** 2).sum())
        assert metrics["step_effective_sample_size"][seed] == pytest.approx(size)
        mean = float(last["losses"][seed].mean())
        assert metrics["step_losses"][seed] == pytest.approx(mean)
        assert metrics["step_tilt"][seed] == 50.0
        assert metrics["step_weights"][seed] == pytest.approx(1 / 3)
    _, rounds = trained(network, data, "erm()", [0], epochs=1)
    of_step = {name for name in rounds[0].metrics if name.startswith("step_")}
    assert of_step == {"step_loss"}
    assert rounds[0].metrics["step_loss"][0] == rounds[0].state.estimator.last.value[0]


def test_the_first_step_with_a_loss_that_is_not_finite_is_kept(network, data):
    """The loss of step 4, the first of the second epoch, is made infinite by its inputs."""
    [setting] = parse("erm(lr=0.0)")
    plan = loop.plan_for(setting, OPTIMIZER, TASK.train_size, 3)
    program = loop.make_program(network, plan, TASK.train_size)

    def broken(epoch):
        for step, batch in enumerate(stream_of(data)(epoch)):
            bad = (epoch, step) in {(1, 0), (1, 2)}
            yield batch._replace(inputs=batch.inputs * (np.nan if bad else 1))

    one = loop.select_seeds(data, [0])
    rounds = loop.train(program, program.init([0]), one, epochs=3, every=1, stream=broken)
    assert [int(this.state.broken[0]) for this in rounds] == [0, 4, 4]


def test_augmentation_has_a_key_of_its_own_in_each_step():
    seen = []

    def augment(key, inputs):
        jax.debug.callback(lambda k: seen.append(tuple(k.tolist())), jax.random.key_data(key))
        return inputs

    network = make_network(lambda rngs: nnx.Linear(2, 2, rngs=rngs), cross_entropy, augment=augment)
    plan = loop.plan_for(parse("sam(rho=0.1)")[0], config.Optimizer(batch_size=2), 4, 2)
    program = loop.make_program(network, plan, 4, parts=())
    train = Batch(jnp.ones((4, 2)), jnp.zeros((1, 4), int))
    state = program.init([0])
    state = jax.block_until_ready(program.advance(state, loop.Data(train, None, None), 2))
    jax.effects_barrier()
    assert len(seen) == 4  # once a step, for both probes
    assert len(set(seen)) == 4
