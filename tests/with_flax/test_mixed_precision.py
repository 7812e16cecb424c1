"""Compute in bfloat16, parameters in float32: the recipe that `HalfPrecisionWarning` names."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax_models import Net, batch, loss_fn

import tsam_jax.nnx
from tsam_jax import HalfPrecisionWarning, Loss, methods, noise

TSAM = methods.tsam(5.0, 0.05, 1, noise=noise.sphere(rms=0.005))


def dtypes(tree):
    leaves = jax.tree.leaves(nnx.as_pure(nnx.state(tree)))
    return {str(x.dtype) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}


def test_bfloat16_compute_with_float32_parameters_trains():
    model = Net(nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float32)
    optimizer = nnx.Optimizer(model, optax.sgd(0.3, momentum=0.9), wrt=nnx.Param)
    estimator = tsam_jax.nnx.Estimator(model, TSAM)

    @nnx.jit
    def train_step(model, optimizer, estimator):
        loss, grads = estimator.value_and_grad(loss_fn)(model, batch(size=32))
        optimizer.update(model, grads)
        return loss, grads

    losses = []
    for _ in range(20):
        loss, grads = train_step(model, optimizer, estimator)
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert str(loss.dtype) == "float32"
    assert any(x != float(jnp.bfloat16(x)) for x in losses)  # and was not in bfloat16 before
    assert dtypes(grads) == dtypes(model) == dtypes(optimizer) == dtypes(estimator) == {"float32"}


def test_the_ascent_of_such_a_model_has_its_length():
    model = Net(nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float32)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest, sam = nnx.as_pure(params), nnx.as_pure(rest), methods.sam(0.1)

    def loss(params):
        model = nnx.merge(graphdef, params, rest)
        assert model.hidden(batch()[0]).dtype == jnp.bfloat16
        return loss_fn(model, batch())

    @jax.jit
    def points(params):
        seen = []

        class Listening(Loss):
            def __call__(self, params):
                seen.append(params)
                return super().__call__(params)

        memory, _ = sam.init(params)
        step = {"step": jnp.int32(0), "key": jax.random.key(0)}
        sam.estimate(Listening(loss), params, memory, **step)
        return seen

    before, after = points(params)
    length = optax.tree.norm(jax.tree.map(jnp.subtract, after, before))
    np.testing.assert_allclose(length, 0.1, rtol=1e-5)


def test_parameters_in_bfloat16_are_warned_of_where_the_step_is_traced():
    def step(param_dtype, method):
        model = Net(nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=param_dtype)
        estimator = tsam_jax.nnx.Estimator(model, method)
        graphdef, state = nnx.split((model, estimator))

        def pure(state, batch):
            model, estimator = nnx.merge(graphdef, state)
            return nnx.as_pure(estimator.value_and_grad(loss_fn)(model, batch))

        return jax.eval_shape(pure, nnx.as_pure(state), batch())

    with pytest.warns(HalfPrecisionWarning, match=r"bfloat16 parameters round.*param_dtype"):
        step(jnp.bfloat16, TSAM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(jnp.bfloat16, methods.erm())
        step(jnp.float32, TSAM)
