"""What "auto" stands for."""

import jax
import jax.numpy as jnp
import pytest

from tsam_jax import methods, value_and_grad
from tsam_jax.convolution import conv_general_dilated
from tsam_jax.estimator import Evaluation
from tsam_jax.execution import choose_strategy
from tsam_jax.tilting import AutoTilt


def dense(key):
    x = jax.random.normal(key, (2, 3))
    return Evaluation(jnp.sum(x @ x.T), None, x)


def convolutional(key, convolve=jax.lax.conv_general_dilated):
    x = jax.random.normal(key, (1, 4, 4, 1))

    def loss(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(convolve(x, x[0, :, :, :, None], (1, 1), "SAME", dimension_numbers=numbers))

    value, grad = jax.value_and_grad(loss)(x)
    return Evaluation(value, None, grad)


def fast_in_loops(key):
    return convolutional(key, conv_general_dilated)


def hidden(key):
    """The convolution stands in a branch of a conditional, under jit and checkpoint."""
    inner = jax.jit(jax.checkpoint(convolutional))
    return jax.lax.cond(jax.random.bernoulli(key), inner, inner, key)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rule for CPU")
@pytest.mark.parametrize("s", [3, 64])
@pytest.mark.parametrize(
    ("sample", "choice"),
    [
        (dense, "streamed"),
        (convolutional, "unrolled"),
        (hidden, "unrolled"),
        (fast_in_loops, "streamed"),
    ],
)
def test_under_jit_on_cpu_only_plain_convolutions_are_unrolled(sample, choice, s):
    seen = []

    @jax.jit
    def step(keys):
        seen.append(choose_strategy(sample, keys))
        return keys

    step(jax.random.split(jax.random.key(0), s))
    assert seen == [choice]


def test_without_jit_and_for_one_sample_it_is_unrolled():
    keys = jax.random.split(jax.random.key(0), 64)
    assert choose_strategy(dense, keys) == "unrolled"
    assert jax.jit(lambda k: jnp.float32(choose_strategy(dense, k[:1]) == "unrolled"))(keys) == 1


@pytest.mark.parametrize(("s", "calls"), [(3, 3), (9, 1)])  # unrolled, vectorized
def test_a_tilt_of_all_losses_is_not_streamed(s, calls):
    seen = []

    def law(key, params):
        seen.append(key)
        return jax.random.normal(key, params.shape)

    estimator = methods.tsam(AutoTilt(0.5), 0.1, s, noise=law)
    x = jnp.ones(3)
    jax.eval_shape(jax.jit(value_and_grad(jnp.sum, estimator)), x, estimator.init(x))
    assert len(seen) == calls + 1  # and once to choose
