"""TSAM by Hamiltonian Monte Carlo: the estimator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import _tree, methods, noise, tilting, value_and_grad
from tsam_jax.methods import hmc

STRATEGIES = ("unrolled", "vectorized", "streamed")


def quartic(p):
    return jnp.sum(p["w"] ** 4) + jnp.sum(jnp.sin(p["b"]))


PARAMS = {"w": jnp.array([[0.5, -1.0], [0.7, 1.5]]), "b": jnp.array([0.2, 0.9])}


def estimate(estimator, fun=quartic, params=PARAMS, key=0):
    """Runs one step; returns (value, gradient) and metrics."""
    step = value_and_grad(fun, estimator, key=key)
    outputs, state = jax.jit(step)(params, step.init(params))
    return outputs, state.last.metrics


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_steps_it_is_tilted_sampling_in_the_ball(strategy):
    still = methods.tsam_hmc(4.0, 3, radius=0.5, beta=0.0, delta=0.375, strategy=strategy)
    (value, grad), metrics = estimate(still, key=2)
    law = lambda key, p: noise.ball(radius=0.5)(jax.random.split(key)[0], p)  # noqa: E731
    plain = methods.tilted_sampling(2.5, 3, noise=law, strategy=strategy)
    (desired_value, desired), plain_metrics = estimate(plain, key=2)
    np.testing.assert_allclose(value, desired_value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), grad, desired)
    for name in plain_metrics:
        np.testing.assert_allclose(metrics[name], plain_metrics[name], rtol=1e-5)
    assert metrics["tilt"] == 2.5
    np.testing.assert_array_equal(metrics["acceptance"], np.ones(3))


def replay(key, j, s, *, proposals, mask=None, **options):
    """Sample j of the first step, computed alone with the kernel."""

    def look(e):
        value, grad = jax.value_and_grad(quartic)(_tree.add(PARAMS, e))
        return hmc._Point(e, value, grad, _tree.select(grad, mask))

    key = jax.random.split(jax.random.fold_in(key, 0), s)[j]
    key, *keys = jax.random.split(key, proposals + 1)
    here = look(noise.ball(radius=options["radius"])(key, _tree.select(PARAMS, mask)))
    accepted = 0.0
    for k in keys:
        here, moved = hmc._propose(k, here, look, integrate=hmc._leapfrog, **options)
        accepted += moved
    return here, accepted / proposals


CHAIN = {"radius": 0.8, "beta": 0.05, "sigma": 0.8, "steps": 2, "proposals": 2}
MASKS = {"all": None, "w": {"w": True, "b": False}}


@functools.cache
def replayed(masked):
    """Map from (key, j) to sample j of two, compiled once for all strategies."""
    options = {**CHAIN, "tilt": 1.0, "accept": "metropolis", "mask": MASKS[masked]}
    return jax.jit(lambda key, j: replay(key, j, 2, **options))


@pytest.mark.parametrize(
    ("masked", "strategy"),
    [
        *(("all", strategy) for strategy in STRATEGIES),
        ("w", "streamed"),
        *(pytest.param("w", x, marks=pytest.mark.slow) for x in ("unrolled", "vectorized")),
    ],
)
def test_samples_are_chains_of_the_kernel(strategy, masked):
    options = {**CHAIN, "delta": 1 / 3, "mask": MASKS[masked], "strategy": strategy}
    (_, grad), metrics = estimate(methods.tsam_hmc(3.0, 2, **options), key=7)
    run = replayed(masked)
    points, shares = zip(*(run(jax.random.key(7), j) for j in range(2)), strict=True)
    losses = jnp.stack([point.value for point in points])
    np.testing.assert_allclose(metrics["losses"], losses, rtol=1e-5)
    np.testing.assert_allclose(metrics["acceptance"], jnp.stack(shares), rtol=1e-6)
    assert 0 < metrics["acceptance"].mean() < 1
    weights = tilting.tilt_weights(losses, 3.0 - 1.0)
    np.testing.assert_allclose(metrics["weights"], weights, rtol=1e-4)
    for name in PARAMS:
        desired = sum(w * point.grad[name] for w, point in zip(weights, points, strict=True))
        np.testing.assert_allclose(grad[name], desired, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_chains_of_bfloat16_parameters_are_in_float32(monkeypatch):
    """Otherwise, steps smaller than the parameters' spacing would be lost."""
    seen, propose = [], hmc._propose

    def listening(key, here, look, **options):
        there, accepted = propose(key, here, look, **options)
        seen.extend([here.e, there.e])
        return there, accepted

    monkeypatch.setattr(hmc, "_propose", listening)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    step = value_and_grad(quartic, methods.tsam_hmc(0.0, 1, radius=8.0, beta=0.05))
    (_, grad), _ = jax.eval_shape(lambda p: step(p, step.init(p)), params)
    assert {x.dtype for x in jax.tree.leaves(seen)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(grad)} == {jnp.dtype("bfloat16")}


