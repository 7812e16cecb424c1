"""NaN and infinity in losses and gradients: they are seen, and do not stay in the state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_table import TABLE, batch, loss, make, parameters

from tsam_jax import methods, noise, value_and_grad

STRATEGIES = ("vectorized", "unrolled", "streamed")
every_method = pytest.mark.parametrize("name", [n for n, row in TABLE.items() if not row.spelling])


@jax.custom_vjp
def corrupt(x, factor):
    """x, whose gradient is multiplied by `factor`."""
    return x


corrupt.defvjp(
    lambda x, factor: (x, factor), lambda factor, g: (g * factor, jnp.zeros_like(factor))
)


def broken(p, x, of_loss, of_gradient):
    """The loss of the contract times a factor; the gradient of one entry times another."""
    factors = jnp.ones(3).at[0].set(of_gradient)
    return of_loss * loss({**p, "b": corrupt(p["b"], factors)}, x)


def all_finite(tree):
    return all(np.all(np.isfinite(x)) for x in jax.tree.leaves(tree))


def later(state):
    return state._replace(step=state.step + 1)


@every_method
def test_a_bad_step_is_seen_and_leaves_only_its_metrics(name):
    step, params = value_and_grad(broken, make(name)), parameters()
    state, step = step.init(params), jax.jit(step)
    for k in range(3):  # a first step, and one of each kind that methods of period 2 have
        for factors in (jnp.nan, 1.0), (jnp.inf, 1.0), (1.0, jnp.nan), (1.0, jnp.inf):
            (value, grad), after = step(params, state, batch(k), *factors)
            assert not all_finite(grad)
            assert not all_finite(value) or factors[0] == 1
            actual, _ = step(params, after, batch(k + 1), 1.0, 1.0)
            desired, _ = step(params, later(state), batch(k + 1), 1.0, 1.0)
            assert all_finite(actual)
            jax.tree.map(np.testing.assert_array_equal, actual, desired)
        _, state = step(params, state, batch(k), 1.0, 1.0)


@pytest.mark.parametrize("name", ["vasso", "fsam"])
def test_an_average_starts_with_the_first_good_gradient(name):
    step, params = value_and_grad(broken, make(name)), parameters()
    start = step.init(params)
    _, desired = step(params, start, batch(), 1.0, 1.0)
    _, state = step(params, start, batch(), jnp.nan, 1.0)
    _, state = step(params, state, batch(), 1.0, 1.0)
    jax.tree.map(np.testing.assert_array_equal, state.memory, desired.memory)


@pytest.mark.parametrize("name", ["tsam", "tsam_hmc"])
@pytest.mark.parametrize("factors", [(jnp.nan, 1.0), (1.0, jnp.nan)])
def test_the_plain_gradient_is_a_sample_that_may_be_absent(name, factors):
    """Without noise and ascent too, where nothing is sampled."""
    arguments = {"tsam": {"rho": 0.0, "noise": noise.none}, "tsam_hmc": {"radius": 0.0}}[name]
    step, params = value_and_grad(broken, make(name, **arguments)), parameters()
    _, state = step(params, step.init(params), batch(), *factors)
    metrics = state.last.metrics
    assert np.all(np.isnan(metrics["losses"]))
    assert np.all(np.isnan(metrics["weights"]))
    _, state = step(params, step.init(params), batch(), 1.0, 1.0)
    assert all_finite(state.last.metrics)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_gradient_that_is_not_finite_takes_its_sample_away(strategy):
    def fun(p):
        factor = jnp.where(p["b"][0] > parameters()["b"][0], jnp.nan, 1.0)
        return broken(p, batch(), 1.0, factor)

    step = value_and_grad(fun, make("tilted_sampling", s=6, strategy=strategy))
    (value, grad), state = jax.jit(step)(parameters(), step.init(parameters()))
    losses, weights = (np.asarray(state.last.metrics[x]) for x in ("losses", "weights"))
    present = np.isfinite(losses)
    assert 0 < present.sum() < 6
    assert np.all(np.isnan(losses[~present]))
    assert np.all(weights[~present] == 0)
    assert all_finite((value, grad))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_sample_is_absent_if_its_first_evaluation_is_bad(kind, strategy):
    """Also where the ascent leads out of what was bad there: its aux is of the first point."""

    def fun(x):
        near = jnp.abs(x - 1) < 0.1
        if kind == "loss":
            value = x**2 + jnp.where(near, jnp.inf, 0.0)
        else:  # comparisons with NaN are false, so that the end of the ascent looks well
            y = corrupt(x, jnp.where(near, jnp.nan, 1.0))
            value = jnp.where(y > 0, y, 0.0) ** 2
        return value, x

    sides = noise.Design(lambda key, j, s, params: jnp.where(jnp.asarray(j) == 0, 1.0, 2.0))
    estimator = methods.tsam(0.0, 0.5, 2, noise=sides, strategy=strategy)
    x = jnp.float32(0.0)
    step = value_and_grad(fun, estimator, has_aux=True)
    ((value, aux), grad), state = jax.jit(step)(x, step.init(x))
    np.testing.assert_array_equal(state.last.metrics["losses"], [jnp.nan, 6.25])
    np.testing.assert_array_equal(state.last.metrics["weights"], [0, 1])
    assert (value, aux, grad) == (6.25, 2.0, 5.0)


@pytest.mark.parametrize("mask", [None, {"a": True, "b": False}, {"a": False, "b": True}])
@pytest.mark.parametrize("bad", [jnp.inf, -jnp.inf, jnp.nan])
def test_a_first_gradient_that_is_not_finite_takes_its_sample_away_whatever_the_mask(mask, bad):
    """Also where the loss and the gradient at the point above are finite."""

    @jax.custom_vjp
    def fun(p):
        return p["a"] ** 2 + 0 * p["b"]

    def backward(p, g):
        at_the_start = (p["a"] == 1) & (p["b"] == 1)
        return ({"a": g, "b": jnp.where(at_the_start, bad, g)},)

    fun.defvjp(lambda p: (p["a"] ** 2, p), backward)
    params = {"a": jnp.ones(()), "b": jnp.ones(())}
    estimator = methods.tsam(t=1.0, rho=0.1, s=2, noise=alternating, mask=mask, strategy="unrolled")
    step = value_and_grad(fun, estimator)
    (value, grad), state = step(params, step.init(params))
    assert sorted(np.isfinite(state.last.metrics["losses"])) == [False, True]
    assert all_finite((value, grad))


def alternating(key, params):
    """Of the two samples of a step at key 0 one stays where it is."""
    first = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 2)[0]
    here = jnp.all(jax.random.key_data(key) == jax.random.key_data(first))
    return jax.tree.map(lambda p: jnp.where(here, 0.0, 0.5), params)
