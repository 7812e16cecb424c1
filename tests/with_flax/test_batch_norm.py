"""BatchNorm: policies that matter for the evaluation, and recalibration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax_models import Net, batch, counter

import tsam_jax.nnx
from tsam_jax import methods, noise


class Threshold(nnx.Module):
    """Says 1 where the input is above the running mean; inputs are 10 - 1 or 10 + 1."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones(()))
        self.norm = nnx.BatchNorm(
            1, momentum=0.0, use_scale=False, use_bias=False, rngs=nnx.Rngs(0)
        )

    def __call__(self, x):
        return self.norm(self.weight * x)[:, 0]


X = jnp.array([9.0, 11.0] * 8)[:, None]
Y = (X[:, 0] > 10).astype(jnp.float32)


def accuracy(model):
    model = nnx.view(model, use_running_average=True)
    return float(jnp.mean((model(X) > 0) == Y))


def after_a_step(aux):
    """The model after a step with noise of 0.5 on a weight of 1, in pairs that cancel."""
    model = Threshold()
    law = noise.antithetic(noise.gaussian(rms=0.5))
    method = methods.tilted_sampling(1.0, 2, noise=law, aux=aux, strategy="vectorized")
    estimator = tsam_jax.nnx.Estimator(model, method)
    loss = lambda model, batch: jnp.mean((model(batch[0]) - batch[1]) ** 2)  # noqa: E731
    nnx.jit(lambda *args: args[1].value_and_grad(loss)(args[0], (X, Y))[0])(model, estimator)
    return model


def test_the_policy_decides_the_accuracy():
    first, mean, clean = map(after_a_step, ("first", "mean", "clean"))
    assert [accuracy(model) for model in (first, mean, clean)] == [0.5, 1.0, 1.0]
    w = first.norm.mean[...] / 10  # the mean of w x, at the weight w of the first sample
    assert abs(w - 1) > 0.2
    np.testing.assert_allclose(first.norm.var[...], w**2, rtol=1e-3)
    np.testing.assert_allclose(mean.norm.mean[...], 10.0, rtol=1e-5)
    np.testing.assert_allclose(mean.norm.var[...], (w**2 + (2 - w) ** 2) / 2, rtol=1e-3)
    np.testing.assert_allclose(clean.norm.mean[...], 10.0, rtol=1e-5)
    np.testing.assert_allclose(clean.norm.var[...], 1.0, rtol=1e-3)

    tsam_jax.nnx.recalibrate_batch_norm(first, [X])
    assert accuracy(first) == 1.0


def run(model, batch):
    model(batch[0])


def test_recalibration_pools_the_batches_and_changes_nothing_else():
    model, batches = Net(nnx.Rngs(0)), [batch(k) for k in range(3)]
    before = nnx.clone(model)
    tsam_jax.nnx.recalibrate_batch_norm(model, iter(batches), run)
    hidden = np.asarray(model.hidden(jnp.concatenate([x for x, _ in batches])), np.float64)
    np.testing.assert_allclose(model.norm.mean[...], hidden.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.norm.var[...], hidden.var(0), rtol=1e-5)

    before.norm.mean[...], before.norm.var[...] = model.norm.mean[...], model.norm.var[...]
    (graphdef, state), (desired, same) = nnx.split(model), nnx.split(before)
    assert graphdef == desired  # modes and momentum
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(same), strict=True):
        assert jnp.all(x == y)
    assert (counter(model), model.norm.momentum, model.dropout.deterministic) == (0, 0.9, False)


def test_recalibration_is_without_dropout_and_normalizes_by_the_batch():
    """The last layer sees what the layers before it make of the batch, whatever they remember."""
    model = nnx.Sequential(
        nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
        nnx.Dropout(0.5, rngs=nnx.Rngs(1)),
        nnx.BatchNorm(4, rngs=nnx.Rngs(2)),
    )
    model.layers[0].var[...] *= 100
    x = 3 * batch()[0]
    tsam_jax.nnx.recalibrate_batch_norm(model, [x])
    np.testing.assert_allclose(model.layers[0].var[...], x.var(0), rtol=1e-5)
    np.testing.assert_allclose(model.layers[2].mean[...], 0.0, atol=1e-6)
    np.testing.assert_allclose(model.layers[2].var[...], 1.0, rtol=1e-4)


def test_layers_that_do_not_run_in_training_mode_keep_their_statistics():
    first, second = (nnx.BatchNorm(4, rngs=nnx.Rngs(k)) for k in range(2))
    model = nnx.Sequential(first, second)

    def half(model, x):
        model.layers[1](model.layers[0](x, use_running_average=True))

    tsam_jax.nnx.recalibrate_batch_norm(model, [batch()[0]], half)
    np.testing.assert_array_equal(first.mean[...], 0.0)
    np.testing.assert_array_equal(first.var[...], 1.0)
    assert jnp.all(second.mean[...] != 0)


def test_what_cannot_be_recalibrated_is_a_clear_error():
    recalibrate, model = tsam_jax.nnx.recalibrate_batch_norm, nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"must have an `nnx.BatchNorm`, got a `Linear` without"):
        recalibrate(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), [batch()[0]])
    with pytest.raises(ValueError, match=r"batches=...\)` must have at least one batch, got none"):
        recalibrate(model, [])
    with pytest.raises(ValueError, match=r"apply=...\)` must run a BatchNorm .* but ran none"):
        recalibrate(model, [batch()[0]], lambda model, x: model(x, use_running_average=True))
