"""VaSSO, F-SAM, R-SAM and XSAM: closed forms, identities, schedules and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import Oracle, make_oracle, methods, noise, value_and_grad

pytestmark = pytest.mark.usefixtures("fast_compile")

X = jnp.array([[0.3, -1.1], [0.7, 0.2]])
PARAMS = {"w": X, "b": jnp.array([0.1, -0.2])}


def loss(p, x=X):
    return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2) + 0.1 * jnp.sum(p["w"] ** 4)


def run(estimator, steps=3, fun=loss, params=None, xs=None):
    """Some steps of gradient descent: losses, gradients, parameters, and the last state."""
    params = PARAMS if params is None else params
    step, state, outputs = jax.jit(value_and_grad(fun, estimator)), estimator.init(params), []
    for k in range(steps):
        (value, grad), state = step(params, state, *([] if xs is None else [xs[k]]))
        outputs.append((value, grad, params))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
    return outputs, state


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


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


# Identities.

SAMS = {
    "vasso": methods.vasso(0.3, theta=1.0),
    "fsam": methods.fsam(0.3, sigma=0.0),
    "rsam": methods.rsam(0.3, gamma=0.0),
    "xsam": methods.xsam(0.3, alpha=1.0, search_every=None),
}


@pytest.mark.parametrize("name", SAMS)
def test_special_cases_are_sam(name, x64):
    params = jax.tree.map(lambda x: x.astype(jnp.float64), PARAMS)
    desired, _ = run(methods.sam(0.3), params=params)
    assert_close(run(SAMS[name], params=params)[0], desired, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["vasso", "fsam"])
def test_averages_that_do_not_count_are_bitwise_sam(name):
    assert_close(run(SAMS[name])[0], run(methods.sam(0.3))[0], rtol=0, atol=0)


def test_several_steps_of_xsam_at_alpha_1_are_those_of_sam():
    xsam = methods.xsam(0.3, steps=3, alpha=1.0, search_every=None)
    assert_close(run(xsam)[0], run(methods.sam(0.3, steps=3))[0])


@pytest.mark.parametrize("name", ["vasso", "fsam"])
def test_the_first_step_is_sam(name):
    assert_close(run(MAKERS[name](), 1)[0], run(methods.sam(0.3), 1)[0], rtol=0, atol=0)
    assert_differ(run(MAKERS[name](), 2)[0][1], run(methods.sam(0.3), 2)[0][1])


def assert_differ(a, b):
    gaps = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)
    assert max(jax.tree.leaves(gaps)) > 1e-3


LAWS = {
    "filter": noise.filter_scaled(0.2),
    "leaf": noise.leaf_scaled(0.2),
    "none": noise.gaussian(rms=0.2),
}


@pytest.mark.parametrize("scaling", LAWS)
@pytest.mark.parametrize("t", [0.0, 5.0])
def test_rsam_is_tsam_with_one_sample(scaling, t):
    rsam = methods.rsam(0.3, gamma=0.2, scaling=scaling, key=4)
    tsam = methods.tsam(t, 0.3, 1, noise=LAWS[scaling], key=4)
    outputs, state = run(rsam)
    desired, tsam_state = run(tsam)
    assert_close(outputs, desired, rtol=1e-6)
    assert state.key == tsam_state.key
    assert state.step == 3
    assert rsam.cost == tsam.cost


def test_rsam_without_ascent_is_the_gradient_at_the_noise():
    rsam = methods.rsam(0.0, gamma=0.2, key=4)
    sampling = methods.tilted_sampling(0.0, 1, noise=noise.filter_scaled(0.2), key=4)
    assert_close(run(rsam)[0], run(sampling)[0], rtol=1e-6)
    assert rsam.cost.gradients == 1


def test_rsam_with_no_weight_of_the_noise_ascends_from_the_parameters():
    """lam = 0: SAM, but for the gradient that it follows, which is that at theta + D."""
    rsam = methods.rsam(0.3, gamma=0.2, lam=0.0, key=4)
    d = one_perturbation(rsam, noise.filter_scaled(0.2))
    g = jax.grad(loss)(add(PARAMS, d))
    desired = jax.grad(loss)(add(PARAMS, g, 0.3 / norm(g)))
    (_, grad, _), *_ = run(rsam, 1)[0]
    assert_close(grad, desired)


# Closed forms on L = x^T A x / 2 and c^T x.


def add(a, b, factor=1.0):
    return jax.tree.map(lambda x, y: x + factor * y, a, b)


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))


def one_perturbation(estimator, law, params=PARAMS, step=0):
    key = jax.random.fold_in(estimator.init(params).key, step)
    return law(jax.random.split(key, 1)[0], params)


A = jnp.array([[2.0, 0.3], [0.3, 0.5]])
START = jnp.array([1.0, -2.0])


def quadratic(x, shift=jnp.zeros(2)):  # noqa: B008 - a constant
    return (x - shift) @ A @ (x - shift) / 2


SHIFTS = jnp.array([[0.0, 0.0], [1.0, 0.5], [-2.0, 1.0], [0.5, 0.5]])


@pytest.fixture
def double(x64):
    return START.astype(jnp.float64), A.astype(jnp.float64), SHIFTS.astype(jnp.float64)


def test_vasso_on_a_quadratic(double):
    start, a, shifts = double
    outputs, state = run(methods.vasso(0.3, 0.4), 4, quadratic, params=start, xs=shifts)
    x, m = start, None
    for shift, (value, grad, _) in zip(shifts, outputs, strict=True):
        g = a @ (x - shift)
        m = g if m is None else 0.6 * m + 0.4 * g
        end = x + 0.3 * m / jnp.linalg.norm(m) - shift
        np.testing.assert_allclose(grad, a @ end, rtol=1e-10)
        np.testing.assert_allclose(value, end @ a @ end / 2, rtol=1e-10)
        x = x - 0.1 * a @ end
    np.testing.assert_allclose(state.average, m, rtol=1e-12)


def test_fsam_on_a_quadratic(double):
    start, a, shifts = double
    estimator = methods.fsam(0.3, 0.7, 0.8)
    outputs, state = run(estimator, 4, quadratic, params=start, xs=shifts)
    x, m = start, None
    for shift, (_, grad, _) in zip(shifts, outputs, strict=True):
        g = a @ (x - shift)
        d, m = (g, g) if m is None else (g - 0.7 * m, 0.8 * m + 0.2 * g)
        end = x + 0.3 * d / jnp.linalg.norm(d) - shift
        np.testing.assert_allclose(grad, a @ end, rtol=1e-10)
        x = x - 0.1 * a @ end
    np.testing.assert_allclose(state.average, m, rtol=1e-12)


@pytest.mark.parametrize("lam", [None, 2.0])
def test_rsam_on_a_quadratic(lam, double):
    start, a, _ = double
    estimator = methods.rsam(0.3, gamma=0.2, scaling="none", lam=lam, key=7)
    outputs, _ = run(estimator, 2, quadratic, params=start)
    x = start
    for step, (value, grad, _) in enumerate(outputs):
        d = one_perturbation(estimator, noise.gaussian(rms=0.2), start, step)
        g = a @ (x + d)
        if lam is None:
            end = x + d + 0.3 * g / jnp.linalg.norm(g)
        else:
            end = x + 0.3 * (lam * d + g) / jnp.linalg.norm(lam * d + g)
        np.testing.assert_allclose(grad, a @ end, rtol=1e-10)
        np.testing.assert_allclose(value, end @ a @ end / 2, rtol=1e-10)
        x = x - 0.1 * a @ end


@pytest.mark.parametrize("steps", [1, 2])
def test_xsam_on_a_quadratic(steps, double):
    """In the plane of v0 and v1, v(alpha) is v0 turned by alpha times their angle."""
    start, a, _ = double
    estimator = methods.xsam(0.3, steps=steps, rho_max=0.8, alpha_grid=(0.0, 0.5, 1.7, 2.0))
    ((_, grad, _),), state = run(estimator, 1, quadratic, params=start)
    end = start
    for _ in range(steps):
        end = end + 0.3 / steps * a @ end / jnp.linalg.norm(a @ end)
    last = a @ end
    angle_of = lambda v: jnp.arctan2(v[1], v[0])  # noqa: E731
    from_angle, to_angle = angle_of(end - start), angle_of(last)
    losses = []
    for alpha in (0.0, 0.5, 1.7, 2.0):
        angle = from_angle + alpha * (to_angle - from_angle)
        losses.append(quadratic(start + 0.8 * jnp.array([jnp.cos(angle), jnp.sin(angle)])))
        if alpha == state.alpha:
            desired = jnp.linalg.norm(last) * jnp.array([jnp.cos(angle), jnp.sin(angle)])
    np.testing.assert_allclose(state.losses, jnp.stack(losses), rtol=1e-9)
    assert jnp.max(state.losses) == state.losses[(0.0, 0.5, 1.7, 2.0).index(float(state.alpha))]
    np.testing.assert_allclose(grad, desired, rtol=1e-8)


# XSAM's search.


def test_the_search_comes_every_n_steps_and_alpha_stays_in_between():
    estimator = methods.xsam(0.3, rho_max=1.0, search_every=2)
    step, state, params = jax.jit(value_and_grad(loss, estimator)), estimator.init(PARAMS), PARAMS
    alphas, losses = [], []
    for k in range(4):
        (_, _), state = step(params, state, (-1.0) ** k * (1 + k) * X)
        alphas.append(float(state.alpha))
        losses.append(np.asarray(state.losses))
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(losses[2], losses[3])
    assert np.all(losses[0] != losses[2])
    assert alphas[0] == alphas[1]
    assert alphas[2] == alphas[3]
    for k in 0, 2:
        assert np.isclose(alphas[k], np.argmax(losses[k]) / 10)


@pytest.mark.parametrize("constant", [-60.0, 0.0, 60.0])
def test_a_constant_does_not_change_the_search(constant, double):
    start, _, _ = double
    estimator = methods.xsam(0.3, search_every=1)
    shifted = lambda x: quadratic(x) + constant  # noqa: E731
    outputs, state = run(estimator, 2, shifted, params=start)
    desired, desired_state = run(estimator, 2, quadratic, params=start)
    assert_close([o[1] for o in outputs], [o[1] for o in desired], rtol=1e-10)
    assert state.alpha == desired_state.alpha > 0


def test_equal_losses_choose_the_first_alpha():
    estimator = methods.xsam(0.3, alpha_grid=(0.4, 1.0), search_every=1)
    _, state = run(estimator, 1, lambda p: 0.0 * loss(p) + 3.0)
    assert state.alpha == jnp.float32(0.4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_losses_that_are_not_finite_are_not_chosen(bad):
    def broken(x):  # from 0, the direction to the right is v0 and upwards is v1
        return jnp.where(x[1] > 0.75, bad, x[0] + 3 * x[1] ** 2 + 8 * x[0] * x[1])

    estimator = methods.xsam(0.1, rho_max=1.0, search_every=1)
    _, state = run(estimator, 1, broken, params=jnp.zeros(2))
    losses = np.asarray(state.losses)
    finite = np.isfinite(losses)
    assert 0 < finite.sum() < 21
    best = np.argmax(np.where(finite, losses, -np.inf))
    np.testing.assert_allclose(state.alpha, best / 10, rtol=1e-6)


def test_without_a_finite_loss_alpha_stays():
    estimator = methods.xsam(0.3, alpha=0.7, search_every=1)
    ((_, grad, _),), state = run(estimator, 1, lambda p: jnp.nan * loss(p))
    np.testing.assert_allclose(state.alpha, 0.7, rtol=1e-6)
    assert all(jnp.all(jnp.isnan(g)) for g in jax.tree.leaves(grad))


def test_rounding_of_the_inner_product_is_no_nan():
    """On an isotropic quadratic both directions are one, and rounding takes them beyond 1."""
    estimator = methods.xsam(0.3, alpha=1.7, search_every=None)
    step = jax.jit(
        jax.vmap(lambda x: value_and_grad(lambda x: x @ x, estimator)(x, estimator.init(x))[0])
    )
    xs = jax.random.normal(jax.random.key(0), (300, 17))
    _, grads = step(xs)
    length = jnp.linalg.norm(xs, axis=1, keepdims=True)
    np.testing.assert_allclose(grads, 2 * xs * (1 + 0.3 / length), rtol=2e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_opposite_directions_are_finite():
    """One parameter, and an ascent beyond the maximum."""
    estimator = methods.xsam(1.0, search_every=1)
    fun = lambda x: -(x**2)  # noqa: E731
    for dtype in jnp.float32, jnp.bfloat16:
        (_, grad), state = value_and_grad(fun, estimator)(
            dtype(-0.25), estimator.init(dtype(-0.25))
        )
        assert jnp.isfinite(grad)
        assert jnp.isfinite(state.alpha)


def test_rho_max_is_twice_rho_by_default():
    default = run(methods.xsam(0.3, search_every=1))[1]
    given = run(methods.xsam(0.3, rho_max=0.6, search_every=1))[1]
    other = run(methods.xsam(0.3, rho_max=0.9, search_every=1))[1]
    assert_close(default.losses, given.losses, rtol=1e-6)
    assert_differ(default.losses, other.losses)


def test_calls_of_the_oracle_are_its_cost():
    for estimator, steps in (methods.xsam(0.3, steps=2, search_every=3), 3), (MAKERS["xsam"](), 4):
        calls, oracle = [], make_oracle(loss)
        counting = Oracle(
            lambda p: calls.append("gradient") or oracle.evaluate(p),  # noqa: B023 - used here
            lambda p: calls.append("value") or oracle.value(p),  # noqa: B023
        )
        state = estimator.init(PARAMS)
        with jax.disable_jit():
            for _ in range(steps):
                _, state = estimator.estimate(counting, PARAMS, state)
        assert calls.count("gradient") == steps * estimator.cost.gradients
        assert calls.count("value") == pytest.approx(steps * estimator.cost.values)
        assert calls.count("value") > 0


# Numbers, masks, limits.

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
    scheduled = jax.jit(value_and_grad(loss, estimator))
    fixed = jax.jit(lambda number, state, x: value_and_grad(loss, make(number))(PARAMS, state, x))
    state, xs = estimator.init(PARAMS), X * jnp.arange(1.0, 4.0)[:, None, None]
    gaps = []
    for number, x in zip((first, second, first), xs, strict=True):
        results = [scheduled(PARAMS, state, x)]
        results += [fixed(jnp.float32(n), state, x) for n in (number, first)]
        actual, desired, other = ([key_data(y) for y in jax.tree.leaves(r)] for r in results)
        for y, z in zip(actual, desired, strict=True):
            np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)
        gaps += [np.max(np.abs(y - z), initial=0) for y, z in zip(actual, other, strict=True)]
        _, state = results[0]
    assert max(gaps) > 1e-3


def key_data(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


@every
def test_masked_leaves_do_not_take_part(name):
    """They are not perturbed, nor averaged, and their gradient does not enter any norm."""
    masked = MAKERS[name](mask={"w": True, "b": False})

    def only_w(p):
        return loss({"w": p["w"], "b": PARAMS["b"]})

    ((value, grad, _),), _ = run(masked, 1)
    without_b = MAKERS[name]()
    step, params = value_and_grad(only_w, without_b), {"w": PARAMS["w"]}
    if name.startswith("rsam"):  # with as many keys, so that w gets the same noise
        params = {"b": jnp.zeros(0), "w": PARAMS["w"]}
        masked_again = run(MAKERS[name](mask=lambda p: {"w": True, "b": False}), 1)[0]
        assert_close(masked_again[0][:2], (value, grad), rtol=0, atol=0)
        return
    (desired, desired_grad), _ = step(params, without_b.init(params))
    np.testing.assert_allclose(value, desired, rtol=1e-5)
    np.testing.assert_allclose(grad["w"], desired_grad["w"], rtol=1e-5, atol=1e-6)
    assert grad["b"].shape == (2,)


def test_averages_are_kept_of_masked_leaves_only():
    for maker in methods.vasso, methods.fsam:
        state = maker(0.3, mask={"w": True, "b": False}).init(PARAMS)
        assert state.average["b"] is None
        assert state.average["w"].shape == (2, 2)


@every
def test_constant_losses_one_parameter_and_empty_leaves(name):
    for fun in (lambda p: 0.0 * loss(p)), (lambda p: jnp.float32(2.0)):
        outputs, _ = run(MAKERS[name](), 3, fun)
        assert all(jnp.all(g == 0) for _, grad, _ in outputs for g in jax.tree.leaves(grad))
    outputs, _ = run(MAKERS[name](), 3, lambda x: jnp.sin(3 * x), params=jnp.float32(0.4))
    assert all(jnp.isfinite(g) for _, g, _ in outputs)
    with_empty = {**PARAMS, "e": jnp.zeros((0, 3)), "f": jnp.zeros((2, 0))}
    outputs, _ = run(MAKERS[name](), 3, lambda p: loss(p) + jnp.sum(p["e"]), params=with_empty)
    assert all(jnp.isfinite(value) for value, _, _ in outputs)
    assert outputs[-1][1]["e"].shape == (0, 3)


@every
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_bfloat16_parameters_follow_float32(name):
    wide = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), PARAMS)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide)
    (_, grad, _), *_ = run(MAKERS[name](), 1, lambda p: loss(p, X.astype(p["w"].dtype)), narrow)[0]
    (_, desired, _), *_ = run(MAKERS[name](), 1, params=wide)[0]
    assert all(g.dtype == jnp.bfloat16 for g in jax.tree.leaves(grad))
    if name not in {"xsam", "xsam-steps"}:  # whose search may turn on a rounding
        assert_close(jax.tree.map(jnp.float32, grad), desired, rtol=0.1, atol=0.06)


@pytest.mark.parametrize("name", ["vasso", "fsam"])
def test_one_gradient_that_is_not_finite_does_not_stay_in_the_average(name):
    estimator = MAKERS[name]()
    step, state = jax.jit(value_and_grad(loss, estimator)), estimator.init(PARAMS)
    _, before = step(PARAMS, state, X)
    (value, _), after = step(PARAMS, before, X * jnp.nan)
    assert jnp.isnan(value)
    assert_close(after.average, before.average, rtol=0, atol=0)
    assert after.step == 2
    (value, grad), _ = step(PARAMS, after, X)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((value, grad)))


def test_the_users_key_survives_donation():
    key = jax.random.key(3)
    estimator = methods.rsam(0.3, gamma=0.1, key=key)
    step = jax.jit(value_and_grad(loss, estimator), donate_argnums=1)
    step(PARAMS, estimator.init(PARAMS))
    assert not key.is_deleted()


def test_steps_draw_different_noise_and_keys_do_too():
    fixed = lambda p: loss(PARAMS) + 0.0 * loss(p) + p["w"][0, 0]  # noqa: E731
    values = {}
    for key in 0, 1:
        outputs, _ = run(methods.rsam(0.0, gamma=0.1, key=key), 2, fixed)
        values |= {(key, k): float(o[0] - o[2]["w"][0, 0]) for k, o in enumerate(outputs)}
    assert len(set(values.values())) == 4


def test_leaf_scaled_noise_has_the_length_of_its_leaf():
    params = {**PARAMS, "zero": jnp.zeros(3), "empty": jnp.zeros((0, 2)), "scalar": jnp.float32(-2)}
    for dtype, rtol in (jnp.float32, 1e-5), (jnp.bfloat16, 2e-2):
        cast = jax.tree.map(lambda x: x.astype(dtype), params)  # noqa: B023 - used here
        eps = noise.leaf_scaled(0.1)(jax.random.key(0), cast)
        for name, w in cast.items():
            assert eps[name].dtype == dtype
            desired = 0.1 * jnp.linalg.norm(jnp.ravel(w.astype(jnp.float32)))
            length = jnp.linalg.norm(jnp.ravel(eps[name].astype(jnp.float32)))
            np.testing.assert_allclose(length, desired, rtol=rtol)
    assert noise.leaf_scaled(0.0) is noise.none
    scheduled = noise.leaf_scaled(lambda step: 0.1 * step)
    assert noise.law_at(scheduled, 1)(jax.random.key(0), PARAMS)["w"].any()


NUMBER = "must be a finite number >= 0"
SHARE = "must be a number between 0 and 1"
ERRORS = {
    "vasso-rho": (lambda: methods.vasso(-1), rf"`vasso\(rho=...\)` {NUMBER}, got -1"),
    "vasso-theta": (lambda: methods.vasso(0.1, 1.5), rf"`vasso\(theta=...\)` {SHARE}, got 1.5"),
    "fsam-rho": (lambda: methods.fsam(np.nan), rf"`fsam\(rho=...\)` {NUMBER}, got nan"),
    "fsam-sigma": (lambda: methods.fsam(0.1, -2), rf"`fsam\(sigma=...\)` {NUMBER}, got -2"),
    "fsam-lmbda": (lambda: methods.fsam(0.1, 1, 2), rf"`fsam\(lmbda=...\)` {SHARE}, got 2"),
    "rsam-rho": (lambda: methods.rsam(-1, gamma=1), rf"`rsam\(rho=...\)` {NUMBER}, got -1"),
    "rsam-gamma": (lambda: methods.rsam(1, gamma=-1), rf"`rsam\(gamma=...\)` {NUMBER}, got -1"),
    "rsam-lam": (lambda: methods.rsam(1, gamma=1, lam=-1), rf"`rsam\(lam=...\)` {NUMBER}, got -1"),
    "rsam-scaling": (
        lambda: methods.rsam(1, gamma=1, scaling="row"),
        r"`rsam\(scaling=...\)` must be one of 'filter', 'leaf', 'none', got 'row'",
    ),
    "xsam-rho": (lambda: methods.xsam(-1), rf"`xsam\(rho=...\)` {NUMBER}, got -1"),
    "xsam-rho_max": (lambda: methods.xsam(1, rho_max=-1), rf"`xsam\(rho_max=...\)` {NUMBER}"),
    "xsam-alpha": (lambda: methods.xsam(1, alpha=-1), rf"`xsam\(alpha=...\)` {NUMBER}, got -1"),
    "xsam-steps": (lambda: methods.xsam(1, steps=0), r"`xsam\(steps=...\)` must be a positive"),
    "xsam-every": (
        lambda: methods.xsam(1, search_every=0),
        r"`xsam\(search_every=...\)` must be a positive integer, got 0",
    ),
    "xsam-grid": (lambda: methods.xsam(1, alpha_grid=()), r"`xsam\(alpha_grid=...\)` must have at"),
    "xsam-in-grid": (lambda: methods.xsam(1, alpha_grid=(-1,)), rf"\(alpha_grid=...\)` {NUMBER}"),
    "leaf_scaled": (
        lambda: noise.leaf_scaled(-1.0),
        rf"`leaf_scaled\(gamma=...\)` {NUMBER}, got -1.0",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("grid", ["012", 3.0])
def test_a_grid_that_is_no_sequence(grid):
    with pytest.raises(TypeError, match=r"`xsam\(alpha_grid=...\)` must be a sequence of numbers"):
        methods.xsam(0.1, alpha_grid=grid)
