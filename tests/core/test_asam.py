"""ASAM: parameter scales, and which leaves have one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import PARAMS, assert_close, evaluate, flat, loss, points_of

from tsam_jax import methods


@pytest.mark.parametrize("mask", [None, {"w": True, "b": False}, lambda p: {"w": False, "b": True}])
@pytest.mark.parametrize(
    ("adapt", "adapted"),
    [
        (None, {"w"}),
        (True, {"w", "b"}),
        (False, set()),
        ({"w": np.bool_(False), "b": np.bool_(True)}, {"b"}),
        (lambda p: {"w": p["w"].ndim == 1, "b": p["b"].ndim == 1}, {"b"}),
    ],
)
def test_which_leaves_are_adapted_and_which_perturbed(adapt, adapted, mask, x64):
    arguments = {} if adapt is None else {"adapt": adapt}
    asam = methods.asam(0.3, eta=0.02, mask=mask, **arguments)
    first, last = points_of(asam)
    assert_close(first, PARAMS, rtol=0, atol=0)
    flags = {"w": True, "b": True} if mask is None else mask(PARAMS) if callable(mask) else mask
    g = jax.grad(loss)(PARAMS)
    t = {k: np.abs(PARAMS[k]) + 0.02 if k in adapted else 1.0 for k in PARAMS}
    length = np.sqrt(sum(np.sum((t[k] * g[k]) ** 2) for k in PARAMS if flags[k]))
    for k in PARAMS:
        moved = 0.3 * t[k] ** 2 * g[k] / length if flags[k] else 0.0
        np.testing.assert_allclose(last[k], PARAMS[k] + moved, rtol=1e-12)


def test_parameters_at_zero_move_only_with_eta():
    params = {"w": jnp.zeros((2, 2)), "b": PARAMS["b"]}
    for eta, moves in (0.0, False), (0.01, True):
        _, last = points_of(methods.asam(0.3, eta=eta), params)
        assert jnp.any(last["w"] != 0) == moves
    _, last = points_of(
        methods.asam(0.3, eta=0.0, adapt=True), jax.tree.map(jnp.zeros_like, PARAMS)
    )
    assert not np.any(flat(last))


def test_asam_does_not_see_a_rescaling_of_the_layers(x64):
    def product(p):
        return jnp.sum(jnp.tanh(p["u"] * p["v"]) ** 2)

    asam = methods.asam(0.3, eta=0.0, adapt=True)
    params = {"u": jnp.array([0.3, -1.0]), "v": jnp.array([0.5, 2.0])}
    scaled = {"u": 8.0 * params["u"], "v": params["v"] / 8.0}
    value, grad, _ = evaluate(asam, params, product)
    scaled_value, scaled_grad, _ = evaluate(asam, scaled, product)
    np.testing.assert_allclose(scaled_value, value, rtol=1e-12)
    np.testing.assert_allclose(8.0 * scaled_grad["u"], grad["u"], rtol=1e-12)
    sam = methods.sam(0.3)
    assert abs(evaluate(sam, scaled, product)[0] - evaluate(sam, params, product)[0]) > 1e-2
