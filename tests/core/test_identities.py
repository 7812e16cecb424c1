"""What must hold between the methods, whatever the numbers are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsam_jax import Oracle, make_oracle, methods, noise, tilting, value_and_grad

X = jnp.array([[0.3, -1.1], [0.7, 0.2]])
PARAMS = {"w": X, "b": jnp.array([0.1, -0.2])}
STRATEGIES = ("unrolled", "vectorized", "streamed")

pytestmark = pytest.mark.usefixtures("fast_compile")


def loss(p):
    return jnp.sum(jnp.tanh(X @ p["w"] + p["b"]) ** 2) + 0.1 * jnp.sum(p["w"] ** 4)


def evaluate(estimator, params=PARAMS, fun=loss):
    (value, grad), state = jax.jit(value_and_grad(fun, estimator))(params, estimator.init(params))
    return value, grad, state


def assert_close(a, b, rtol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("t", [0.0, 3.0, np.inf])
@pytest.mark.parametrize("s", [1, 3])
def test_without_noise_tsam_is_sam(s, t, strategy):
    tsam = methods.tsam(t, 0.1, s, noise=noise.none, strategy=strategy)
    assert tsam.cost == methods.sam(0.1).cost
    value, grad, state = evaluate(tsam)
    sam_value, sam_grad, _ = evaluate(methods.sam(0.1))
    assert_bitwise(grad, sam_grad)
    assert value == sam_value
    np.testing.assert_allclose(state.weights, 1 / s)
    assert state.losses.shape == (s,)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_noise_that_happens_to_be_zero_is_sam(strategy):
    law = noise.sphere(radius=lambda step: 0.0 * step)
    _, grad, state = evaluate(methods.tsam(3.0, 0.1, 3, noise=law, strategy=strategy))
    assert_close(grad, evaluate(methods.sam(0.1))[1], rtol=1e-6)
    np.testing.assert_allclose(state.weights, 1 / 3, rtol=1e-5)


def test_without_ascent_and_delta_tsam_is_tilted_sampling():
    law = noise.gaussian(rms=0.3)
    plain = methods.tilted_sampling(3.0, 4, noise=law, key=5)
    tsam = methods.tsam(3.0, 0.0, 4, noise=law, key=5)
    assert plain.cost == tsam.cost
    assert_bitwise(evaluate(tsam)[:2], evaluate(plain)[:2])


def probes(state, law, rho):
    """Losses and gradients of the samples of the step that starts at `state`, one by one."""
    s = state.losses.size
    for key in jax.random.split(jax.random.fold_in(state.key, state.step), s):
        point = jax.tree.map(jnp.add, PARAMS, law(key, PARAMS))
        g = jax.grad(loss)(point)
        length = optax.tree.norm(g)
        point = jax.tree.map(lambda x, d: x + rho * d / length, point, g)  # noqa: B023 - used here
        yield jax.value_and_grad(loss)(point)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_t_less_delta_of_zero_is_the_uniform_mean(strategy):
    law = noise.gaussian(rms=0.3)
    estimator = methods.tsam(4.0, 0.1, 3, delta=4.0, noise=law, strategy=strategy)
    losses, grads = zip(*probes(estimator.init(PARAMS), law, 0.1), strict=True)
    value, grad, state = evaluate(estimator)
    np.testing.assert_allclose(state.weights, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(value, sum(losses) / 3, rtol=1e-6)
    assert_close(grad, jax.tree.map(lambda *g: sum(g) / 3, *grads))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("delta", [0.0, "half"])
def test_infinite_tilt_is_the_worst_sample(delta, strategy):
    law = noise.gaussian(rms=0.3)
    estimator = methods.tsam(jnp.inf, 0.1, 3, delta=delta, noise=law, strategy=strategy)
    worst, grad_of_worst = max(probes(estimator.init(PARAMS), law, 0.1), key=lambda x: x[0])
    value, grad, state = evaluate(estimator)
    np.testing.assert_allclose(value, worst, rtol=1e-6)
    assert_close(grad, grad_of_worst)
    assert sorted(state.weights.tolist()) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradient_of_the_tilted_loss_over_all_samples(strategy):
    """Lemma 3.2: for fixed perturbations the estimate is the gradient of the tilted loss."""
    law = noise.gaussian(rms=0.3)
    estimator = methods.tilted_sampling(2.0, 4, noise=law, strategy=strategy)
    state = estimator.init(PARAMS)

    def tilted(params):
        keys = jax.random.split(jax.random.fold_in(state.key, 0), 4)
        points = [jax.tree.map(jnp.add, params, law(key, params)) for key in keys]
        return tilting.tilted_loss(jnp.stack([loss(p) for p in points]), 2.0)

    value, grad, _ = evaluate(estimator)
    np.testing.assert_allclose(value, tilted(PARAMS), rtol=1e-6)
    assert_close(grad, jax.grad(tilted)(PARAMS))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_the_samples_does_not_matter(strategy):
    table = jax.random.normal(jax.random.key(2), (4, 2, 2))
    order = jnp.array([2, 0, 3, 1])

    def estimate(table):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 4)

        def law(key, params):
            match = jnp.all(jax.random.key_data(keys) == jax.random.key_data(key), axis=1)
            return {"w": table[jnp.argmax(match)], "b": jnp.zeros(2)}

        return evaluate(methods.tsam(3.0, 0.1, 4, noise=law, strategy=strategy, key=0))

    value, grad, state = estimate(table)
    permuted_value, permuted_grad, permuted = estimate(table[order])
    np.testing.assert_allclose(permuted.weights, state.weights[order], rtol=1e-5)
    assert_close((permuted_value, permuted_grad), (value, grad))


def test_adding_to_the_loss_does_not_matter_and_scaling_it_does():
    estimator = methods.tsam(3.0, 0.1, 4, noise=noise.gaussian(rms=0.5))
    value, grad, state = evaluate(estimator)
    shifted_value, shifted, shifted_state = evaluate(estimator, fun=lambda p: loss(p) + 8.0)
    np.testing.assert_allclose(shifted_value, value + 8.0, rtol=1e-6)
    np.testing.assert_allclose(shifted_state.weights, state.weights, rtol=1e-4)
    assert_close(shifted, grad, rtol=1e-4)
    rescaled = methods.tsam(3.0 / 8, 0.1, 4, noise=noise.gaussian(rms=0.5))
    _, eightfold, same = evaluate(rescaled, fun=lambda p: 8 * loss(p))
    np.testing.assert_allclose(same.weights, state.weights, rtol=1e-4)
    assert_close(eightfold, jax.tree.map(lambda g: 8 * g, grad), rtol=1e-4)
    assert (
        jnp.abs(evaluate(estimator, fun=lambda p: 8 * loss(p))[2].weights - same.weights).max()
        > 0.1
    )


def test_from_paper_splits_the_ball_into_noise_and_ascent():
    paper = methods.from_paper(20.0, 3, rho=2.0, alpha=0.9, key=1)
    ours = methods.tsam(20.0, 0.2, 3, noise=noise.sphere(radius=1.8), delta="half", key=1)
    assert_close(evaluate(paper)[:2], evaluate(ours)[:2], rtol=1e-6)
    lengths, oracle = [], make_oracle(loss)

    def evaluate_and_measure(point):
        lengths.append(optax.tree.norm(jax.tree.map(jnp.subtract, point, PARAMS)))
        return oracle.evaluate(point)

    paper.estimate(Oracle(evaluate_and_measure, oracle.value), PARAMS, paper.init(PARAMS))
    np.testing.assert_allclose(lengths[::2], 1.8, rtol=1e-6)  # the noise points
    assert max(lengths) <= 2.0 * (1 + 1e-6)
    assert methods.from_paper(20.0, 3, alpha=1.0).cost.gradients == 3


def test_the_share_and_size_of_from_paper_may_be_traced_or_scheduled():
    def estimate(alpha, rho):
        return evaluate(methods.from_paper(2.0, 2, rho=rho, alpha=alpha, key=1))[:2]

    desired = estimate(0.9, 2.0)
    assert_close(jax.jit(estimate)(0.9, 2.0), desired, rtol=1e-5)
    for alpha, rho in (lambda step: 0.9 + step, 2.0), (0.9, lambda step: 2.0 + step):
        assert_close(estimate(alpha, rho), desired, rtol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_key_same_bits(strategy):
    def run(key):
        return evaluate(methods.tsam(3.0, 0.1, 3, key=key, strategy=strategy))

    value, grad, state = run(3)
    assert_bitwise(run(jax.random.key(3))[:2], (value, grad))
    assert jnp.all(run(4)[2].losses != state.losses)


@pytest.mark.parametrize("key", [3, np.int64(3), jnp.int32(3), jax.random.PRNGKey(3)])
def test_any_kind_of_key(key):
    state = methods.tsam(3.0, 0.1, 3, key=key).init(PARAMS)
    assert state.key == jax.random.key(3)


def test_seeds_beyond_32_bits():
    assert methods.tsam(3.0, 0.1, 3, key=2**40).init(PARAMS).key == jax.random.key(2**40)


def test_steps_and_samples_draw_different_noise():
    estimator = methods.tsam(3.0, 0.0, 3, noise=noise.gaussian(rms=0.3))
    step, state, losses = jax.jit(value_and_grad(loss, estimator)), estimator.init(PARAMS), []
    for _ in range(2):
        _, state = step(PARAMS, state)
        losses.append(state.losses)
    assert jnp.unique(jnp.concatenate(losses)).size == 6
