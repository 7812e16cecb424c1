"""One proposal of `tsam_hmc` as a Markov kernel, and losses to test it on."""

import jax
import jax.numpy as jnp

from tsam_jax.methods import hmc

G = jnp.array([2.0, -1.0, 0.5])


CURVATURE = jnp.array([[-3.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 2.0]])


def linear(e):
    return e @ G


def curved(e):
    return e @ G / 2 + e @ CURVATURE @ e / 2 + 1.5 * jnp.sin(4 * e[0])


def make_look(loss):
    def look(e):
        value, grad = jax.value_and_grad(loss)(e)
        return hmc._Point(e, value, grad, grad)

    return look


def make_kernel(loss, integrator="leapfrog", accept="metropolis", **numbers):
    """(key, e) -> (e', accepted)"""
    look = make_look(loss)

    def kernel(key, e):
        options = {"integrate": hmc._INTEGRATORS[integrator], "accept": accept, **numbers}
        there, accepted = hmc._propose(key, look(e), look, **options)
        return there.e, accepted

    return kernel
