"""Optimizers that ask for `value` and `value_fn`: on the estimator's objective, they work."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowl import (
    BATCH,
    START,
    climbed,
    flat,
    loss,
    make_step,
    one_update,
    parameters,
    sam_gradient,
    value,
)

from tsam_jax import estimate_gradient, methods, noise, sharpness_aware, value_and_grad

RHO = 0.3
SAM = methods.sam(RHO)


def objective(point):
    return value(climbed(point, BATCH, RHO), BATCH)


def test_polyak_steps_are_the_objective_over_the_squared_gradient():
    updates, _ = one_update(sharpness_aware(optax.polyak_sgd(max_learning_rate=10.0), SAM))
    grad = sam_gradient(START, BATCH, RHO)
    np.testing.assert_allclose(flat(updates), -objective(START) / (grad @ grad) * grad, rtol=1e-5)
    assert value(START, BATCH) < 0.9 * objective(START)  # with the plain loss it would be shorter


@pytest.mark.parametrize("store_grad", [False, True])
def test_backtracking_takes_the_first_step_that_lowers_the_objective(store_grad):
    search = optax.scale_by_backtracking_linesearch(20, slope_rtol=0.3, store_grad=store_grad)
    optimizer = sharpness_aware(optax.chain(optax.sgd(1.0), search), SAM)
    updates, state = one_update(optimizer)
    grad, length = sam_gradient(START, BATCH, RHO), 1.0
    while objective(START - length * grad) > objective(START) - 0.3 * length * grad @ grad:
        length *= 0.8
    assert length < 0.5
    np.testing.assert_allclose(flat(updates), -length * grad, rtol=1e-5)
    end = START - length * grad
    np.testing.assert_allclose(state[1][1].value, objective(end), rtol=1e-5)
    if store_grad:  # the search differentiates forwards, and transposes
        found = flat(state[1][1].grad)
        np.testing.assert_allclose(found, sam_gradient(end, BATCH, RHO), rtol=1e-4)


SEARCHES = {
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
    "zoom": optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(5)),
    "lbfgs": optax.lbfgs(),
    "wrapped": optax.apply_if_finite(optax.named_chain(("inner", optax.lbfgs())), 5),
}


@pytest.mark.parametrize("given", ["value", "grad"])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_value_of_the_caller_is_refused_beside_a_search(name, given):
    """The search would compare it with the objective, and take any step, or none."""
    optimizer, params = sharpness_aware(SEARCHES[name], SAM), parameters()
    theirs = {"value": jnp.float32(0.0), "grad": parameters()}[given]
    update = lambda state, **extra_args: optimizer.update(  # noqa: E731
        None, state, params, value_fn=loss, batch=BATCH, **extra_args
    )
    state = optimizer.init(params)
    with pytest.raises(
        ValueError, match=rf"`update\({given}=...\)` cannot.*line search.*Remove it"
    ):
        jax.eval_shape(update, state, **{given: theirs})
    updates, _ = jax.eval_shape(update, state)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_on_the_plain_loss_the_search_would_stop_at_its_minimum():
    """L = 2 x^2 left of 0 and x^2 / 2 right of it, with noise of -1/2 and 1/2.

    The objective is ((x + 1/2)^2 / 2 + 2 (x - 1/2)^2) / 2, with the derivative -3/4 at 0.
    """
    value_fn = lambda x: jnp.where(x < 0, 2.0, 0.5) * x**2  # noqa: E731
    to_and_fro = noise.antithetic(lambda key, x: jnp.full_like(x, 0.5))
    estimator = methods.tilted_sampling(0.0, 2, noise=to_and_fro)
    search = optax.scale_by_backtracking_linesearch(30, slope_rtol=0.1)
    base = optax.chain(optax.sgd(1.0), search)
    x = jnp.float32(0.0)

    def update(optimizer, **extra_args):
        call = lambda x, state: optimizer.update(None, state, x, value_fn=value_fn, **extra_args)  # noqa: E731
        return jax.jit(call)(x, optimizer.init(x))[0]

    told_by_hand = {"value": value_fn(x), "grad": jnp.float32(0.0)}
    on_the_plain_loss = update(optax.chain(estimate_gradient(estimator), base), **told_by_hand)
    assert abs(on_the_plain_loss) < 1e-3
    # 1 and 0.8 lead too far beyond the minimum, at 0.3, to be lower; 0.8^2 does not
    np.testing.assert_allclose(update(sharpness_aware(base, estimator)), 0.64 * 0.75, rtol=1e-5)


def test_zoom_finds_a_step_that_satisfies_wolfe_on_the_objective():
    search = optax.scale_by_zoom_linesearch(15, slope_rtol=0.1, curv_rtol=0.2)
    optimizer = sharpness_aware(optax.chain(optax.sgd(1.0), search), SAM)
    params = parameters()
    after, _ = make_step(optimizer)(params, optimizer.init(params), BATCH)
    move = flat(after) - START
    slope = sam_gradient(START, BATCH, RHO) @ move
    assert slope < 0
    assert objective(flat(after)) <= objective(START) + 0.1 * slope
    assert abs(sam_gradient(flat(after), BATCH, RHO) @ move) <= 0.2 * abs(slope)


def test_lbfgs_finds_the_minimum_that_sgd_is_far_from():
    def train(base):
        optimizer = sharpness_aware(base, SAM)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(None, state, params, value_fn=loss, batch=BATCH)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=12))
        (params, _), _ = run((parameters(), optimizer.init(parameters())))
        return np.linalg.norm(flat(params) - BATCH.mean(axis=0))

    assert train(optax.lbfgs()) < 0.05
    assert train(optax.sgd(0.1)) > 0.2


def test_a_search_under_noise_compares_points_under_the_same_noise():
    """Its accepted step lowers the sampled objective, computed anew from the state before it."""
    estimator = methods.tsam(2.0, RHO, 1, noise=noise.gaussian(rms=0.5))
    search = optax.scale_by_backtracking_linesearch(20, slope_rtol=0.3)
    optimizer = sharpness_aware(optax.chain(optax.sgd(1.0), search), estimator, key=4)
    step, params = make_step(optimizer), parameters()
    anew = jax.jit(value_and_grad(lambda p: loss(p, BATCH), estimator))
    state, values = optimizer.init(params), []
    for _ in range(2):
        after, new_state = step(params, state, BATCH)
        (value_before, grad), _ = anew(params, state[0])
        (value_after, _), _ = anew(after, state[0])
        (other_noise, _), _ = anew(after, new_state[0])
        squares = float(optax.tree.norm(grad, squared=True))
        length = float(new_state[1][1].learning_rate)
        assert value_after <= value_before - 0.3 * length * squares + 1e-5
        np.testing.assert_allclose(value_after, new_state[1][1].value, rtol=1e-5)
        values.append(abs(float(value_after - other_noise)))
        params, state = after, new_state
    assert min(values) > 1e-3
