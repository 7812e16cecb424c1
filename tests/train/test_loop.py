"""The training loop: what it computes, what it spends, and that seeds differ."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from tsam_jax.commands.study import Study
from tsam_jax.train import config, loop, resolve, run
from tsam_jax.train.metrics import METRICS, cross_entropy
from tsam_jax.train.network import Batch, make_network
from tsam_jax.train.progress import Progress
from tsam_jax.train.settings import parse
from tsam_jax.train.task import Data, load_task

TASK = config.Task(train_size=200, width=8, depth=1, model="mlp", label_noise=0.4)
OPTIMIZER = config.Optimizer(batch_size=60)
SEEDS = [0, 1]
ACCURACY = {"accuracy": METRICS["accuracy"].function}
TSAM = "tsam(t=5, rho=0.1, s=2, noise=sphere(rms=0.05))"


@pytest.fixture(scope="module")
def task():
    return load_task(TASK, SEEDS)


@pytest.fixture(scope="module")
def data(task):
    """Those of seed 0."""
    return task.of_seed(0)


@pytest.fixture(scope="module")
def network(task):
    return task.network


def planned(text, epochs=3, optimizer=OPTIMIZER):
    """The plan of a setting, and the arguments of its program."""
    [setting] = parse(text)
    own = {name: x for name, x in setting.overrides.items() if name != "budget"}
    optimizer = dataclasses.replace(optimizer, **own)
    plan = loop.plan_for(setting, optimizer, TASK.train_size, epochs)
    return plan, loop.numbers_for(setting, optimizer)


def trained(task, text, seed=0, epochs=3, ends=None, optimizer=OPTIMIZER):
    plan, numbers = planned(text, epochs, optimizer)
    program = loop.make_program(task.network, plan, TASK.train_size, metrics=ACCURACY)
    start, own = program.init(seed, numbers), task.of_seed(seed)
    rounds = loop.train(program, start, own, ends=ends or range(1, epochs + 1))
    return program, list(rounds)


def assert_close(a, b, rtol=1e-4, atol=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def test_an_epoch_of_erm_is_sgd_with_momentum_and_coupled_weight_decay(task, network):
    program, rounds = trained(task, "erm(lr=0.05)", 1, epochs=1)
    data = task.of_seed(1)
    init_key, order_key, _ = jax.random.split(jax.random.key(1), 3)
    params, rest = network.init(init_key)
    order = jax.random.permutation(jax.random.fold_in(order_key, 0), TASK.train_size)
    velocity = jax.tree.map(jnp.zeros_like, params)
    for rows in order[:180].reshape(3, 60):  # what is left after the last full batch is left out
        batch = Batch(data.train.inputs[rows], data.train.labels[rows])
        grads = jax.grad(lambda p, b=batch: network.loss(p, b, rest)[0])(params)
        velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 5e-4 * p, velocity, grads, params)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
    assert_close(rounds[0].state.params, params)
    assert program.steps_per_epoch == 3


SAME_SHAPE = {
    "tsam": (TSAM, "tsam(t=20, rho=0.3, s=2, noise=sphere(rms=0.01))"),
    "vasso": ("vasso(rho=0.1, theta=0.4)", "vasso(rho=0.3, theta=0.9)"),
    "fsam": ("fsam(rho=0.1, lmbda=0.6)", "fsam(rho=0.3, lmbda=0.9)"),
    "wsam": ("wsam(rho=0.1, gamma=0.8)", "wsam(rho=0.3, gamma=0.3)"),
    "schedule": (
        "tsam(t=cosine_decay_schedule(5.0, 10), rho=0.1, s=2, noise=sphere(rms=0.01))",
        "tsam(t=cosine_decay_schedule(5.0, 10), rho=0.3, s=2, noise=sphere(rms=0.01))",
    ),
    "nothing but a schedule": (
        "sam(rho=linear_schedule(0.1, 0.3, 4), lr=0.1)",
        "sam(rho=linear_schedule(0.1, 0.3, 4), lr=0.03)",
    ),
    "base": (
        "sam(rho=0.1, lr=0.1, momentum=0.9, weight_decay=0.01)",
        "sam(rho=0.1, lr=0.03, momentum=0.5, weight_decay=0.1)",
    ),
}


QUICK = {"tsam", "vasso", "nothing but a schedule", "base"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SAME_SHAPE],
)
def test_settings_that_differ_in_numbers_share_a_program_and_give_what_each_gives_alone(
    network, data, name
):
    """Alone: numbers are constants of a program of its own. Shared: they are its arguments."""
    texts, traces = SAME_SHAPE[name], []
    plans, numbers = zip(*map(planned, texts), strict=True)
    assert len({parse(text)[0].shape for text in texts}) == 1

    def augment(key, inputs):
        traces.append(key)
        return network.augment(key, inputs)

    shared = loop.make_program(network._replace(augment=augment), plans[0], TASK.train_size)
    alone = []
    for plan, own in zip(plans, numbers, strict=True):
        program = loop.make_program(network, plan, TASK.train_size, parts=())
        alone.append(program.advance(program.init(0), data, 2).params)
        assert_close(shared.advance(shared.init(0, own), data, 2).params, alone[-1], 1e-3, 1e-5)
    assert len(traces) == 1
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), *alone))) > 1e-4


@pytest.mark.parametrize(
    ("ordinary", "special"),
    [
        ("tsam(t=5, rho=0.1, s=2)", "tsam(t=0, rho=0.1, s=2)"),
        ("tsam(t=5, rho=0.1, s=2)", "tsam(t=inf, rho=0.1, s=2)"),
        ("sam(rho=0.1)", "sam(rho=0)"),
        ("esam2(rhos=(0.1, 0.2))", "esam2(rhos=(0, 0.2))"),
    ],
)
def test_zero_and_infinity_have_programs_of_their_own(ordinary, special):
    [first], [second] = parse(ordinary), parse(special)
    assert first.shape != second.shape
    assert len(second.numbers) == len(first.numbers) - 1


def test_seeds_differ_in_labels_weights_and_noise(task):
    program, _ = trained(task, "tsam(t=1, rho=0.1, s=1)", epochs=1)
    labels = [task.of_seed(seed).train.labels for seed in SEEDS]
    assert (labels[0] != labels[1]).any()
    states = [program.init(seed) for seed in SEEDS]
    assert not np.allclose(*(jax.tree.leaves(state.params)[1] for state in states))
    keys = [state.estimator.key for state in states]
    assert (keys[0] != keys[1]).any()


def test_rounds_end_where_they_should(task, data):
    program, rounds = trained(task, "erm()", epochs=5, ends=[2, 4, 5])
    assert [this.epoch for this in rounds] == [2, 4, 5]
    assert rounds[-1].state.step == 15
    more = loop.train(program, rounds[-1].state, data, ends=[1, 5, 6])
    assert [this.epoch for this in more] == [6]


def test_training_that_is_at_its_end_keeps_its_state(task, data):
    program, rounds = trained(task, "erm()", epochs=1)
    assert not list(loop.train(program, rounds[-1].state, data, ends=[1]))
    assert np.isfinite(jax.tree.leaves(rounds[-1].state.params)[0]).all()
    assert np.isfinite(jax.tree.leaves(rounds[-1].weights)[0]).all()


def test_every_method_has_the_same_number_of_evaluations():
    for epochs in (600, 300, 171, 100, 20):
        looks = run.looks(epochs, 20)
        assert len(set(looks)) == 20
        assert looks == sorted(looks)
        assert looks[0] > 0
        assert looks[-1] == epochs
        assert np.ptp(np.diff([0, *looks])) <= 1


def test_measures_are_of_the_stated_parts(task, data):
    _, rounds = trained(task, "erm()", epochs=1)
    part = data.test
    logits = logits_by_hand(rounds[0].state.params, part)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, part.labels)
    assert rounds[0].metrics["test_loss"] == pytest.approx(float(losses.mean()), rel=1e-4)
    hits = (logits.argmax(-1) == part.labels).mean()
    assert rounds[0].metrics["test_accuracy"] == pytest.approx(float(hits), rel=1e-4)


def logits_by_hand(params, part):
    """The MLP: dense, ReLU, dense."""
    first, second = (params["layers"][i] for i in (0, 1))
    hidden = jnp.maximum(part.inputs @ first["kernel"] + first["bias"], 0)
    return hidden @ second["kernel"] + second["bias"]


@pytest.mark.parametrize(
    ("texts", "budget", "expected"),
    [
        (
            ["erm()", "sam(rho=1)", "tsam(t=1, rho=1, s=3)", "sam(rho=1, steps=6)"],
            {"budget": 600},
            [600, 300, 100, 85],
        ),
        (["sam(rho=1, steps=999)"], {"budget": 600}, [1]),
        (["erm(budget=50)", "sam(rho=1, budget=50)"], {}, [50, 25]),
        (["erm()", "tsam(t=1, rho=1, s=3)"], {"epochs": 9}, [9, 9]),
    ],
)
def test_a_gradient_budget_buys_epochs_by_cost(texts, budget, expected):
    command = Study(
        methods=tuple(texts),
        task=config.TaskFlags(dataset="digits", model="mlp"),
        budget=config.BudgetFlags(**budget),
    )
    assert [plan.epochs for plan in resolve.resolve(command).plans] == expected


def test_a_batch_in_parts_is_the_batch(task):
    parts = dataclasses.replace(OPTIMIZER, accumulate=3)
    whole, split = (
        trained(task, "sam(rho=0.1)", epochs=2, optimizer=optimizer)[1][-1]
        for optimizer in (OPTIMIZER, parts)
    )
    assert_close(split.state.params, whole.state.params, rtol=1e-3, atol=1e-5)


def test_the_average_of_the_parameters_is_measured(network, data):
    plan, numbers = planned("erm(lr=0.05)", 2, dataclasses.replace(OPTIMIZER, ema=0.5))
    program = loop.make_program(network, plan, TASK.train_size, metrics=ACCURACY)
    start = program.init(0, numbers)
    average = jax.tree.map(np.array, start.params)
    [first, second] = loop.train(program, start, data, ends=[1, 2], stream=stream_of(data))
    # The decay is (1 + n) / (10 + n) in step n, up to 0.5; the parameters in between are those of
    # training without an average.
    single = loop.make_program(network, plan._replace(options=OPTIMIZER), TASK.train_size)
    state = single.init(0, numbers)
    for n in range(6):
        batch = list(stream_of(data)(n // 3))[n % 3]
        state = single.feed(state, jax.tree.map(lambda x: x[None], batch))
        kept = min(0.5, (1 + n) / (10 + n))
        average = jax.tree.map(lambda a, p, k=kept: k * a + (1 - k) * p, average, state.params)
    assert_close(second.state.average[0], average)
    assert_close(second.weights[0], average)
    hits = (
        logits_by_hand(second.state.average[0], data.test).argmax(-1) == data.test.labels
    ).mean()
    assert second.metrics["test_accuracy"] == pytest.approx(float(hits), rel=1e-4)
    assert first.epoch == 1


class Normalised(nnx.Module):
    """A dense layer with BatchNorm, and a dense layer."""

    def __init__(self, rngs):
        self.first = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.second = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(self.norm(self.first(x)))


def small_data():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(22, 2)), jnp.float32) + 3
    y = jnp.asarray(rng.integers(0, 2, 22))
    return Data(Batch(x, y), Batch(x[:7], y[:7]), Batch(x[7:], y[7:]))


@pytest.mark.parametrize("ema", [None, 0.6])
@pytest.mark.parametrize("recalibrate", [False, True])
def test_what_is_measured_is_measured_on_the_weights(ema, recalibrate):
    """Averaged and recalibrated: by hand from the last state."""
    network = make_network(Normalised, cross_entropy)
    optimizer = config.Optimizer(batch_size=5, lr=0.1, ema=ema, recalibrate=recalibrate)
    plan = loop.plan_for(parse("sam(rho=0.1)")[0], optimizer, 22, 2)
    program, own = loop.make_program(network, plan, 22), small_data()
    *_, last = loop.train(program, program.init(0), own, ends=[1, 2])
    params, rest = last.weights
    params_kept, rest_kept = last.state.average if ema else (last.state.params, last.state.rest)
    assert_close(params, params_kept)
    mean, var = rest_kept["norm"]["mean"], rest_kept["norm"]["var"]
    if recalibrate:
        hidden = np.asarray(own.train.inputs @ params["first"]["kernel"])
        batches = (hidden + np.asarray(params["first"]["bias"]))[:20].reshape(4, 5, 3)
        mean, var = batches.mean((0, 1)), batches.var(1).mean(0)
    np.testing.assert_allclose(rest["norm"]["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(rest["norm"]["var"], var, rtol=1e-3)
    for part in loop.PARTS:
        inputs, labels = getattr(own, part)
        loss = float(network.criterion(network.merge(params, rest)(inputs), labels))
        assert last.metrics[f"{part}_loss"] == pytest.approx(loss, rel=1e-4)


def stream_of(data):
    """The batches of seed 0 from the host, in the order of the device."""
    order_key = jax.random.split(jax.random.key(0), 3)[1]

    def batches(epoch):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), TASK.train_size)
        for rows in np.asarray(order)[:180].reshape(3, 60):
            yield Batch(np.asarray(data.train.inputs)[rows], np.asarray(data.train.labels)[rows])

    return batches


def test_streamed_data_are_the_data_on_the_device(network, data, monkeypatch):
    monkeypatch.setattr(loop, "_DISPATCH", 2)  # of three batches: a full and a shorter dispatch
    plan, numbers = planned("tsam(t=5, rho=0.1, s=2)")
    program = loop.make_program(network, plan, TASK.train_size)
    ends = []
    for stream in (None, stream_of(data)):
        start = program.init(0, numbers)
        *_, last = loop.train(program, start, data, ends=[2, 3], stream=stream)
        assert last.epoch == 3
        ends.append(last.state._replace(key=jax.random.key_data(last.state.key)))
    assert_close(*ends)


def test_the_metrics_of_the_last_step_are_logged(task):
    """Under names of their own, and as means over the samples."""
    _, rounds = trained(task, "tsam(t=50, rho=0.1, s=3)", epochs=1)
    last, metrics = rounds[0].state.estimator.last.metrics, rounds[0].metrics
    assert last["losses"].shape == (3,)
    size = float(1 / (last["weights"] ** 2).sum())
    assert metrics["step_effective_sample_size"] == pytest.approx(size)
    assert metrics["step_losses"] == pytest.approx(float(last["losses"].mean()))
    assert metrics["step_tilt"] == 50.0
    assert metrics["step_weights"] == pytest.approx(1 / 3)
    _, rounds = trained(task, "erm()", epochs=1)
    of_step = {name for name in rounds[0].metrics if name.startswith("step_")}
    assert of_step == {"step_loss"}
    assert rounds[0].metrics["step_loss"] == rounds[0].state.estimator.last.value


def test_the_first_step_with_a_loss_that_is_not_finite_is_kept(network, data):
    """The loss of step 4, the first of the second epoch, is made infinite by its inputs."""
    plan, numbers = planned("erm(lr=0.0)")
    program = loop.make_program(network, plan, TASK.train_size)

    def broken(epoch):
        for step, batch in enumerate(stream_of(data)(epoch)):
            bad = (epoch, step) in {(1, 0), (1, 2)}
            yield batch._replace(inputs=batch.inputs * (np.nan if bad else 1))

    start = program.init(0, numbers)
    rounds = loop.train(program, start, data, ends=[1, 2, 3], stream=broken)
    assert [int(this.state.broken) for this in rounds] == [0, 4, 4]


def test_augmentation_has_a_key_of_its_own_in_each_step_and_its_images_are_trained_on():
    seen = []

    def augment(key, inputs):
        jax.debug.callback(lambda k: seen.append(tuple(k.tolist())), jax.random.key_data(key))
        return jnp.zeros_like(inputs)

    network = make_network(lambda rngs: nnx.Linear(2, 2, rngs=rngs), cross_entropy, augment=augment)
    optimizer = config.Optimizer(batch_size=2, lr=0.1, weight_decay=0.0)
    plan = loop.plan_for(parse("sam(rho=0.1)")[0], optimizer, 4, 2)
    program = loop.make_program(network, plan, 4, parts=())
    train = Batch(jnp.ones((4, 2)), jnp.zeros(4, int))
    before = jax.device_get(program.init(0).params)
    state = jax.block_until_ready(program.advance(program.init(0), Data(train, None, None), 2))
    jax.effects_barrier()
    assert int(state.step) == 4
    assert len(seen) == 4  # once a step, for both probes
    assert len(set(seen)) == 4
    np.testing.assert_array_equal(state.params["kernel"], before["kernel"])  # of images of zeros
    assert (state.params["bias"] != before["bias"]).all()


EMA = dataclasses.replace(OPTIMIZER, ema=0.5)


def finish(one, **options):
    with Progress(one.price * one.ends[-1], Console(quiet=True)) as progress:
        return run.train(one, progress, **options)


def bits(tree):
    def plain(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return [np.asarray(plain(x)) for x in jax.tree.leaves(tree)]


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path, network, data):
    """Also when it is finished."""
    text = "tsam(t=5, rho=0.1, s=2)"
    plan, numbers = planned(text, 4, EMA)
    program = loop.make_program(network, plan, TASK.train_size, metrics=ACCURACY)

    def job(folder, ends):
        (tmp_path / folder).mkdir(exist_ok=True)
        where = tmp_path / folder, network, program, data
        return run.Run(text, 0, numbers, {"text": text}, *where, ends, "accuracy", 12.0)

    whole = finish(job("whole", [1, 2, 3, 4]))
    finish(job("cut", [1, 2]), checkpoint_every=1)
    for _ in range(2):
        cut = finish(job("cut", [1, 2, 3, 4]))
        assert cut.complete
        assert cut.log.best("accuracy") == whole.log.best("accuracy")
        assert cut.log.lines == whole.log.lines
        pairs = zip(*(bits((x.weights, x.state)) for x in (cut, whole)), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
