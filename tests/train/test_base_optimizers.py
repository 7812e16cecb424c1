"""Base optimizers by name: what optax makes of them, in which order, and what is refused."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsam_jax.train import optimizers
from tsam_jax.train.config import ConfigError, Optimizer
from tsam_jax.train.optimizers import NUMBERS, OPTIMIZERS, SCHEDULES, make_base, schedule

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, -0.2])}
GRADS = jax.tree.map(lambda x: 3 * x + 1, PARAMS)


def after_two_steps(base):
    params, state = PARAMS, base.init(PARAMS)
    for factor in (1.0, 0.5):
        grads = jax.tree.map(lambda g, f=factor: f * g, GRADS)
        updates, state = base.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def base_of(**fields):
    numbers = fields.pop("numbers", {})
    return make_base(Optimizer(**fields), steps=100, steps_per_epoch=10, numbers=numbers)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_optax_moves_the_parameters(name):
    for x, start in zip(
        *map(jax.tree.leaves, (after_two_steps(base_of(base=name)), PARAMS)), strict=True
    ):
        assert jnp.isfinite(x).all()
        assert (x != start).any()


WITHOUT_SCHEDULE = {"rprop", "sm3"}
VALUES = {"lr": 0.01, "weight_decay": 0.02, "momentum": 0.7}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_optax_takes_traced_numbers(name):
    """One program trains runs that differ in these numbers, and is that of each run alone."""
    assert set(VALUES) == set(NUMBERS)

    kind = "constant" if name in WITHOUT_SCHEDULE else "cosine"

    def traced(numbers):
        return after_two_steps(base_of(base=name, schedule=kind, clip=1.0, numbers=numbers))

    found = jax.jit(traced)(VALUES)
    constant = jax.jit(
        lambda: after_two_steps(base_of(base=name, schedule=kind, clip=1.0, **VALUES))
    )()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), found, constant)
    rows = jax.tree.map(lambda x: jnp.array([x, 2 * x if x < 0.5 else 0.9]), VALUES)
    first, second = (jax.tree.map(lambda x, k=k: x[k], jax.vmap(traced)(rows)) for k in range(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), first, found)
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), first, second)
    assert any(jax.tree.leaves(differ))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_without_schedule_is_refused_one(name):
    for fields in ({"schedule": "cosine"}, {"warmup": 1.0}):
        if name in WITHOUT_SCHEDULE:
            with pytest.raises(ConfigError, match=f"`--base {name}` takes no schedule: give `--s"):
                base_of(base=name, **fields)
        else:
            base_of(base=name, **fields)


@pytest.mark.parametrize("name", ["adadelta", "sm3", "lbfgs", "optimistic_adam_v2"])
def test_an_alias_that_optax_drops_is_missing_and_nothing_else(name, monkeypatch):
    monkeypatch.delattr(optax, name)
    again = runpy.run_path(optimizers.__file__)["OPTIMIZERS"]
    assert set(again) == set(OPTIMIZERS) - {name}


def test_the_common_ones_are_there():
    assert {"sgd", "adamw", "adam", "lamb", "lion", "lars", "rmsprop", "adafactor"} <= set(
        OPTIMIZERS
    )


def test_weight_decay_is_decoupled_where_the_optimizer_has_its_own():
    found = after_two_steps(base_of(base="adamw(b2=0.9)", lr=0.1, weight_decay=0.3))
    assert_same(found, after_two_steps(optax.adamw(0.1, b2=0.9, weight_decay=0.3)))


def test_weight_decay_is_coupled_elsewhere():
    found = after_two_steps(base_of(base="adam", lr=0.1, weight_decay=0.3))
    coupled = optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1))
    assert_same(found, after_two_steps(coupled))


def test_the_estimate_is_clipped_before_the_decay_is_added():
    found = after_two_steps(base_of(lr=0.1, momentum=0.5, weight_decay=0.3, clip=0.7))
    by_hand = optax.chain(
        optax.clip_by_global_norm(0.7),
        optax.add_decayed_weights(0.3),
        optax.sgd(0.1, momentum=0.5),
    )
    assert_same(found, after_two_steps(by_hand))


def rates(at, steps=100, **fields):
    function = schedule(Optimizer(**fields), 1.0, steps=steps, steps_per_epoch=10)
    return [round(float(function(step)), 4) for step in at]


def test_schedules():
    assert schedule(Optimizer(), 0.5, steps=100, steps_per_epoch=10) == 0.5
    drops = rates([0, 29, 30, 59, 60, 79, 80, 99], schedule="step")
    assert drops == [1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008]
    assert rates([0, 25, 50, 100], schedule="cosine") == [1, 0.8536, 0.5, 0]
    assert rates([0, 25, 50, 100], schedule="linear") == [1, 0.75, 0.5, 0]


def test_drops_of_a_short_training_at_the_same_step_are_multiplied():
    # 30, 60 and 80 % of two steps are the steps 1, 1 and 2; those of one step are 0, 1 and 1.
    assert rates([0, 1, 2, 3], steps=2, schedule="step") == [1, 0.04, 0.008, 0.008]
    assert rates([1, 2], steps=1, schedule="step") == [0.008, 0.008]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_take_a_traced_rate(kind):
    def at(lr, step):
        function = schedule(Optimizer(schedule=kind, warmup=1.0), lr, steps=100, steps_per_epoch=10)
        return function(step)

    for step in (0, 5, 50, 95):
        np.testing.assert_allclose(jax.jit(at)(0.3, step), at(0.3, step), rtol=1e-5)


def test_warmup_rises_to_the_rate_and_the_schedule_follows():
    assert rates([0, 5, 10, 55, 100], schedule="cosine", warmup=1.0) == [0.0909, 0.5455, 1, 0.5, 0]
    assert rates([0, 5, 10, 55, 100], schedule="linear", warmup=1.0) == [0.0909, 0.5455, 1, 0.5, 0]
    assert rates([0, 10, 99], warmup=1.0) == [0.0909, 1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": "adamm"}, "`adamm` is not a known optimizer.*Perhaps you meant `adam`"),
        ({"base": "adam(b3=1)"}, r"in `--base adam\(b3=1\)`: .*b3"),
        ({"base": "adam(learning_rate=1)"}, "give `learning_rate` as `--lr`"),
        ({"base": "adamw(weight_decay=1)"}, "give `weight_decay` as `--weight-decay`"),
        ({"base": "adam(0.9)"}, "arguments must be given by name"),
        ({"base": "lbfgs"}, "not a known optimizer"),
        ({"base": "sgd(momentum=5)"}, "give `momentum` as `--momentum`"),
        ({"base": "adamw(b2='x')"}, "`b2` must be a number >= 0 and < 1, got 'x'"),
        ({"base": "adamw(b2=5)"}, "`b2` must be a number >= 0 and < 1, got 5"),
        ({"base": "lion(b1=[1, 2])"}, "a list is a grid, which an optimizer has not"),
        ({"base": "adafactor(decay_rate=None)"}, "`decay_rate` must be a number >= 0 and < 1, got"),
        ({"base": "adafactor(min_dim_size_to_factor=1.5)"}, "must be an integer >= 0, got 1.5"),
        ({"base": "adam(eps=-1)"}, "`eps` must be a finite number >= 0, got -1"),
        ({"base": "adam(eps=inf)"}, "`eps` must be a finite number >= 0, got inf"),
        ({"base": "adam(nesterov='no')"}, "`nesterov` must be True or False, got 'no'"),
        ({"base": "adam(mu_dtype=3)"}, "`mu_dtype` must be the name of a type, got 3"),
        (
            {"base": "adam(mu_dtype='float33')"},
            r"in `--base adam\(mu_dtype='float33'\)`: .*float33",
        ),
        ({"base": "adamw(mask=5)"}, "`mask` must be True or False, got 5"),
        ({"base": "adamw(b1=sphere(rms=1))"}, "`sphere` is a noise law"),
        ({"base": "adamw(b1=constant_schedule(1))"}, "`b1` must be a number >= 0 and < 1, got <"),
        ({"base": "adamw(b1=0.9, b1=0.8)"}, "an argument is given twice"),
        ({"base": "adamw(b1=0.9"}, "is not an optimizer: write an optimizer with its arguments"),
    ],
)
def test_mistakes_in_the_optimizer_are_named(fields, message):
    with pytest.raises(ConfigError, match=message) as error:
        base_of(**fields)
    assert len(str(error.value)) <= 400


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip": 0.0}, "`--clip` must be a finite number > 0, got 0.0"),
        ({"ema": 1.0}, "`--ema` must be a finite number >= 0 and < 1, got 1.0"),
        ({"momentum": 1.0}, "`--momentum` must be a finite number >= 0 and < 1"),
        ({"lr": float("nan")}, "`--lr` must be a finite number >= 0, got nan"),
        ({"warmup": 10.0}, "`--warmup` must be shorter than the training of 10 epochs, got 10"),
    ],
)
def test_values_out_of_range_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        base_of(**fields)
