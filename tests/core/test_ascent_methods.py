"""ASAM, PGN, WSAM, GSAM, ESAM2, LookSAM: closed forms, identities and edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_table import TABLE, make

from tsam_jax import Oracle, make_oracle, methods, value_and_grad

NAMES = ("asam", "pgn", "wsam", "gsam", "esam2", "looksam")

X = np.array([[0.3, -1.1], [0.7, 0.2]])  # NumPy, so that it is float64 where JAX is
PARAMS = {"w": X, "b": np.array([0.1, -0.2])}

pytestmark = pytest.mark.usefixtures("fast_compile")


def loss(p):
    return jnp.sum(jnp.tanh(X @ p["w"] + p["b"]) ** 2) + 0.1 * jnp.sum(p["w"] ** 4)


def evaluate(estimator, params=PARAMS, fun=loss, state=None):
    params = jax.tree.map(jnp.asarray, params)
    state = estimator.init(params) if state is None else state
    (value, grad), state = jax.jit(value_and_grad(fun, estimator))(params, state)
    return value, grad, state


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


# Closed forms on L = x^T A x / 2, where g(x) = A x.


def quadratic(d=5):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    a = basis @ np.diag(np.linspace(0.5, 4.0, d)) @ basis.T
    return a, (lambda x: x @ jnp.asarray(a) @ x / 2), np.linspace(-1.0, 2.0, d)


def unit(x):
    return x / np.sqrt(np.sum(x**2))


def in_numpy(name, a, x):
    """The gradient of a method at rho = 0.3 by its printed formula."""
    g, rho = a @ x, 0.3
    at_sam = a @ (x + rho * unit(g))
    if name == "asam":
        t = np.diag(np.abs(x) + 0.05)
        return a @ (x + rho * t @ t @ g / np.sqrt(np.sum((t @ g) ** 2)))
    if name == "gsam":
        cosine = g @ at_sam / np.sqrt(g @ g) / np.sqrt(at_sam @ at_sam)
        return at_sam - 0.4 * (g - np.sqrt(g @ g) * cosine * unit(at_sam))
    share = {"pgn": 1.7, "wsam": 0.3 / 0.7}[name]
    return (1 - share) * g + share * at_sam


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("asam", {"eta": 0.05, "adapt": True}),
        ("pgn", {"alpha": 1.7}),
        ("wsam", {"gamma": 0.3}),
        ("gsam", {"alpha": 0.4}),
    ],
)
def test_of_a_quadratic(name, arguments, x64):
    a, fun, x = quadratic()
    _, grad, _ = evaluate(methods.METHODS[name](0.3, **arguments), jnp.asarray(x), fun)
    np.testing.assert_allclose(grad, in_numpy(name, a, x), rtol=1e-11)


def test_values_are_those_of_what_is_minimised(x64):
    a, fun, x = quadratic()
    here, there = fun(x), fun(x + 0.3 * unit(a @ x))
    for estimator, value in (
        (methods.pgn(0.3, 1.7), -0.7 * here + 1.7 * there),
        (methods.wsam(0.3, 0.3), here + 0.3 / 0.7 * (there - here)),
        (methods.gsam(0.3, 0.4), there),
        (methods.esam2((0.3,)), there),
        (methods.looksam(0.3), here),
    ):
        np.testing.assert_allclose(evaluate(estimator, jnp.asarray(x), fun)[0], value, rtol=1e-12)


def test_esam2_of_a_quadratic_is_sam_with_the_largest_step(x64):
    _, fun, x = quadratic()
    value, grad, state = evaluate(methods.esam2((0.3, 0.05, 0.1)), jnp.asarray(x), fun)
    sam_value, sam_grad, _ = evaluate(methods.sam(0.3), jnp.asarray(x), fun)
    np.testing.assert_allclose(grad, sam_grad, rtol=1e-12)
    np.testing.assert_allclose(value, sam_value, rtol=1e-12)
    assert state.rho == 0.3
    assert np.all(np.diff(state.losses) > 0)


def test_looksam_of_a_quadratic(x64):
    """Five steps of gradient descent with k = 3; rho and alpha follow the step counter."""
    a, fun, x = quadratic()
    rho, alpha = (lambda k: 0.3 + 0.1 * k), (lambda k: 0.5 + 0.1 * k)
    estimator = methods.looksam(rho, every=3, alpha=alpha)
    params, state = jnp.asarray(x), estimator.init(jnp.asarray(x))
    step = jax.jit(value_and_grad(fun, estimator))
    for k in range(5):
        g = a @ x
        if k % 3 == 0:
            desired = a @ (x + rho(k) * unit(g))
            gv = desired - (desired @ unit(g)) * unit(g)
        else:
            desired = g + alpha(k) * np.sqrt(g @ g) * unit(gv)
        (_, grad), state = step(params, state)
        np.testing.assert_allclose(grad, desired, rtol=1e-9)
        np.testing.assert_allclose(state.sharp, gv, rtol=1e-9, atol=1e-12)
        x, params = x - 0.1 * desired, params - 0.1 * grad
    assert state.step == 5


# Identities.

SAM_LIKE = {
    "pgn": {"rho": 0.2, "alpha": 1.0},
    "wsam": {"rho": 0.2, "gamma": 0.5},
    "gsam": {"rho": 0.2, "alpha": 0.0},
    "asam": {"rho": 0.2, "adapt": False},
    "esam2": {"rhos": (0.2,)},
    "looksam": {"rho": 0.2, "every": 1},
}


@pytest.mark.parametrize("mask", [None, {"w": True, "b": False}])
@pytest.mark.parametrize("name", SAM_LIKE)
def test_special_cases_are_sam(name, mask, x64):
    value, grad, _ = evaluate(methods.METHODS[name](**SAM_LIKE[name], mask=mask))
    sam_value, sam_grad, _ = evaluate(methods.sam(0.2, mask=mask))
    assert_close(grad, sam_grad, rtol=1e-12, atol=1e-13)
    if name != "looksam":
        np.testing.assert_allclose(value, sam_value, rtol=1e-14)


def test_wsam_is_pgn(x64):
    assert_close(
        evaluate(methods.wsam(0.2, 0.9))[:2], evaluate(methods.pgn(0.2, 9.0))[:2], rtol=1e-10
    )


def test_asam_of_parameters_of_size_1_is_sam(x64):
    ones = jax.tree.map(jnp.sign, PARAMS)
    asam = methods.asam(0.2, eta=0.0, adapt=True)
    assert_close(evaluate(asam, ones)[:2], evaluate(methods.sam(0.2), ones)[:2], rtol=1e-12)


def test_gsam_with_adapt_and_without_alpha_is_asam(x64):
    gsam = methods.gsam(0.5, 0.0, adapt={"w": True, "b": False}, eta=0.01)
    assert_close(evaluate(gsam)[:2], evaluate(methods.asam(0.5))[:2], rtol=1e-12)


def test_a_traced_alpha_of_0_is_the_plain_gradient():
    pgn = jax.jit(lambda alpha: evaluate(methods.pgn(0.2, alpha))[1])(0.0)
    assert_close(pgn, jax.grad(loss)(PARAMS), rtol=1e-6)


def test_gsam_takes_away_what_is_orthogonal_to_sam(x64):
    plain, sam = flat(jax.grad(loss)(PARAMS)), flat(evaluate(methods.sam(0.2))[1])
    removed = sam - flat(evaluate(methods.gsam(0.2, 0.4))[1])
    assert abs(removed @ sam) < 1e-12 * (sam @ sam)
    assert removed @ plain > 0  # so the step descends less on the loss, and on the gap more
    np.testing.assert_allclose((plain - removed / 0.4) @ sam, plain @ sam, rtol=1e-12)
    assert np.linalg.matrix_rank(np.stack([plain, sam, removed]), tol=1e-9) == 2


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


# ASAM's sizes.


def points_of(estimator, params=PARAMS, fun=loss, steps=1):
    """The points where gradients are taken, eagerly."""
    params = jax.tree.map(jnp.asarray, params)
    points, oracle, state = [], make_oracle(fun), estimator.init(params)

    def evaluate_and_note(point):
        points.append(point)
        return oracle.evaluate(point)

    with jax.disable_jit():
        for _ in range(steps):
            _, state = estimator.estimate(Oracle(evaluate_and_note, oracle.value), params, state)
    return points


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


# ESAM2's search.


def test_ties_go_to_the_smallest_step():
    plateau = lambda x: jnp.minimum(x, 1.0)  # noqa: E731
    estimator = methods.esam2((4.0, 0.5, 0.05, 2.0))
    value, _, state = evaluate(estimator, jnp.float32(0.9), plateau)
    np.testing.assert_allclose(state.losses, [0.95, 1.0, 1.0, 1.0])
    assert (value, state.rho) == (1.0, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_losses_that_are_not_finite_are_not_chosen(bad):
    broken = lambda x: jnp.where(jnp.abs(x - 1.6) < 0.2, bad, x)  # noqa: E731
    for rhos, best in ((0.2, 0.6, 0.4), 0.4), ((0.2, 0.6, 1.0), 1.0):
        _, grad, state = evaluate(methods.esam2(rhos), jnp.float32(1.0), broken)
        assert state.rho == jnp.float32(best)
        assert grad == 1.0


def test_the_worst_step_may_be_any():
    for rhos, worst in ((0.5, 1.0, 2.0), 1.0), ((1.2, 2.0, 3.0), 1.2), ((0.2, 0.9), 0.9):
        value, grad, state = evaluate(methods.esam2(rhos), jnp.float32(0.5), jnp.sin)
        assert state.rho == jnp.float32(worst)
        np.testing.assert_allclose(value, np.sin(0.5 + worst), rtol=1e-6)
        np.testing.assert_allclose(grad, np.cos(0.5 + worst), rtol=1e-5)


def test_step_sizes_may_be_traced_scheduled_and_arrays():
    desired = evaluate(methods.esam2((0.1, 0.4)))
    given = {
        "array": methods.esam2(np.array([0.4, 0.1])),
        "jax array": methods.esam2(jnp.array([0.4, 0.1])),
        "schedules": methods.esam2([lambda step: 0.4 + step, 0.1]),
    }
    for estimator in given.values():
        assert_close(evaluate(estimator), desired)
    traced = jax.jit(lambda rhos: evaluate(methods.esam2(rhos)))(jnp.array([0.1, 0.4]))
    assert_close(traced, desired)
    _, _, state = evaluate(given["schedules"], state=desired[2])
    assert state.rho == jnp.float32(1.4)


def test_probes_of_a_traced_step_are_traced_once():
    traces = []

    def counted(p):
        traces.append(1)
        return loss(p)

    evaluate(methods.esam2(tuple(np.geomspace(0.01, 0.5, 24))), fun=counted)
    assert len(traces) <= 3  # two gradients, and the probes


# LookSAM in between.


def test_looksam_looks_every_kth_step():
    points = points_of(methods.looksam(0.1, every=3), steps=7)
    clean = [bool(jnp.all(point["w"] == PARAMS["w"])) for point in points]
    assert clean == [True, False, True, True, True, False, True, True, True, False]
    jaxpr = jax.make_jaxpr(lambda s: evaluate(methods.looksam(0.1), state=s))(
        methods.looksam(0.1).init(PARAMS)
    )
    assert "cond[" in str(jaxpr)  # and does not pay for it in between


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("shape", [(), (7,)])
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_looksam_does_not_blow_up_rounding(shape, dtype, x64):
    """Where SAM's gradient is parallel to the plain one, there is nothing to add."""
    x = jnp.full(shape, 0.7, dtype)
    fun = lambda x: jnp.sum(jnp.square(x)) * dtype(1.3)  # noqa: E731
    estimator = methods.looksam(0.1, every=2)
    _, _, state = evaluate(estimator, x, fun)
    _, grad, state = evaluate(estimator, x, fun, state)
    np.testing.assert_array_equal(grad, jax.grad(fun)(x))
    assert not np.any(state.sharp)


