"""`fit`: models and data of the user's own, in the one training loop."""

import functools
import io
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from tsam_jax import data, methods
from tsam_jax.train import fit, record
from tsam_jax.train.config import ConfigError
from tsam_jax.train.run import Diverged


def test_a_model_and_data_of_the_users_own():
    # A user's whole program:
    class Classifier(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.hidden = nnx.Linear(2, 16, rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.out = nnx.Linear(16, 2, rngs=rngs)

        def __call__(self, x):
            return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))

    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
    result = fit(
        Classifier,
        (x[:200], y[:200]),
        "tsam(t=5, rho=0.05, s=2, noise=sphere(rms=0.01))",
        optax.adamw(0.02),
        epochs=20,
        batch_size=50,
        validation=(x[200:], y[200:]),
    )
    predicted = result.model(x[200:]).argmax(axis=1)

    assert (predicted == y[200:]).mean() > 0.85
    assert len(result.history) == 20
    last = result.history[-1]
    assert last["validation_accuracy"] == pytest.approx(float((predicted == y[200:]).mean()))
    assert last["gradient_evaluations"] == 20 * 4 * 4
    assert result.best["validation_accuracy"] >= last["validation_accuracy"]


X = jnp.linspace(-1, 1, 40)[:, None]
LINE = (X, 3 * X[:, 0] + 1)
SMALL = {"epochs": 3, "batch_size": 10}


def linear(rngs):
    return nnx.Linear(1, 1, rngs=rngs)


def weights(result):
    return jax.tree.map(np.asarray, nnx.as_pure(nnx.state(result.model, nnx.Param)))


def test_numbers_are_regression_and_the_best_epoch_has_the_least_loss():
    result = fit(linear, LINE, "erm", optax.sgd(0.5), **SMALL, validation=LINE)
    losses = [line["validation_loss"] for line in result.history]
    assert result.best["validation_loss"] == min(losses)
    assert losses[-1] < 0.3 * losses[0]
    assert "validation_accuracy" not in result.history[0]


def test_an_estimator_and_inputs_by_name():
    class Sum(nnx.Module):
        def __init__(self, rngs):
            self.out = nnx.Linear(1, 1, rngs=rngs)

        def __call__(self, a, b):
            return self.out(a + b)

    inputs = {"a": X / 2, "b": X / 2}
    estimator = methods.sam(rho=0.01)
    found = fit(Sum, (inputs, LINE[1]), estimator, optax.sgd(0.1), **SMALL, accumulate=2)
    plain = fit(linear, LINE, "sam(rho=0.01)", optax.sgd(0.1), **SMALL)
    assert found.history[-1]["gradient_evaluations"] == 2 * 3 * 4
    kernel, expected = found.model.out.kernel[...], plain.model.kernel[...]
    np.testing.assert_allclose(kernel, expected, rtol=1e-5)  # the seed's weights are the same


def test_splits_a_model_that_is_there_and_an_average():
    part = data.Examples(np.asarray(X), np.asarray(LINE[1]))
    splits = data.Splits(part, part, part, num_classes=None)
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(3))
    before = model.kernel[...].item()
    result = fit(model, splits, "erm", optax.sgd(0.5), **SMALL, ema=0.5)
    assert model.kernel[...].item() == before
    assert weights(result)["kernel"] == result.state.average[0]["kernel"][0]
    assert weights(result)["kernel"] != result.state.params["kernel"][0]
    predicted = result.model(X)[:, 0]
    loss = float(jnp.mean((predicted - LINE[1]) ** 2))
    assert result.history[-1]["test_loss"] == pytest.approx(loss, rel=1e-4)


def tilted(directory=None, epochs=4, **changes):
    """A training with everything that has a state: momentum, noise, an average."""
    given = {"model": linear, "method": "tsam(t=1, rho=0.1, s=2)"}
    given |= {"base": optax.sgd(0.1, momentum=0.9), "batch_size": 10, "checkpoint_every": 1}
    given |= {"ema": 0.5, "directory": directory, **changes}
    return fit(given.pop("model"), given.pop("data", LINE), epochs=epochs, **given)


