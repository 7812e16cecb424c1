"""Extra arguments of `update`: to the loss those that its signature names, to the base all."""

import functools
import inspect
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowl import BATCH, START, climbed, flat, loss, parameters, sam_gradient, value

from tsam_jax import estimate_gradient, methods, noise, sharpness_aware, tsam

RHO = 0.3
SAM = methods.sam(RHO)
ADAPTERS = {
    "chained": lambda base: optax.chain(estimate_gradient(SAM), base),
    "around": lambda base: sharpness_aware(base, SAM),
    "sugar": lambda base: tsam(base, 2.0, RHO, 2, noise=noise.none),
}
adapters = pytest.mark.parametrize("name", ADAPTERS)


def product(p, batch, scale=2.0):
    return p * batch * scale


def keyword_only(p, *, batch, scale=2.0):
    return p * batch * scale


def positional_only(p, batch, scale=2.0, /):
    return p * batch * scale


def default_before(p, scale=2.0, batch=1.0, /):
    return p * batch * scale


def with_rest(p, batch, **rest):
    assert set(rest) <= {"scale", "other"}
    return p * batch * rest.get("scale", 2.0)


def with_rest_after_positional_only(p, batch, /, **rest):
    assert set(rest) <= {"scale", "other"}
    return p * batch * rest.get("scale", 2.0)


def with_parts(p, *parts, batch, scale=2.0):
    assert not parts
    return p * batch * scale


class Model:
    def method(self, p, batch, scale=2.0):
        return p * batch * scale

    __call__ = method


FUNCTIONS = {
    "plain": product,
    "keyword_only": keyword_only,
    "positional_only": positional_only,
    "default_before": default_before,
    "with_rest": with_rest,
    "with_rest_after_positional_only": with_rest_after_positional_only,
    "with_parts": with_parts,
    "method": Model().method,
    "callable": Model(),
    "jitted": jax.jit(product),
    "jitted_keyword_only": jax.jit(keyword_only),
    "partial": functools.partial(product, scale=2.0),
    "partial_of_the_first": functools.partial(lambda a, p, batch, scale=2.0: p * batch * scale, 1),
    "jitted_partial": jax.jit(functools.partial(product, scale=2.0)),
    "partial_of_jitted": functools.partial(jax.jit(product), scale=2.0),
}


