"""Identities between methods, for any numbers."""

import functools

import contract_table
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import (
    assert_bitwise,
    assert_close,
    assert_differ,
    evaluate,
    loss,
    parameters,
    points_of,
    run,
)
from test_m_sam import INNER

from tsam_jax import methods, noise, value_and_grad

STRATEGIES = ("unrolled", "vectorized", "streamed")


@functools.cache
def sam():
    """Value and gradient of SAM."""
    return evaluate(methods.sam(0.1))[:2]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("t", [0.0, 3.0, np.inf])
@pytest.mark.parametrize("s", [1, 3])
def test_without_noise_tsam_is_sam(s, t, strategy):
    tsam = methods.tsam(t, 0.1, s, noise=noise.none, strategy=strategy)
    assert tsam.cost == methods.sam(0.1).cost
    value, grad, state = evaluate(tsam)
    assert_bitwise((value, grad), sam())
    metrics = state.last.metrics
    np.testing.assert_allclose(metrics["weights"], np.full(s, 1 / s))
    np.testing.assert_allclose(metrics["losses"], np.full(s, value))
    np.testing.assert_allclose(metrics["effective_sample_size"], s)
    assert metrics["tilt"] == t


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_noise_that_happens_to_be_zero_is_sam(strategy):
    law = noise.sphere(radius=lambda step: 0.0 * step)
    _, grad, state = evaluate(methods.tsam(3.0, 0.1, 3, noise=law, strategy=strategy))
    assert_close(grad, sam()[1], rtol=1e-6)
    np.testing.assert_allclose(state.last.metrics["weights"], 1 / 3, rtol=1e-5)


def test_without_ascent_and_delta_tsam_is_tilted_sampling():
    law = noise.gaussian(rms=0.3)
    plain = methods.tilted_sampling(3.0, 4, noise=law)
    tsam = methods.tsam(3.0, 0.0, 4, noise=law)
    assert plain.cost == tsam.cost
    assert_bitwise(evaluate(tsam, key=5), evaluate(plain, key=5))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_shared_ascent_is_tilted_sampling_around_the_point_of_sam(strategy):
    law, params = noise.gaussian(rms=0.3), parameters()
    g = jax.grad(loss)(params)
    top = jax.tree.map(lambda x, d: x + 0.4 * d / optax.tree.norm(g), params, g)
    shared = methods.shared_tsam(3.0, 0.4, 3, noise=law, strategy=strategy)
    value, grad, state = evaluate(shared, key=5)
    sampling = value_and_grad(loss, methods.tilted_sampling(3.0, 3, noise=law), key=5)
    (expected_value, expected), _ = sampling(top, sampling.init(top))
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert_close(grad, expected, rtol=1e-5)
    assert shared.cost.gradients == 4
    assert state.last.metrics["losses"].shape == (3,)


def test_a_shared_ascent_without_noise_is_sam_and_without_ascent_tilted_sampling():
    _, grad, _ = evaluate(methods.shared_tsam(3.0, 0.1, 3, noise=noise.none))
    assert_close(grad, sam()[1], rtol=1e-6)
    law = noise.gaussian(rms=0.3)
    still = methods.shared_tsam(3.0, 0.0, 4, noise=law)
    sampling = methods.tilted_sampling(3.0, 4, noise=law, aux="clean")
    assert_bitwise(evaluate(still, key=5), evaluate(sampling, key=5))


