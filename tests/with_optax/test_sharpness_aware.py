"""`sharpness_aware`: the chain, and the estimator's own objective for the base."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowl import (
    BATCH,
    START,
    assert_same_bits,
    climbed,
    flat,
    gradient,
    loss,
    make_step,
    one_update,
    parameters,
    sam_gradient,
    value,
)

from tsam_jax import estimate_gradient, methods, noise, sharpness_aware, tsam

GAUSSIAN = noise.gaussian(rms=0.3)
SAMPLED = methods.tsam(2.0, 0.3, 2, noise=GAUSSIAN, strategy="unrolled")


def listener():
    """A base that does nothing, and the arguments that it got."""
    heard = {}

    def update(updates, state, params=None, **extra_args):
        heard.update(extra_args, updates=updates, params=params)
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: (), update), heard


def test_it_is_the_chain_and_their_states_are_interchangeable():
    """For a base that asks for nothing, it is the same program, of the same states."""
    base = optax.adamw(0.1)
    forms = {
        "around": sharpness_aware(base, SAMPLED, key=3),
        "chained": optax.chain(estimate_gradient(SAMPLED, key=3), base),
        "sugar": tsam(base, 2.0, 0.3, 2, noise=GAUSSIAN, strategy="unrolled", key=3),
    }
    params = parameters()
    states = {name: optimizer.init(params) for name, optimizer in forms.items()}
    programs = {
        name: str(jax.make_jaxpr(make_step(optimizer))(params, states["chained"], BATCH))
        for name, optimizer in forms.items()
    }
    for name in ("around", "sugar"):
        assert_same_bits(states[name], states["chained"])
        assert programs[name] == programs["chained"]
    other = make_step(
        tsam(base, 2.0, 0.3, 2, noise=noise.gaussian(rms=0.4), strategy="unrolled", key=3)
    )
    assert str(jax.make_jaxpr(other)(params, states["chained"], BATCH)) != programs["chained"]


@pytest.mark.parametrize("form", ["alone", "chained", "around"])
def test_incoming_updates_are_discarded(form):
    base = optax.adamw(0.1)
    optimizer = {
        "alone": estimate_gradient(SAMPLED),
        "chained": optax.chain(estimate_gradient(SAMPLED), base),
        "around": sharpness_aware(base, SAMPLED),
    }[form]
    params = parameters()
    state = optimizer.init(params)
    update = jax.jit(
        lambda updates: optimizer.update(
            updates, state, params, value_fn=loss, batch=jnp.asarray(BATCH, jnp.float32)
        )
    )
    desired = update(None)
    assert jax.tree.structure(desired[0]) == jax.tree.structure(params)
    for incoming in (params, jax.tree.map(lambda x: jnp.nan * x, params), ()):
        assert_same_bits(update(incoming), desired)


def test_the_base_gets_the_objective_of_the_estimator():
    base, heard = listener()
    updates, state = one_update(
        sharpness_aware(base, methods.sam(0.3)), compiled=False, surprise="yes"
    )
    assert set(heard) == {"updates", "params", "value", "grad", "value_fn", "surprise"}
    end = climbed(START, BATCH, 0.3)
    np.testing.assert_allclose(heard["value"], value(end, BATCH), rtol=1e-6)
    np.testing.assert_allclose(flat(heard["grad"]), gradient(end, BATCH), rtol=1e-5)
    assert_same_bits((heard["grad"], heard["value"]), (updates, state[0].last.value))
    point = np.array([1.0, 0.7, -1.0])
    end = climbed(point, BATCH, 0.3)
    there = jax.jit(heard["value_fn"])(parameters(point=point))
    np.testing.assert_allclose(there, value(end, BATCH), rtol=1e-6)
    assert value(end, BATCH) > value(point, BATCH) + 0.1  # it is not the plain loss


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd], ids=lambda f: f.__name__)
def test_the_derivative_of_the_objective_is_the_estimate(transform):
    """Backwards and forwards: not the derivative through the ascent, which is another."""
    base, heard = listener()
    one_update(sharpness_aware(base, methods.sam(0.3)), compiled=False)
    point = np.array([1.0, 0.7, -1.0])
    grad = jax.jit(transform(heard["value_fn"]))(parameters(point=point))
    desired = sam_gradient(point, BATCH, 0.3)
    np.testing.assert_allclose(flat(grad), desired, rtol=1e-5)
    objective = lambda p: value(climbed(p, BATCH, 0.3), BATCH)  # noqa: E731
    through = [(objective(point + h) - objective(point - h)) / 2e-6 for h in 1e-6 * np.eye(3)]
    assert np.abs(through - desired).max() > 0.1


def test_the_objective_keeps_the_noise_of_the_step():
    base, heard = listener()
    estimator = methods.tsam(2.0, 0.3, 1, noise=GAUSSIAN)
    optimizer = sharpness_aware(base, estimator)
    params = parameters()
    state, values = optimizer.init(params), []
    for _ in range(2):
        _, state = optimizer.update(None, state, params, value_fn=loss, batch=BATCH)
        again, grad = jax.jit(jax.value_and_grad(heard["value_fn"]))(params)
        np.testing.assert_allclose((again, state[0].last.value), heard["value"], rtol=1e-6)
        np.testing.assert_allclose(heard["value_fn"](params), again, rtol=1e-6)
        np.testing.assert_allclose(flat(grad), flat(heard["grad"]), rtol=1e-5)
        values.append(float(again))
    assert abs(values[0] - values[1]) > 1e-3  # the next step draws other noise


def test_the_objective_has_the_extra_arguments_bound():
    base, heard = listener()
    estimator = methods.m_sam(methods.sam(0.3), 2)
    params, batch = parameters(), jnp.asarray(BATCH, jnp.float32)
    optimizer = sharpness_aware(base, estimator)
    optimizer.update(None, optimizer.init(params), params, value_fn=loss, batch=batch)
    assert heard["batch"] is batch  # the base gets all extra arguments
    ends = [value(climbed(START, part, 0.3), part) for part in (BATCH[:2], BATCH[2:])]
    np.testing.assert_allclose(heard["value_fn"](params), np.mean(ends), rtol=1e-6)


def test_the_objective_costs_nothing_unless_it_is_used():
    calls = []

    def counted(params, batch):
        jax.debug.callback(lambda: calls.append(1))
        return loss(params, batch)

    def count(base):
        step, params = make_step(sharpness_aware(base, methods.sam(0.3)), counted), parameters()
        state = sharpness_aware(base, methods.sam(0.3)).init(params)
        calls.clear()
        jax.block_until_ready(step(params, state, BATCH))
        jax.effects_barrier()
        return len(calls)

    def update(updates, state, params, *, value_fn, **extra_args):
        return jax.grad(value_fn)(params), state

    again = optax.GradientTransformationExtraArgs(lambda params: (), update)
    assert (count(optax.sgd(0.1)), count(optax.polyak_sgd()), count(again)) == (2, 2, 4)


def test_a_complex_parameter():
    """L = |z - c|^2 / 2 with gradient conj(z - c), as jax has it; the ascent goes along it."""
    base, heard = listener()
    z, centre = jnp.array([1.0 + 2.0j]), jnp.array([0.0 + 1.0j])
    alone = estimate_gradient(methods.erm())
    value_fn = lambda z: jnp.sum(jnp.abs(z - centre) ** 2) / 2  # noqa: E731
    optimizer = sharpness_aware(base, methods.erm())
    grad, _ = optimizer.update(None, optimizer.init(z), z, value_fn=value_fn)
    np.testing.assert_allclose(grad, [1.0 - 1.0j], rtol=1e-6)
    grad, _ = alone.update(None, alone.init(z), z, value_fn=value_fn)
    np.testing.assert_allclose(grad, [1.0 - 1.0j], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(heard["value_fn"])(z), [1.0 - 1.0j], rtol=1e-6)


def test_the_arguments_are_checked_as_in_the_chain():
    optimizer, params = sharpness_aware(optax.sgd(0.1), SAMPLED), parameters()
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"`update\(params=...\)` must be the parameters, got"):
        optimizer.update(None, state, value_fn=lambda p: loss(p, BATCH))
    with pytest.raises(TypeError, match=r"`update\(value_fn=...\)` must be a function.*got None"):
        optimizer.update(None, state, params)
