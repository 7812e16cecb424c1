"""Methods without samples: flat losses, single parameters, empty leaves, precisions, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_table import TABLE, make
from small_problem import X, assert_close, evaluate, flat, loss, parameters, run

from tsam_jax import methods, value_and_grad

NAMES = ("asam", "pgn", "wsam", "gsam", "esam2", "looksam")


def test_all_are_in_the_contract():
    assert set(NAMES) <= set(TABLE)


@pytest.mark.parametrize("name", NAMES)
def test_constant_losses(name):
    estimator = make(name)
    state = None
    for _ in range(2):
        value, grad, state = evaluate(
            estimator, fun=lambda p: 3.0 + 0.0 * p["w"].sum(), state=state
        )
        assert value == 3.0
        assert not np.any(flat(grad))
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("name", NAMES)
def test_one_parameter_and_empty_leaves(name, dtype, x64):
    """On L = x^2, all gradients are evaluated at x or at x + rho."""
    params = {"x": jnp.asarray(0.5, dtype), "none": jnp.zeros((0, 3), dtype)}
    fun = lambda p: p["x"] ** 2 + jnp.sum(p["none"])  # noqa: E731
    estimator, state = make(name), None
    for _ in range(2):
        value, grad, state = evaluate(estimator, params, fun, state)
        assert grad["x"].dtype == dtype
        assert grad["none"].shape == (0, 3)
        assert 0.9 < grad["x"] < 1.5
        assert 0.2 < value < 0.6


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("name", NAMES)
def test_other_precisions_are_float32_to_rounding(name, dtype, x64):
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)  # noqa: E731
    rounded = jax.tree.map(lambda x: x.astype(jnp.float32), cast(parameters()))
    wide = lambda p: loss(jax.tree.map(lambda x: x.astype(jnp.float32), p))  # noqa: E731
    estimator = make(name)
    states = [None, None]
    for _ in range(2):
        value, grad, states[0] = evaluate(estimator, cast(parameters()), wide, states[0])
        desired_value, desired, states[1] = evaluate(estimator, rounded, wide, states[1])
        tolerance = 0.04 if dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(value, desired_value, rtol=tolerance)
        error = np.linalg.norm(flat(grad).astype(np.float64) - flat(desired))
        assert error < tolerance * np.linalg.norm(flat(desired))


MAKERS = {
    "vasso": lambda **kw: methods.vasso(0.3, 0.4, **kw),
    "fsam": lambda **kw: methods.fsam(0.3, 0.5, 0.6, **kw),
    "fsam-adaptive": lambda **kw: methods.fsam(0.3, 0.5, 0.6, adapt=True, **kw),
    "rsam": lambda **kw: methods.rsam(0.3, gamma=0.1, **kw),
    "rsam-leaf": lambda **kw: methods.rsam(0.3, gamma=0.1, scaling="leaf", **kw),
    "rsam-none": lambda **kw: methods.rsam(0.3, gamma=0.1, scaling="none", **kw),
    "rsam-lam": lambda **kw: methods.rsam(0.3, gamma=0.1, lam=2.0, **kw),
    "xsam": lambda **kw: methods.xsam(0.3, search_every=2, **kw),
    "xsam-fixed": lambda **kw: methods.xsam(0.3, alpha=1.3, search_every=None, **kw),
    "xsam-steps": lambda **kw: methods.xsam(0.3, steps=3, search_every=1, **kw),
}


every = pytest.mark.parametrize("name", MAKERS)


@every
def test_constant_losses_one_parameter_and_empty_leaves(name):
    for fun in (lambda p: 0.0 * loss(p)), (lambda p: jnp.float32(2.0)):
        outputs, _ = run(MAKERS[name](), 3, fun)
        assert all(jnp.all(g == 0) for _, grad, _ in outputs for g in jax.tree.leaves(grad))
    outputs, _ = run(MAKERS[name](), 3, lambda x: jnp.sin(3 * x), params=jnp.float32(0.4))
    assert all(jnp.isfinite(g) for _, g, _ in outputs)
    with_empty = {**parameters(), "e": jnp.zeros((0, 3)), "f": jnp.zeros((2, 0))}
    outputs, _ = run(MAKERS[name](), 3, lambda p: loss(p) + jnp.sum(p["e"]), params=with_empty)
    assert all(jnp.isfinite(value) for value, _, _ in outputs)
    assert outputs[-1][1]["e"].shape == (0, 3)


@every
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_bfloat16_parameters_follow_float32(name):
    wide = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), parameters())
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide)
    (_, grad, _), *_ = run(MAKERS[name](), 1, lambda p: loss(p, X.astype(p["w"].dtype)), narrow)[0]
    (_, desired, _), *_ = run(MAKERS[name](), 1, params=wide)[0]
    assert all(g.dtype == jnp.bfloat16 for g in jax.tree.leaves(grad))
    if name not in {"xsam", "xsam-steps"}:  # a rounding error may change the result of its search
        assert_close(jax.tree.map(jnp.float32, grad), desired, rtol=0.1, atol=0.06)


@every
def test_masked_leaves_do_not_take_part(name):
    """They are neither perturbed nor averaged, and their gradient enters no norm."""
    masked = MAKERS[name](mask={"w": True, "b": False})

    def only_w(p):
        return loss({"w": p["w"], "b": parameters()["b"]})

    ((value, grad, _),), _ = run(masked, 1)
    without_b = MAKERS[name]()
    params = {"w": parameters()["w"]}
    if name.startswith("rsam"):  # with the same number of keys, so that w gets the same noise
        masked_again = run(MAKERS[name](mask=lambda p: {"w": True, "b": False}), 1)[0]
        assert_close(masked_again[0][:2], (value, grad), rtol=0, atol=0)
        return
    desired, desired_grad, _ = evaluate(without_b, params, only_w)
    np.testing.assert_allclose(value, desired, rtol=1e-5)
    np.testing.assert_allclose(grad["w"], desired_grad["w"], rtol=1e-5, atol=1e-6)
    assert grad["b"].shape == (2,)


SCHEDULES = {
    "vasso": (lambda theta: methods.vasso(0.3, theta), 0.4, 0.9),
    "fsam-sigma": (lambda sigma: methods.fsam(0.3, sigma, 0.6), 0.4, 2.0),
    "fsam-lmbda": (lambda lmbda: methods.fsam(0.3, 1.0, lmbda), 0.4, 0.9),
    "fsam-eta": (lambda eta: methods.fsam(0.3, adapt=True, eta=eta), 0.4, 2.0),
    "rsam-lam": (lambda lam: methods.rsam(0.3, gamma=0.2, lam=lam), 0.4, 9.0),
    "rsam-leaf": (lambda gamma: methods.rsam(0.3, gamma=gamma, scaling="leaf"), 0.2, 0.5),
    "xsam-alpha": (lambda a: methods.xsam(0.3, alpha=a, search_every=None), 0.4, 1.9),
    "xsam-rho_max": (lambda r: methods.xsam(0.3, rho_max=r, search_every=1), 0.4, 2.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_numbers_may_be_schedules_and_traced(name):
    make, first, second = SCHEDULES[name]
    estimator = make(lambda step: jnp.where(step == 1, second, first))
    scheduled = value_and_grad(loss, estimator)
    params, xs = parameters(), X * jnp.arange(1.0, 4.0)[:, None, None]
    fixed = jax.jit(lambda number, state, x: value_and_grad(loss, make(number))(params, state, x))
    state, scheduled, gaps = scheduled.init(params), jax.jit(scheduled), []
    for number, x in zip((first, second, first), xs, strict=True):
        results = [scheduled(params, state, x)]
        results += [fixed(jnp.float32(n), state, x) for n in (number, first)]
        actual, desired, other = (jax.tree.leaves(r) for r in results)
        for y, z in zip(actual, desired, strict=True):
            np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)
        gaps += [np.max(np.abs(y - z), initial=0) for y, z in zip(actual, other, strict=True)]
        _, state = results[0]
    assert max(gaps) > 1e-3