def probes(law, rho, s=3):
    """Losses and gradients of a first step's samples, computed one by one."""
    params = parameters()
    for key in jax.random.split(jax.random.fold_in(jax.random.key(0), 0), s):
        point = jax.tree.map(jnp.add, params, law(key, params))
        g = jax.grad(loss)(point)
        length = optax.tree.norm(g)
        point = jax.tree.map(lambda x, d: x + rho * d / length, point, g)  # noqa: B023 - used here
        yield jax.value_and_grad(loss)(point)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_fraction_of_one_is_the_uniform_mean(strategy):
    law = noise.gaussian(rms=0.3)
    estimator = methods.tsam(4.0, 0.1, 3, delta=1.0, noise=law, strategy=strategy)
    losses, grads = zip(*probes(law, 0.1), strict=True)
    value, grad, state = evaluate(estimator)
    assert state.last.metrics["tilt"] == 0
    np.testing.assert_allclose(state.last.metrics["weights"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(value, sum(losses) / 3, rtol=1e-6)
    assert_close(grad, jax.tree.map(lambda *g: sum(g) / 3, *grads))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("delta", [0.0, "half"])
def test_infinite_tilt_is_the_worst_sample(delta, strategy):
    law = noise.gaussian(rms=0.3)
    estimator = methods.tsam(jnp.inf, 0.1, 3, delta=delta, noise=law, strategy=strategy)
    worst, grad_of_worst = max(probes(law, 0.1), key=lambda x: x[0])
    value, grad, state = evaluate(estimator)
    np.testing.assert_allclose(value, worst, rtol=1e-6)
    assert_close(grad, grad_of_worst)
    assert sorted(state.last.metrics["weights"].tolist()) == [0.0, 0.0, 1.0]


def test_adding_to_the_loss_does_not_matter_and_scaling_it_does():
    def weighed(estimator, fun=loss):
        value, grad, state = evaluate(estimator, fun=fun)
        return value, grad, state.last.metrics["weights"]

    estimator = methods.tsam(3.0, 0.1, 4, noise=noise.gaussian(rms=0.5))
    value, grad, weights = weighed(estimator)
    shifted_value, shifted, shifted_weights = weighed(estimator, lambda p: loss(p) + 8.0)
    np.testing.assert_allclose(shifted_value, value + 8.0, rtol=1e-6)
    np.testing.assert_allclose(shifted_weights, weights, rtol=1e-4)
    assert_close(shifted, grad, rtol=1e-4)
    rescaled = methods.tsam(3.0 / 8, 0.1, 4, noise=noise.gaussian(rms=0.5))
    _, eightfold, same = weighed(rescaled, lambda p: 8 * loss(p))
    np.testing.assert_allclose(same, weights, rtol=1e-4)
    assert_close(eightfold, jax.tree.map(lambda g: 8 * g, grad), rtol=1e-4)
    assert jnp.abs(weighed(estimator, lambda p: 8 * loss(p))[2] - same).max() > 0.1


def test_from_paper_splits_the_ball_into_noise_and_ascent():
    paper = methods.from_paper(20.0, 3, rho=2.0, alpha=0.9)
    ours = methods.tsam(20.0, 0.2, 3, noise=noise.sphere(radius=1.8), delta="half")
    assert_close(evaluate(paper, key=1), evaluate(ours, key=1), rtol=1e-6)
    offsets = [jax.tree.map(jnp.subtract, point, parameters()) for point in points_of(paper)]
    lengths = [optax.tree.norm(offset) for offset in offsets]
    assert len(lengths) == 6
    np.testing.assert_allclose(lengths[::2], 1.8, rtol=1e-6)  # the noise points
    assert max(lengths) <= 2.0 * (1 + 1e-6)
    assert methods.from_paper(20.0, 3, alpha=1.0).cost.gradients == 3


def test_the_share_and_size_of_from_paper_may_be_traced_or_scheduled():
    def estimate(alpha, rho):
        return evaluate(methods.from_paper(2.0, 2, rho=rho, alpha=alpha), key=1)

    desired = estimate(0.9, 2.0)
    assert_close(jax.jit(estimate)(0.9, 2.0), desired, rtol=1e-5)
    for alpha, rho in (lambda step: 0.9 + step, 2.0), (0.9, lambda step: 2.0 + step):
        assert_close(estimate(alpha, rho), desired, rtol=1e-5)


LAWS = {
    "filter": noise.filter_scaled(0.2),
    "leaf": noise.leaf_scaled(0.2),
    "none": noise.gaussian(rms=0.2),
}


@pytest.mark.parametrize("scaling", LAWS)
@pytest.mark.parametrize("t", [0.0, 5.0])
def test_rsam_is_tsam_with_one_sample(scaling, t):
    rsam = methods.rsam(0.3, gamma=0.2, scaling=scaling)
    tsam = methods.tsam(t, 0.3, 1, noise=LAWS[scaling])
    outputs, state = run(rsam, key=4)
    desired, tsam_state = run(tsam, key=4)
    assert_close(outputs, desired, rtol=1e-6)
    np.testing.assert_allclose(state.last.value, tsam_state.last.value, rtol=1e-6)
    assert_bitwise(state._replace(last=None), tsam_state._replace(last=None))
    assert state.step == 3
    assert rsam.cost == tsam.cost


def test_rsam_without_ascent_is_the_gradient_at_the_noise():
    rsam = methods.rsam(0.0, gamma=0.2)
    sampling = methods.tilted_sampling(0.0, 1, noise=noise.filter_scaled(0.2))
    assert_close(run(rsam, key=4)[0], run(sampling, key=4)[0], rtol=1e-6)
    assert rsam.cost.gradients == 1


# Settings at which each method equals SAM.
SAMS = {
    "pgn": {"rho": 0.2, "alpha": 1.0},
    "wsam": {"rho": 0.2, "gamma": 0.5},
    "gsam": {"rho": 0.2, "alpha": 0.0},
    "asam": {"rho": 0.2, "adapt": False},
    "esam2": {"rhos": (0.2,)},
    "looksam": {"rho": 0.2, "every": 1},
    "vasso": {"rho": 0.2, "theta": 1.0},
    "fsam": {"rho": 0.2, "sigma": 0.0},
    "rsam": {"rho": 0.2, "gamma": 0.0},
    "xsam": {"rho": 0.2, "alpha": 1.0, "search_every": None},
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SAMS)
def test_special_cases_are_sam(name, masked, x64):
    mask = {"w": True, "b": False} if masked else None
    outputs, _ = run(methods.METHODS[name](**SAMS[name], mask=mask))
    desired = sam_of(masked)
    if name == "looksam":  # its value is that of the parameters
        outputs, desired = ([output[1:] for output in o] for o in (outputs, desired))
    assert_close(outputs, desired, rtol=1e-12, atol=1e-13)


@functools.cache
def sam_of(masked):
    """Three steps of SAM in float64."""
    return run(methods.sam(0.2, mask={"w": True, "b": not masked}))[0]


@pytest.mark.parametrize("name", ["vasso", "fsam"])
def test_averages_that_do_not_count_are_bitwise_sam(name):
    assert_bitwise(run(methods.METHODS[name](**SAMS[name]))[0], run(methods.sam(0.2))[0])


def test_several_steps_of_xsam_at_alpha_1_are_those_of_sam():
    xsam = methods.xsam(0.3, steps=3, alpha=1.0, search_every=None)
    assert_close(run(xsam)[0], run(methods.sam(0.3, steps=3))[0])


@pytest.mark.parametrize("name", ["vasso", "fsam"])
def test_the_first_step_is_sam(name):
    (first, second), _ = run(methods.METHODS[name](0.3), 2)
    (desired, other), _ = run(methods.sam(0.3), 2)
    assert_bitwise(first, desired)
    assert_differ(second, other)


def test_wsam_is_pgn(x64):
    assert_close(
        evaluate(methods.wsam(0.2, 0.9))[:2], evaluate(methods.pgn(0.2, 9.0))[:2], rtol=1e-10
    )


def test_asam_of_parameters_of_size_1_is_sam(x64):
    ones = jax.tree.map(jnp.sign, parameters())
    asam = methods.asam(0.2, eta=0.0, adapt=True)
    assert_close(evaluate(asam, ones)[:2], evaluate(methods.sam(0.2), ones)[:2], rtol=1e-12)


def test_gsam_with_adapt_and_without_alpha_is_asam(x64):
    gsam = methods.gsam(0.5, 0.0, adapt={"w": True, "b": False}, eta=0.01)
    assert_close(evaluate(gsam)[:2], evaluate(methods.asam(0.5))[:2], rtol=1e-12)


def test_a_traced_alpha_of_0_is_the_plain_gradient():
    pgn = jax.jit(lambda alpha: evaluate(methods.pgn(0.2, alpha))[1])(0.0)
    assert_close(pgn, jax.grad(loss)(parameters()), rtol=1e-6)


@pytest.mark.parametrize("name", INNER)
def test_m_sam_of_the_whole_batch_is_the_inner_estimator_bitwise(name):
    inner, params, x = INNER[name], contract_table.parameters(), contract_table.batch()
    estimator, results = methods.m_sam(inner, len(x), batch="x"), []
    for e in estimator, inner:
        step = value_and_grad(contract_table.loss, e)
        results.append(jax.jit(step)(params, step.init(params), x))
    assert_bitwise(*results)
    assert estimator.cost == inner.cost
