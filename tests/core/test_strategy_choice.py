"""The strategy that "auto" chooses."""

import jax
import jax.numpy as jnp
import pytest

from tsam_jax import _fold, methods, value_and_grad
from tsam_jax.convolution import conv_general_dilated
from tsam_jax.estimator import Evaluation
from tsam_jax.tilting import AutoTilt, tilt_for_ess


def dense(j):
    x = jax.random.normal(jax.random.key(j), (2, 3))
    return Evaluation(jnp.sum(x @ x.T), x)


def convolutional(j, convolve=jax.lax.conv_general_dilated):
    x = jax.random.normal(jax.random.key(j), (1, 4, 4, 1))

    def loss(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(convolve(x, x[0, :, :, :, None], (1, 1), "SAME", dimension_numbers=numbers))

    value, grad = jax.value_and_grad(loss)(x)
    return Evaluation(value, grad)


def fast_in_loops(j):
    return convolutional(j, conv_general_dilated)


def hidden(j):
    """The convolution is in a branch of a conditional, under jit and checkpoint."""
    inner = jax.jit(jax.checkpoint(convolutional))
    return jax.lax.cond(j > 1, inner, inner, j)


def choices(sample, s, *, strategy="auto", tilt=1.0):
    """Strategies chosen with and without `jit`."""

    def choose(indices):
        seen.append(_fold._choose(strategy, sample, indices, tilt))
        return indices

    seen = []
    jax.eval_shape(jax.jit(choose), jnp.arange(s))
    choose(jnp.arange(s))
    return seen


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
    assert choices(sample, s) == [choice, "unrolled"]


def test_without_jit_and_for_one_sample_it_is_unrolled():
    assert choices(dense, 64)[1] == "unrolled"
    assert choices(dense, 1) == ["unrolled", "unrolled"]


def test_a_strategy_that_is_asked_for_is_taken_except_for_loops_without_jit():
    for sample in dense, convolutional:
        assert choices(sample, 3, strategy="vectorized") == ["vectorized", "vectorized"]
        assert choices(sample, 64, strategy="unrolled") == ["unrolled", "unrolled"]
        assert choices(sample, 3, strategy="streamed") == ["streamed", "unrolled"]


@pytest.mark.parametrize(("s", "choice"), [(8, "unrolled"), (9, "streamed")])
def test_elsewhere_few_samples_are_unrolled(s, choice, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choices(dense, s) == [choice, "unrolled"]


def test_a_tilt_of_all_losses_cannot_be_streamed():
    def tilt(losses):
        return tilt_for_ess(losses, 0.5)

    assert [choices(dense, s, tilt=tilt)[0] for s in (3, 8, 9)] == [
        *("unrolled", "unrolled", "vectorized")
    ]
    with pytest.raises(ValueError, match="`strategy` cannot be 'streamed' if the tilt depends"):
        choices(dense, 3, strategy="streamed", tilt=tilt)


@pytest.mark.parametrize(("s", "calls"), [(3, 3), (9, 1)])  # unrolled, vectorized
def test_a_tilt_of_all_losses_is_not_streamed(s, calls):
    seen = []

    def law(key, params):
        seen.append(key)
        return jax.random.normal(key, params.shape)

    estimator = methods.tsam(AutoTilt(0.5), 0.1, s, noise=law)
    step, x = value_and_grad(jnp.sum, estimator), jnp.ones(3)
    jax.eval_shape(jax.jit(step), x, step.init(x))
    assert len(seen) == calls + 1  # plus one call to choose