def value_of(value_fn, **extra_args):
    """The loss of the step, at p = 1; and from there, by a base that steps to p = 2 and looks."""

    def look(updates, state, params, *, value_fn, **extra_args):
        return value_fn(2 * params), state

    looking = optax.GradientTransformationExtraArgs(lambda params: (), look)
    optimizer, p = sharpness_aware(looking, methods.erm()), jnp.float32(1.0)
    twice, state = optimizer.update(None, optimizer.init(p), p, value_fn=value_fn, **extra_args)
    first = estimate_gradient(methods.erm())
    grad, state = first.update(None, first.init(p), p, value_fn=value_fn, **extra_args)
    assert grad == state.last.value == twice / 2  # the losses here are linear
    return float(state.last.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_the_loss_names_is_passed_to_it(name):
    value_fn = FUNCTIONS[name]
    assert value_of(value_fn, batch=3.0) == 6.0
    assert value_of(value_fn, batch=3.0, scale=5.0) == 15.0
    assert value_of(value_fn, batch=3.0, other=object()) == 6.0


@pytest.mark.parametrize("function", [lambda p: 2 * p, lambda *parts: 2 * parts[0], jnp.sin])
def test_a_loss_of_the_parameters_alone_gets_nothing_else(function):
    optimizer, p = estimate_gradient(methods.erm()), jnp.float32(0.5)
    update = functools.partial(optimizer.update, None, optimizer.init(p), p, value_fn=function)
    _, state = update(batch=3.0, parts=4.0)
    assert state.last.value == function(p)


def test_a_function_without_signature_gets_the_parameters_only():
    total = operator.methodcaller("sum")
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(total)
    optimizer, p = estimate_gradient(methods.erm()), jnp.ones(3)
    _, state = optimizer.update(None, optimizer.init(p), p, value_fn=total, batch=3.0)
    assert state.last.value == 3.0


def test_key_step_and_memory_are_the_users_own():
    """The names of what estimators get from the adapters, and of what bases do."""
    seen = []

    def value_fn(p, key, step, memory, loss, estimator, value, grad):
        seen.append((key, step, memory, loss, estimator, value, grad))
        return jnp.sum(p**2)

    given = {name: object() for name in inspect.signature(value_fn).parameters if name != "p"}
    estimator = methods.tsam(2.0, RHO, 2, noise=noise.gaussian(rms=0.1), strategy="unrolled")
    optimizer, p = sharpness_aware(optax.sgd(0.1), estimator), jnp.ones(3)
    _, state = optimizer.update(None, optimizer.init(p), p, value_fn=value_fn, **given)
    assert seen == [tuple(given.values())] * 4
    plain = sharpness_aware(optax.sgd(0.1), estimator)
    _, desired = plain.update(None, plain.init(p), p, value_fn=lambda p: jnp.sum(p**2))
    np.testing.assert_array_equal(state[0].last.value, desired[0].last.value)


@adapters
def test_a_batch_by_name_is_traced_and_compiled_once(name):
    optimizer, traces = ADAPTERS[name](optax.sgd(0.1)), []

    @jax.jit
    def step(params, state, batch):
        traces.append(1)
        updates, state = optimizer.update(None, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    params, x = parameters(), START
    state = optimizer.init(params)
    for batch in (BATCH, 2 * BATCH, BATCH[::-1] - 1):
        params, state = step(params, state, jnp.asarray(batch, jnp.float32))
        np.testing.assert_allclose(
            state[0].last.value, value(climbed(x, batch, RHO), batch), rtol=1e-5
        )
        x = x - 0.1 * sam_gradient(x, batch, RHO)
        np.testing.assert_allclose(flat(params), x, rtol=2e-5)
    assert len(traces) == 1


@adapters
def test_a_missing_argument_is_a_clear_error(name):
    optimizer, params = ADAPTERS[name](optax.sgd(0.1)), parameters()
    state = optimizer.init(params)
    message = r"`value_fn` needs `batch`, but `update` was called without it.*value_fn=loss, batch="
    for value_fn in (loss, keyword_only, positional_only, with_rest):
        with pytest.raises(TypeError, match=message):
            optimizer.update(None, state, params, value_fn=value_fn, scale=1.0)


@adapters
def test_all_extra_arguments_reach_the_base(name):
    """Those that the loss takes, and others; and what comes behind it in a chain gets them too."""
    bases = []

    def listener():
        heard = {}
        bases.append(heard)

        def update(updates, state, params=None, **extra_args):
            heard.update(extra_args)
            return updates, state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    optimizer = optax.chain(ADAPTERS[name](listener()), listener())
    given, params = {"batch": jnp.asarray(BATCH), "surprise": object()}, parameters()
    optimizer.update(None, optimizer.init(params), params, value_fn=loss, **given)
    inside, behind = bases
    for heard in bases:
        assert {key: heard[key] for key in given} == given
    assert set(behind) == {*given, "value_fn"}
    assert behind["value_fn"] is loss
    added = set() if name == "chained" else {"value", "grad"}
    assert set(inside) == {*given, "value_fn", *added}


@pytest.mark.parametrize("name", ["around", "sugar"])
def test_a_value_and_a_gradient_of_the_caller_reach_the_base(name):
    heard = {}

    def update(updates, state, params=None, **extra_args):
        heard.update(extra_args)
        return updates, state

    base = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer, params = ADAPTERS[name](base), parameters()
    given = {"value": object(), "grad": object()}
    updates, _ = optimizer.update(
        None, optimizer.init(params), params, value_fn=loss, batch=BATCH, **given
    )
    assert {key: heard[key] for key in given} == given
    np.testing.assert_allclose(flat(updates), sam_gradient(START, BATCH, RHO), rtol=2e-5)


def test_the_objective_is_that_of_this_step_whatever_else_it_gets():
    """Its signature names all extra arguments, by which line searches find what they pass to it."""
    heard = {}

    def update(updates, state, params=None, **extra_args):
        heard.update(extra_args)
        return updates, state

    base = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer, params = sharpness_aware(base, SAM), parameters()
    state = optimizer.init(params)
    optimizer.update(None, state, params, value_fn=loss, batch=BATCH, surprise=1.0)
    objective = heard["value_fn"]
    assert list(inspect.signature(objective).parameters)[1:] == ["batch", "surprise"]
    for given in ({}, {"batch": BATCH, "surprise": 2.0}):
        there, grad = jax.value_and_grad(objective)(params, **given)
        np.testing.assert_allclose(there, value(climbed(START, BATCH, RHO), BATCH), rtol=1e-6)
        np.testing.assert_allclose(flat(grad), sam_gradient(START, BATCH, RHO), rtol=1e-5)


@pytest.mark.parametrize(
    "search", [optax.scale_by_backtracking_linesearch, optax.scale_by_zoom_linesearch]
)
def test_a_line_search_takes_named_closed_and_other_arguments(search):
    base = optax.chain(optax.sgd(1.0), search(10))
    optimizer, params = sharpness_aware(base, SAM), parameters()
    state, batch = optimizer.init(params), jnp.asarray(BATCH, jnp.float32)
    update = jax.jit(functools.partial(optimizer.update, value_fn=loss))
    named, _ = update(None, state, params, batch=batch)
    closed, _ = jax.jit(
        lambda state: optimizer.update(None, state, params, value_fn=lambda p: loss(p, batch))
    )(state)
    np.testing.assert_allclose(flat(named), flat(closed), rtol=1e-6)
    other, _ = update(None, state, params, batch=batch, surprise=1.0)
    np.testing.assert_array_equal(flat(named), flat(other))