@functools.cache
def whole():
    """Four epochs without a stop."""
    return tilted()


def assert_same(a, b):
    assert a.history == b.history
    assert a.best == b.best
    jax.tree.map(np.testing.assert_array_equal, weights(a), weights(b))
    np.testing.assert_array_equal(a.model(X), b.model(X))
    for x, y in zip(jax.tree.leaves(a.state.params), jax.tree.leaves(b.state.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_training_goes_on_from_a_directory_bit_for_bit(tmp_path):
    assert tilted(tmp_path, epochs=2).complete
    cut = tilted(tmp_path)
    assert len(cut.history) == 4
    assert_same(cut, whole())


def test_a_finished_directory_gives_the_same_model_again(tmp_path):
    for _ in range(2):
        again = tilted(tmp_path)
        assert again.complete
        assert_same(again, whole())


def mlp(width):
    def make(rngs):
        first, second = nnx.Linear(1, width, rngs=rngs), nnx.Linear(width, 1, rngs=rngs)
        return nnx.Sequential(first, nnx.relu, second)

    return make


def shifted(by):
    return lambda key, x: x + by * jax.random.normal(key, x.shape)


TABLES = [np.linspace(0.0, end, 10, dtype=np.float32)[:, None] for end in (0.1, 0.2)]


@jax.jit
def first_table(x):
    return x + TABLES[0]


@jax.jit
def second_table(x):
    return x + TABLES[1]


def weighted(by):
    """A compiled loss with an array in it."""
    table = np.array([1.0, by], np.float32)
    compiled = jax.jit(lambda x, y: jnp.asarray(table)[(y > 0).astype(int)] * (x[:, 0] - y) ** 2)
    return lambda outputs, labels: compiled(outputs, labels)


ERRORS = {
    "low": lambda outputs, labels: (outputs[:, 0] - labels).min(),
    "high": lambda outputs, labels: (outputs[:, 0] - labels).max(),
}
TRAININGS = {
    "learning rate": ({"base": optax.sgd(0.1)}, {"base": optax.sgd(0.1000001)}),
    "momentum": ({"base": optax.sgd(0.1, 0.9)}, {"base": optax.sgd(0.1, 0.8)}),
    "length of the schedule": (
        {"base": optax.sgd(optax.cosine_decay_schedule(0.1, 100))},
        {"base": optax.sgd(optax.cosine_decay_schedule(0.1, 101))},
    ),
    "injected rate": (
        {"base": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)},
        {"base": optax.inject_hyperparams(optax.sgd)(learning_rate=0.2)},
    ),
    "loss": ({}, {"loss": lambda outputs, labels: jnp.abs(outputs[:, 0] - labels)}),
    "constants of a compiled loss": ({"loss": weighted(1.0)}, {"loss": weighted(2.0)}),
    "width": ({"model": mlp(3)}, {"model": mlp(4)}),
    "weights": ({"model": linear(nnx.Rngs(1))}, {"model": linear(nnx.Rngs(2))}),
    "average": ({}, {"ema": 0.6}),
    "no average": ({}, {"ema": None}),
    "augmentation": ({"augment": shifted(0.1)}, {"augment": shifted(0.2)}),
    "constants of the augmentation": (
        {"augment": lambda key, x: first_table(x)},
        {"augment": lambda key, x: second_table(x)},
    ),
    "preparation": ({}, {"prepare": lambda x: 2 * x}),
    "estimator": ({"method": methods.sam(rho=0.1)}, {"method": methods.sam(rho=0.2)}),
    "setting": ({"method": "sam(rho=0.1)"}, {"method": "sam(rho=0.2)"}),
    "micro-batches": ({}, {"accumulate": 2}),
    "statistics": ({}, {"recalibrate": True}),
    "metric": ({}, {"metrics": {"zero": lambda outputs, labels: 0 * labels.sum()}}),
    "order of metrics": (
        {"metrics": ERRORS},
        {"metrics": dict(reversed(ERRORS.items()))},
    ),
    "seed": ({}, {"seed": 1}),
    "batch": ({}, {"batch_size": 20}),
    "data": ({}, {"data": (X + 1e-3, LINE[1])}),
    "labels": ({}, {"data": (X, LINE[1] + 1e-3)}),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_the_directory_of_another_training_is_refused(tmp_path, name):
    first, second = ({"method": "erm", "epochs": 1, **one} for one in TRAININGS[name])
    tilted(tmp_path, **first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="is of another run"):
        tilted(tmp_path, **second)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_fewer_epochs_than_a_directory_has_are_refused_and_lose_nothing(tmp_path):
    whole = tilted(tmp_path, epochs=3)
    with pytest.raises(ConfigError, match=r"`epochs` must be at least 3, as many as .*, got 2"):
        tilted(tmp_path, epochs=2)
    assert tilted(tmp_path, epochs=3).history == whole.history


def test_a_directory_belongs_to_one_process(tmp_path):
    with record.owned(tmp_path), pytest.raises(ConfigError, match="another process writes to"):
        tilted(tmp_path)


def interrupt(monkeypatch, round_, times):
    """Presses Ctrl-C in a round, when its state has been given up; then no more."""
    ready, calls = jax.block_until_ready, []

    def pressed(tree):
        calls.append(tree)
        for _ in range(times if len(calls) == round_ else 0):
            signal.raise_signal(signal.SIGINT)
        return ready(tree)

    monkeypatch.setattr(jax, "block_until_ready", pressed)


@pytest.mark.parametrize(("round_", "times", "left"), [(1, 1, 1), (3, 1, 3), (1, 2, 0), (3, 2, 2)])
def test_ctrl_c_leaves_a_model_and_a_training_that_goes_on(
    tmp_path, monkeypatch, round_, times, left
):
    """The first one ends the round that is computed, the second one loses it."""
    interrupt(monkeypatch, round_, times)
    cut = tilted(tmp_path)
    assert not cut.complete
    assert cut.history == whole().history[:left]
    assert np.isfinite(cut.model(X)).all()
    assert int(cut.state.step) == 4 * left
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = tilted(tmp_path)
    assert again.complete
    assert_same(again, whole())


@pytest.mark.parametrize("where", ["model", "augment", "metrics"])
def test_ctrl_c_while_the_first_round_is_compiled(where):
    seen = []

    def press(result):
        seen.append(where)
        if len(seen) == (2 if where == "model" else 1):  # of a model, the shapes are found before
            signal.raise_signal(signal.SIGINT)
        return result

    functions = {
        "model": lambda rngs: press(linear(rngs)),
        "augment": lambda key, x: press(x),
        "metrics": {"hits": lambda outputs, labels: press(jnp.mean(labels))},
    }
    cut = tilted(**{where: functions[where]})
    assert seen
    assert not cut.complete
    assert cut.history[0]["train_loss"] == whole().history[0]["train_loss"]
    assert np.isfinite(cut.model(X)).all()


def test_ctrl_c_twice_without_a_directory_leaves_the_initial_model(monkeypatch):
    interrupt(monkeypatch, 3, 2)
    cut = tilted()
    assert not cut.complete
    assert cut.history == []
    assert cut.best is None
    start = linear(nnx.Rngs(jax.random.split(jax.random.key(0), 3)[0]))
    np.testing.assert_allclose(cut.model(X), start(X), rtol=1e-6)


def test_without_a_validation_part_progress_is_of_the_training_part():
    shown = {}
    for validation in (None, LINE):
        console = Console(file=io.StringIO(), width=200)
        fit(linear, LINE, "erm", optax.sgd(0.5), **SMALL, validation=validation, console=console)
        shown[validation is None] = console.file.getvalue()
    assert "val" not in shown[True]
    assert "  train " in shown[True]
    assert "  val " in shown[False]
    assert "epoch 3/3" in shown[True]
    assert "left 0:00" in shown[True]


def test_the_first_metric_chooses_the_best_epoch():
    metrics = {"nearness": lambda outputs, labels: -jnp.abs(outputs[:, 0] - labels).max()}
    result = fit(
        linear, LINE, "erm", optax.sgd(1.2), **SMALL, validation=LINE, metrics=metrics, seed=3
    )
    found = [line["validation_nearness"] for line in result.history]
    assert result.best == result.history[int(np.argmax(found))]


def test_statistics_of_the_model_are_recalibrated():
    def normalised(rngs):
        return nnx.Sequential(nnx.BatchNorm(1, rngs=rngs), nnx.Linear(1, 1, rngs=rngs))

    result = fit(normalised, LINE, "erm", optax.sgd(0.01), **SMALL, recalibrate=True)
    norm, batches = result.model.layers[0], np.asarray(X).reshape(4, 10)
    np.testing.assert_allclose(norm.mean[...], [batches.mean()], atol=1e-6)
    np.testing.assert_allclose(norm.var[...], [batches.var(axis=1).mean()], rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_with_words(tmp_path):
    with pytest.raises(Diverged) as stopped:
        fit(
            linear,
            LINE,
            "erm",
            optax.inject_hyperparams(optax.sgd)(lambda n: jnp.where(n < 5, 0.1, 1e30)),
            epochs=4,
            batch_size=10,
            directory=tmp_path,
            checkpoint_every=1,
        )
    said = str(stopped.value)
    assert "step 7, epoch 2" in said  # the step of 1e30 is the sixth
    assert "Last good checkpoint: after epoch 1" in said
    assert "Try a lower learning rate" in said
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 41}, r"`fit\(batch_size=...\)` must be between 1 and 40, got 41"),
        ({"epochs": 0}, r"`fit\(epochs=...\)` must be a positive integer, got 0"),
        ({"accumulate": 3}, r"`fit\(accumulate=...\)` must divide `batch_size`, 10, got 3"),
        ({"ema": 1.0}, r"`fit\(ema=...\)` must be at least 0 and below 1, got 1.0"),
        ({"loss": "mae"}, r"`fit\(loss=...\)` must be a function or one of cross-entropy"),
        ({"checkpoint_every": 0}, r"`fit\(checkpoint_every=...\)` must be a positive integer"),
        ({"metrics": {"loss": len}}, r"`fit\(metrics=...\)` must not have the name loss"),
        ({"data": (X, LINE[1][:7])}, "of the train part have the sizes"),
        ({"validation": (X[:0], LINE[1][:0])}, "of the validation part have the sizes"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, message):
    arguments = {"data": LINE, **SMALL, **changes}
    with pytest.raises(ValueError, match=message):
        fit(linear, arguments.pop("data"), "erm", optax.sgd(0.1), **arguments)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("sam(rho=[1, 2])", "takes one setting, got 2"),
        ("sam(rho=1, lr=0.1)", "lr in `.*` belong to `base` or `epochs`"),
        ("smm", "Perhaps you meant `sam`"),
    ],
)
def test_a_method_that_is_not_a_setting_is_named(method, message):
    with pytest.raises(ConfigError, match=message):
        fit(linear, LINE, method, optax.sgd(0.1), **SMALL)


def test_streamed_examples_give_the_training_of_those_on_the_device(tmp_path):
    read = []

    def some(rows):
        read.append(len(rows))
        return np.asarray(X)[rows]

    records = data.Records(np.asarray(LINE[1]), some)
    on_device, streamed = (
        fit(linear, part, "sam(rho=0.1)", optax.sgd(0.5), **SMALL, validation=LINE)
        for part in (LINE, records)
    )
    jax.tree.map(np.testing.assert_array_equal, weights(on_device), weights(streamed))
    assert on_device.history[-1]["train_loss"] == streamed.history[-1]["train_loss"]
    assert sorted(read) == [10] * 12 + [40]  # batches, and what is measured


def test_open_splits_are_streamed():
    opened = data.open_splits("digits", subset={"train": 60, "validation": 20, "test": 20})
    model = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
    result = fit(model, opened, "erm", optax.sgd(0.1), epochs=2, batch_size=20)
    assert result.history[-1]["gradient_evaluations"] == 6
    assert "test_accuracy" in result.history[-1]