def test_sigma_is_a_unit_of_momentum():
    """Only beta / sigma matters."""
    a = methods.tsam_hmc(2.0, 3, radius=0.6, beta=0.04, sigma=1.0, steps=2)
    b = methods.tsam_hmc(2.0, 3, radius=0.6, beta=0.16, sigma=4.0, steps=2)
    (_, grad), metrics = estimate(a)
    (_, same), same_metrics = estimate(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), grad, same)
    assert metrics["acceptance"].sum() > 0
    np.testing.assert_array_equal(metrics["acceptance"], same_metrics["acceptance"])


@pytest.mark.parametrize("aux", ["first", "mean", "clean"])
@pytest.mark.parametrize(("steps", "proposals"), [(1, 1), (3, 2)])
def test_cost(steps, proposals, aux):
    cost = methods.tsam_hmc(
        1.0, 5, radius=0.1, beta=0.1, steps=steps, proposals=proposals, aux=aux
    ).cost
    assert cost == (5 * (steps * proposals + 1), aux == "clean")


make = functools.partial(methods.tsam_hmc, 1.0, 3, radius=0.5, beta=0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"radius": -1.0}, ValueError, r"`tsam_hmc\(radius=...\)` must be a finite .*got -1.0"),
        ({"beta": np.inf}, ValueError, r"`tsam_hmc\(beta=...\)` must be a finite .*got inf"),
        ({"sigma": 0}, ValueError, r"`tsam_hmc\(sigma=...\)` must be a finite number > 0, got 0"),
        ({"delta": 1.5}, ValueError, r"`tsam_hmc\(delta=...\)` must .* between 0 and 1, got 1.5"),
        ({"delta": "full"}, TypeError, r"`tsam_hmc\(delta=...\)` must be a number.*got 'full'"),
        ({"steps": 0}, ValueError, r"`tsam_hmc\(steps=...\)` must be a positive integer, got 0"),
        ({"proposals": 1.0}, TypeError, r"`tsam_hmc\(proposals=...\)` must be an integer.*got 1.0"),
        ({"integrator": "rk4"}, ValueError, r"must be one of 'leapfrog', 'euler', got 'rk4'"),
        ({"accept": True}, ValueError, r"must be one of 'metropolis', 'inside', got True"),
        ({"strategy": "vmap"}, ValueError, r"`tsam_hmc\(strategy=...\)` must be one of"),
        ({"aux": "last"}, ValueError, r"`tsam_hmc\(aux=...\)` must be one of"),
    ],
)
def test_messages(change, error, message):
    with pytest.raises(error, match=message):
        make(**change)


def test_messages_on_the_tilt():
    with pytest.raises(
        ValueError, match=r"`tsam_hmc\(t=...\)` must be a finite number >= 0, got inf"
    ):
        methods.tsam_hmc(np.inf, 3, radius=0.5, beta=0.1)
    worst = methods.tsam_hmc(np.inf, 3, radius=0.5, beta=0.1, delta=0)
    assert worst.cost.gradients == 6
    (value, _), metrics = estimate(worst)
    assert value == metrics["losses"].max()
    assert sorted(metrics["weights"].tolist()) == [0.0, 0.0, 1.0]
    with pytest.raises(TypeError, match=r"`tsam_hmc\(t=...\)` must be a number or a schedule"):
        methods.tsam_hmc(tilting.AutoTilt(0.5), 3, radius=0.5, beta=0.1)
