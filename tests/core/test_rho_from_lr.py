"""The radius that follows the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
from small_problem import assert_close, evaluate

from tsam_jax import methods


def test_rho_from_lr():
    ends = {"rho_min": 0.1, "rho_max": 0.5, "lr_min": 0.01, "lr_max": 0.11}
    rates = jnp.array([0.0, 0.01, 0.06, 0.11, 1.0])
    rho = methods.rho_from_lr(lambda step: rates[step], **ends)
    np.testing.assert_allclose([rho(k) for k in range(5)], [0.1, 0.1, 0.3, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(methods.rho_from_lr(0.06, **ends)(jnp.int32(3)), 0.3, rtol=1e-6)
    same = methods.rho_from_lr(0.1, rho_min=0.1, rho_max=0.5, lr_min=0.1, lr_max=0.1)
    assert same(jnp.int32(0)) == 0.5

    @jax.jit
    def traced(ends):
        return methods.rho_from_lr(0.06, **ends)(jnp.int32(0))

    np.testing.assert_allclose(traced(ends), 0.3, rtol=1e-6)
    assert traced(ends | {"lr_min": 0.11}) == 0.5


def test_gsam_follows_the_schedule_of_rho():
    ends = {"rho_min": 0.1, "rho_max": 0.5, "lr_min": 0.0, "lr_max": 0.1}
    rho = methods.rho_from_lr(lambda step: 0.1 / (1 + step), **ends)
    estimator = methods.gsam(rho, 0.4)
    _, grad, state = evaluate(estimator)
    assert_close(grad, evaluate(methods.gsam(0.5, 0.4))[1])
    _, grad, _ = evaluate(estimator, state=state)
    assert_close(grad, evaluate(methods.gsam(0.3, 0.4))[1])
