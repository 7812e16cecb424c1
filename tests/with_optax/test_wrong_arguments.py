"""Arguments in the wrong place, or of the wrong kind, are refused by name where they are given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowl import assert_same_bits, parameters

from tsam_jax import estimate_gradient, methods, sharpness_aware, tsam, value_and_grad

SAM, SGD = methods.sam(0.1), optax.sgd(0.1)
ADAPTERS = {
    "value_and_grad": functools.partial(value_and_grad, jnp.sum, SAM),
    "estimate_gradient": functools.partial(estimate_gradient, SAM),
    "sharpness_aware": functools.partial(sharpness_aware, SGD, SAM),
    "tsam": functools.partial(tsam, SGD, 5.0, 0.05, 3),
}


def test_base_and_estimator_in_the_wrong_order():
    message = (
        r"`base` must be an optax optimizer, .*got a GradientEstimator.*\(base, estimator\)`, in"
    )
    with pytest.raises(TypeError, match=message):
        sharpness_aware(SAM, SGD)


@pytest.mark.parametrize("base", [0.1, None, optax.sgd, (SGD, SGD), "sgd"])
def test_what_is_no_optimizer(base):
    with pytest.raises(
        TypeError, match=r"`base` must be an optax optimizer, such as .*, got "
    ) as e:
        sharpness_aware(base, SAM)
    assert "in this order" not in str(e.value)
    with pytest.raises(TypeError, match=r"`base` must be an optax optimizer, such as .*, got "):
        tsam(base, 5.0, 0.05, 3)


def test_sugar_without_a_base():
    with pytest.raises(TypeError, match=r"`base` must be an optax optimizer, .*, got 0.1\."):
        tsam(0.1, 5, 0.05, 3)


NO_ESTIMATORS = {
    "an optimizer": (SGD, "a GradientTransformationExtraArgs"),
    "a function": (methods.sam, "<function sam"),
    "None": (None, "None"),
    "a number": (0.05, "0.05"),
}


@pytest.mark.parametrize("kind", NO_ESTIMATORS)
def test_what_is_no_estimator(kind):
    given, described = NO_ESTIMATORS[kind]
    adapters = {
        "estimate_gradient": estimate_gradient,
        "sharpness_aware": functools.partial(sharpness_aware, SGD),
        "value_and_grad": functools.partial(value_and_grad, jnp.sum),
    }
    for name, adapter in adapters.items():
        message = rf"`{name}\(estimator=...\)` must be a `GradientEstimator`.*, got {described}"
        with pytest.raises(TypeError, match=message):
            adapter(given)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(
    ("key", "described"),
    [
        (None, "None"),
        (0.5, "0.5"),
        ("a", "'a'"),
        (True, "True"),
        (jnp.float32(1.0), ".*1"),
        (jax.random.split(jax.random.key(0), 3), r"key<fry> of shape \(3,\).*`jax.vmap`"),
        (jax.random.split(jax.random.PRNGKey(0), 3), r"uint32 of shape \(3, 2\).*`jax.vmap`"),
        (np.arange(3), r"int64 of shape \(3,\).*`jax.vmap`"),
    ],
)
def test_what_is_no_key(name, key, described):
    message = rf"`key` must be an integer seed or a single PRNG key, got {described}"
    with pytest.raises(TypeError, match=message):
        ADAPTERS[name](key=key)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_seed_and_its_keys_are_one_key(name):
    params = parameters()
    desired = ADAPTERS[name](key=7).init(params)
    for key in (np.int64(7), jnp.int32(7), jax.random.key(7), jax.random.PRNGKey(7)):
        assert_same_bits(ADAPTERS[name](key=key).init(params), desired)


@pytest.mark.parametrize("method", ["rsam", "tsam", "tilted_sampling", "tsam_hmc", "from_paper"])
def test_methods_take_no_key(method):
    arguments = {
        "rsam": {"rho": 0.1, "gamma": 0.1},
        "tsam": {"t": 1.0, "rho": 0.1, "s": 2},
        "tilted_sampling": {"t": 1.0, "s": 2},
        "tsam_hmc": {"t": 1.0, "s": 2, "radius": 0.1, "beta": 0.1},
        "from_paper": {"t": 1.0, "s": 2},
    }
    with pytest.raises(TypeError, match="unexpected keyword argument 'key'"):
        methods.METHODS[method](**arguments[method], key=0)
