"""The two evaluations of an ascent, in sequence and in a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import Evaluation, _fold, methods, noise, value_and_grad

FORMS = pytest.mark.parametrize("form", ["one after the other", "in a loop"])
START = np.array([1.0, -2.0])


def evaluate(x):
    """sum x^4 / 4, with an infinite value only near 3.5 and a NaN gradient below -3."""
    value = jnp.sum(x**4) / 4 + jnp.where(jnp.abs(jnp.max(x) - 3.5) < 0.1, jnp.inf, 0)
    return Evaluation(value, jnp.where(jnp.min(x) < -3, jnp.nan, x**3), {"at": x})


def climb(point, grad):
    """Step along the finite part of the gradient, as some norms give it."""
    return point + 0.1 * jnp.nan_to_num(grad), jnp.all(jnp.isfinite(grad))


def found_by(form, start):
    """Loss and gradient at the end, and aux at the start, of one sample computed alone."""

    @jax.jit
    def found(x):
        if form == "in a loop":
            return _fold._evaluate_in_two_turns(evaluate, climb, x)
        options = {"climb": climb, "strategy": "unrolled", "aux": "first"}
        one = _fold.tilted(lambda j: (evaluate, x), 1, 0.0, **options)
        return one._replace(metrics={})

    return found(jnp.asarray(start, jnp.float32))


@FORMS
def test_loss_and_gradient_are_those_of_the_end_and_aux_that_of_the_start(form):
    found = found_by(form, START)
    end = START + 0.1 * START**3
    np.testing.assert_allclose(found.value, np.sum(end**4) / 4, rtol=1e-6)
    np.testing.assert_allclose(found.grad, end**3, rtol=1e-6)
    np.testing.assert_array_equal(found.aux["at"], START)


@FORMS
@pytest.mark.parametrize(("start", "finite"), [(3.5, False), (-3.5, False), (1.0, True)])
def test_a_start_that_is_not_finite_says_so_in_the_loss(form, start, finite):
    assert np.isfinite(found_by(form, [start, 1.0]).value) == finite


def test_streamed_samples_have_the_loss_once_in_their_program(monkeypatch):
    def smooth(x):
        return jnp.sum(jax.lax.lgamma(x))

    def evaluations(strategy):
        estimator = methods.tsam(2.0, 0.1, 3, noise=noise.sphere(radius=0.1), strategy=strategy)
        step, x = value_and_grad(smooth, estimator), jnp.array([1.5, 2.5])
        (value, grad), _ = jax.jit(step)(x, step.init(x))
        program = str(jax.make_jaxpr(step)(x, step.init(x)))
        return program.count("= lgamma"), value, grad

    once, value, grad = evaluations("streamed")
    six, other_value, other_grad = evaluations("unrolled")
    assert six == 6
    assert once == (1 if jax.default_backend() == "cpu" else 2)
    np.testing.assert_allclose(value, other_value, rtol=1e-6)
    np.testing.assert_allclose(grad, other_grad, rtol=1e-6)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert evaluations("streamed")[0] == 2