def test_a_look_that_is_not_finite_is_not_kept():
    estimator = methods.looksam(0.1, every=1)
    _, _, state = evaluate(estimator)
    broken = lambda p: loss(p) / (p["b"][0] == PARAMS["b"][0])  # noqa: E731
    _, grad, after = evaluate(estimator, fun=broken, state=state)
    assert not np.all(np.isfinite(flat(grad)))
    assert_close(after.sharp, state.sharp, rtol=0, atol=0)
    assert after.step == 2


# The schedule of rho.


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


# Edge cases of all of them.


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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_one_parameter_and_empty_leaves(name, dtype, x64):
    """L = x^2: all gradients are at x or at x + rho."""
    params = {"x": jnp.asarray(0.5, dtype), "none": jnp.zeros((0, 3), dtype)}
    fun = lambda p: p["x"] ** 2 + jnp.sum(p["none"])  # noqa: E731
    estimator, state = make(name), None
    for _ in range(2):
        value, grad, state = evaluate(estimator, params, fun, state)
        assert grad["x"].dtype == dtype
        assert grad["none"].shape == (0, 3)
        assert 0.9 < grad["x"] < 1.5
        assert 0.2 < value < 0.6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_other_precisions_are_float32_to_rounding(name, dtype, x64):
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)  # noqa: E731
    rounded = jax.tree.map(lambda x: x.astype(jnp.float32), cast(PARAMS))
    wide = lambda p: loss(jax.tree.map(lambda x: x.astype(jnp.float32), p))  # noqa: E731
    estimator = make(name)
    states = [estimator.init(p) for p in (cast(PARAMS), rounded)]
    for _ in range(2):
        value, grad, states[0] = evaluate(estimator, cast(PARAMS), wide, states[0])
        desired_value, desired, states[1] = evaluate(estimator, rounded, wide, states[1])
        tolerance = 0.04 if dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(value, desired_value, rtol=tolerance)
        error = np.linalg.norm(flat(grad).astype(np.float64) - flat(desired))
        assert error < tolerance * np.linalg.norm(flat(desired))


