"""Base optimizers by name: what optax makes of them, in which order, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsam_jax.train.config import ConfigError, Optimizer
from tsam_jax.train.optimizers import OPTIMIZERS, make_base, schedule
from tsam_jax.train.settings import SettingError

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
    return make_base(Optimizer(**fields), steps=100, steps_per_epoch=10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_optax_moves_the_parameters(name):
    for x, start in zip(
        *map(jax.tree.leaves, (after_two_steps(base_of(base=name)), PARAMS)), strict=True
    ):
        assert jnp.isfinite(x).all()
        assert (x != start).any()


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


def rates(steps, **fields):
    function = schedule(Optimizer(lr=1.0, **fields), steps=100, steps_per_epoch=10)
    return [round(float(function(step)), 4) for step in steps]


def test_schedules():
    assert schedule(Optimizer(lr=0.5), steps=100, steps_per_epoch=10) == 0.5
    drops = rates([0, 29, 30, 59, 60, 79, 80, 99], schedule="step")
    assert drops == [1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008]
    assert rates([0, 25, 50, 100], schedule="cosine") == [1, 0.8536, 0.5, 0]


def test_warmup_rises_to_the_rate_and_the_schedule_follows():
    assert rates([0, 5, 10, 55, 100], schedule="cosine", warmup=1.0) == [0.0909, 0.5455, 1, 0.5, 0]
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
    ],
)
def test_mistakes_in_the_optimizer_are_named(fields, message):
    with pytest.raises(SettingError, match=message):
        base_of(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip": 0.0}, "`--clip` must be a finite number > 0, got 0.0"),
        ({"ema": 1.0}, "`--ema` must be >= 0 and < 1, got 1.0"),
        ({"momentum": 1.0}, "`--momentum` must be >= 0 and < 1"),
        ({"accumulate": 3}, "`--accumulate` must divide `--batch-size`, got 3 and 50"),
        ({"warmup": 10.0}, "`--warmup` must be shorter than the training of 10 epochs, got 10"),
    ],
)
def test_values_out_of_range_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        base_of(**fields)
