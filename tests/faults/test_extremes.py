"""Losses, gradients, tilts and sizes at the ends of what float32 can hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_table import TABLE, batch, loss, make, parameters

from tsam_jax import Evaluation, Loss, _fold, _tree, noise, tilting

every_method = pytest.mark.parametrize("name", [n for n, row in TABLE.items() if not row.spelling])
LARGEST = np.finfo(np.float32).max


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(np.float64)


def estimates(estimator, fun, steps):
    params, grads = parameters(), []
    memory, _ = estimator.init(params)
    for k in range(steps):
        of_step = {"step": jnp.int32(k), "key": jax.random.fold_in(jax.random.key(0), k)}
        evaluation, memory = estimator.estimate(Loss(fun), params, memory, **of_step)
        grads.append(flat(evaluation.grad))
    return np.stack(grads)


@every_method
def test_a_factor_on_the_loss_is_one_on_the_gradient_whatever_its_size(name):
    row, found = TABLE[name], {}
    for factor in 1.0, 1e25, 1e-25:
        tilts = {"t": row.arguments["t"] / factor} if "t" in row.arguments else {}
        fun = lambda p, factor=factor: factor * loss(p, batch())  # noqa: E731
        found[factor] = estimates(make(name, **tilts), fun, row.period) / factor
    for factor in 1e25, 1e-25:
        np.testing.assert_allclose(found[factor], found[1.0], rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("size", [1e-37, 1e-25, 1.0, 1e25, 1e38])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_directions_have_length_one_whatever_their_size(size, dtype):
    tree = {"a": jnp.asarray([1.0, -0.5, 0.0], dtype) * size, "b": jnp.asarray(0.25, dtype) * size}
    rounding = 1e-2 if dtype == jnp.bfloat16 else 1e-6
    desired = np.sqrt(1 + 0.25 + 0.0625)
    np.testing.assert_allclose(_tree.norm(tree) / size, desired, rtol=rounding)
    unit = _tree.unit(tree)
    np.testing.assert_allclose(np.real(flat_of(unit)) * desired, [1, -0.5, 0, 0.25], rtol=rounding)


def flat_of(tree):
    return np.concatenate([np.ravel(x).astype(np.complex64) for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_directions_with_a_bad_entry_are_bad_everywhere(bad):
    unit = _tree.unit({"a": jnp.array([1.0, bad]), "b": jnp.ones(2)})
    assert np.all(np.isnan(flat(unit)))
    assert not np.isfinite(_tree.norm(jnp.array([1.0, bad])))


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_rejections_are_orthogonal_whatever_the_size(size):
    a, b = jnp.array([1.0, 2.0]) * size, jnp.array([0.0, 3.0]) * size
    np.testing.assert_allclose(_tree.reject(a, b) / size, [1.0, 0.0], atol=1e-6)


LOSSES = {
    "large": np.float32([1e30, -1e30, 3e30, 2.9e30]),
    "apart": np.float32([LARGEST, -LARGEST, LARGEST, 0.0]),  # their differences overflow
    "equal": np.float32([LARGEST] * 4),
}
TILTS = (0.0, 1e-38, 1e-30, 1e-12, 1.0, 1e12, np.inf)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_any_size_are_weighted(name):
    losses = LOSSES[name]
    exact = losses.astype(np.float64)
    for t in TILTS:
        with np.errstate(over="ignore", invalid="ignore"):
            gaps = np.nan_to_num(np.float64(np.float32(t)) * (exact - exact.max()), neginf=-np.inf)
        desired = np.exp(np.where(exact == exact.max(), 0, gaps))
        weights = jax.jit(tilting.tilt_weights)(losses, t)
        if name != "apart" or t != 1e-38:  # the one tilt that sees differences beyond the largest
            np.testing.assert_allclose(weights, desired / desired.sum(), atol=1e-6)
        value = jax.jit(tilting.tilted_loss)(losses, t)
        assert exact.mean() - LARGEST * 1e-6 <= value <= exact.max()
        part = tilting.tilted_mean(losses[0], jnp.eye(4)[0])
        for j in range(1, 4):
            part = tilting.merge(part, tilting.tilted_mean(losses[j], jnp.eye(4)[j]), t)
        np.testing.assert_allclose(part.mean, weights, atol=1e-6)


def test_a_tilt_is_chosen_for_large_losses():
    losses = LOSSES["large"]
    weights = tilting.tilt_weights(losses, tilting.tilt_for_ess(losses, 0.6))
    np.testing.assert_allclose(tilting.effective_sample_size(weights), 2.4, rtol=1e-3)


@pytest.mark.parametrize("s", [1, 5, 64])
def test_strategies_agree_at_any_tilt_and_number_of_samples(s):
    rng = np.random.default_rng(s)
    losses, grads = np.float32(rng.normal(size=s)), np.float32(rng.normal(size=(s, 3)))

    def sample(j):
        return Evaluation(jnp.asarray(losses)[j], jnp.asarray(grads)[j])

    tilts = np.float32([0.0, 1e-12, 1e-3, 1.0, 30.0, 1e12, np.inf])
    for strategy in "vectorized", "unrolled", "streamed":

        def combined(t, strategy=strategy):
            options = {"strategy": strategy, "aux": "first"}
            found = _fold.tilted(lambda j: (sample, j), s, t, **options)
            return found.value, found.grad, found.metrics

        values, means, metrics = jax.jit(jax.vmap(combined))(tilts)
        weights = metrics["weights"]
        np.testing.assert_array_equal(metrics["losses"], np.tile(losses, (len(tilts), 1)))
        np.testing.assert_array_equal(metrics["tilt"], tilts)
        sizes = 1 / np.square(np.float64(weights)).sum(1)
        np.testing.assert_allclose(metrics["effective_sample_size"], sizes, rtol=1e-5)
        for i, t in enumerate(np.float64(tilts)):
            gaps = np.where(losses == losses.max(), 0, np.float64(losses) - losses.max())
            with np.errstate(invalid="ignore"):
                desired = np.exp(np.where(gaps == 0, 0, t * gaps))
            desired /= desired.sum()
            np.testing.assert_allclose(weights[i], desired, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(means[i], desired @ grads, rtol=1e-4, atol=2e-6)
            assert losses.mean() - 1e-6 <= values[i] <= losses.max() + 1e-6


@every_method
def test_sizes_of_zero_that_are_known_only_in_the_step_give_the_plain_gradient(name):
    zero = jnp.float32(0.0)
    zeros = dict.fromkeys(TABLE[name].numbers, zero)
    zeros |= {"tsam_hmc": {"sigma": 1.0}, "rsam": {"rho": zero}}.get(name, {})
    zeros |= {x: zero for x in ("rho", "rho_max") if x in TABLE[name].arguments}
    if "noise" in TABLE[name].arguments:
        zeros["noise"] = noise.sphere(radius=zero)
    if name == "esam2":
        zeros["rhos"] = jnp.zeros(2)
    fun = lambda p: loss(p, batch())  # noqa: E731
    found = estimates(make(name, **zeros), fun, 1)[0]
    np.testing.assert_allclose(found, flat(jax.grad(fun)(parameters())), rtol=1e-5, atol=1e-5)