ERRORS = {
    "asam-rho": (lambda: methods.asam(-1.0), r"`asam\(rho=...\)` must be a finite number >= 0"),
    "asam-eta": (lambda: methods.asam(1.0, eta=-0.1), r"`asam\(eta=...\)` must .*got -0.1"),
    "pgn-alpha": (lambda: methods.pgn(1.0, -1), r"`pgn\(alpha=...\)` must be .*>= 0, got -1"),
    "pgn-alpha-inf": (lambda: methods.pgn(1.0, np.inf), r"`pgn\(alpha=...\)` .*got inf"),
    "wsam-rho": (lambda: methods.wsam(np.nan, 0.5), r"`wsam\(rho=...\)` must be .*got nan"),
    "wsam-gamma": (
        lambda: methods.wsam(0.1, 1.0),
        r"`wsam\(gamma=...\)` must be a number of at least 0 and below 1, got 1.0",
    ),
    "gsam-alpha": (lambda: methods.gsam(0.1, -0.4), r"`gsam\(alpha=...\)` must .*got -0.4"),
    "esam2-none": (lambda: methods.esam2(()), r"`esam2\(rhos=...\)` must have at least one"),
    "esam2-rho": (lambda: methods.esam2((0.1, -2)), r"`esam2\(rhos=...\)` must .*got -2"),
    "looksam-alpha": (lambda: methods.looksam(0.1, alpha=-1), r"`looksam\(alpha=...\)`.*got -1"),
    "looksam-every": (
        lambda: methods.looksam(0.1, every=0),
        r"`looksam\(every=...\)` must be a positive integer, got 0",
    ),
    "rho_from_lr": (
        lambda: methods.rho_from_lr(0.1, rho_min=0, rho_max=1, lr_min=0.2, lr_max=0.1),
        r"`rho_from_lr\(lr_min=...\)` must be at most lr_max = 0.1, got 0.2",
    ),
    "rho_from_lr-rho": (
        lambda: methods.rho_from_lr(0.1, rho_min=-1, rho_max=1, lr_min=0, lr_max=0.1),
        r"`rho_from_lr\(rho_min=...\)` must be a finite number >= 0, got -1",
    ),
}

TYPE_ERRORS = {
    "esam2-number": (lambda: methods.esam2(0.1), r"`esam2\(rhos=...\)` must be a sequence.*0.1"),
    "esam2-string": (lambda: methods.esam2("0.1"), r"`esam2\(rhos=...\)` must be a sequence"),
    "looksam-every": (
        lambda: methods.looksam(0.1, every=2.0),
        r"`looksam\(every=...\)` must be an integer that is known before tracing, got 2.0",
    ),
    "asam-bool": (lambda: methods.asam(True), r"`asam\(rho=...\)` must be a number"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_values_out_of_range(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_types(case):
    call, message = TYPE_ERRORS[case]
    with pytest.raises(TypeError, match=message):
        call()


def test_cost_of_esam2_and_looksam():
    assert methods.esam2((0.1, 0.2, 0.3)).cost == (2, 3)
    assert methods.looksam(0.1, every=5).cost == (1.2, 0)
