"""Mistakes in users' own estimators and calls raise an error that names them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsam_jax import (
    GradientEstimator,
    estimate_gradient,
    methods,
    noise,
    sharpness_aware,
    tilting,
    value_and_grad,
)

W = jnp.array([1.0, 2.0])
X = jnp.arange(8.0).reshape(4, 2)
ROWS = jnp.arange(4.0)


def square(p):
    return jnp.sum(p**2)


def estimator(*, init=lambda p: ((), {}), **changes):
    """Estimator of the plain gradient with some fields of its evaluation replaced."""
    return GradientEstimator(
        init, lambda loss, p, m, *, step, key: (loss(p)._replace(**changes), m)
    )


def one_step(estimator, fun=square, *args):
    step = value_and_grad(fun, estimator)
    return step(W, step.init(W), *args)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grad": jnp.ones((3, 2))}, r"`grad` like `params`: float32 of shape \\(2,\\), got"),
        ({"grad": jnp.float32(1)}, r"`grad` like `params`"),
        ({"grad": {"a": W}}, r"`grad` like `params`"),
        ({"value": jnp.ones(3)}, r"a `value`: float32 of shape \\(\\), got float32 of shape"),
        ({"metrics": {"odd": 1.0}}, r"the `metrics` of `init`.*odd"),
    ],
)
def test_what_an_estimator_returns_is_checked(changes, message):
    with pytest.raises(ValueError, match=message.replace("\\\\", "\\")):
        one_step(estimator(**changes))


def test_numbers_that_a_cast_would_spoil_are_refused():
    init = lambda p: (0, {"alpha": jnp.array(0)})  # noqa: E731 - integers, by mistake
    with pytest.raises(ValueError, match=r"alpha is int32 of shape \(\), got float32"):
        one_step(estimator(init=init, metrics={"alpha": jnp.float32(0.7)}))
    grow = GradientEstimator(lambda p: (0, {}), lambda loss, p, m, *, step, key: (loss(p), m + 0.5))
    with pytest.raises(ValueError, match=r"the memory of `init`: int32 of shape \(\), got float32"):
        one_step(grow)


def test_python_numbers_are_arrays():
    init = lambda p: (0.0, {"alpha": 0.0})  # noqa: E731
    mine = estimator(init=init, value=2.0, metrics={"alpha": 1})
    (value, _), state = one_step(methods.m_sam(mine, 2, batch=1), lambda p, x: square(p), X)
    assert (value, state.last.metrics["alpha"], state.memory) == (2.0, 1.0, 0.0)


@pytest.mark.parametrize("result", [lambda e: e, lambda e: (e, (), ()), lambda e: None])
def test_estimate_returns_a_pair(result):
    mine = GradientEstimator(lambda p: ((), {}), lambda loss, p, m, *, step, key: result(loss(p)))
    with pytest.raises(TypeError, match=r"`estimate` must return \(`Evaluation`, memory\), got a"):
        one_step(mine)


def test_init_returns_a_pair():
    with pytest.raises(TypeError, match=r"`init` of an estimator must return \(memory, metrics\)"):
        one_step(estimator(init=lambda p: ()))


def test_a_state_that_is_none_is_named():
    step = value_and_grad(square, methods.sam(0.1))
    optimizer, chained = sharpness_aware(optax.sgd(0.1), methods.sam(0.1)), methods.sam(0.1)
    chained = estimate_gradient(chained)
    for call in (
        lambda: step(W, X),
        lambda: step(step.init(W), W),
        lambda: optimizer.update(None, W, optimizer.init(W), value_fn=square),
        lambda: chained.update(None, W, chained.init(W), value_fn=square),
    ):
        with pytest.raises(TypeError, match=r"`state` must be the return value of `init"):
            call()
    with pytest.raises(
        TypeError, match=r"`value_and_grad\(fun=...\)` must be a function, got None"
    ):
        value_and_grad(None, methods.sam(0.1))


def test_a_batch_behind_variable_arguments_is_the_batch_or_is_refused():
    """By position or keyword; the name of a variadic parameter is not an argument."""

    def loss(p, x, *extras, batch):
        return x * jnp.sum(p) + jnp.mean(batch @ p) ** 2 + jnp.mean(extras[1]) * jnp.sum(p)

    split = value_and_grad(loss, methods.m_sam(methods.sam(0.1), 2))
    (_, grad), _ = split(W, split.init(W), 1.0, jnp.float32(1), ROWS, batch=X)
    halves = []
    for half in (X[:2], X[2:]):
        sam = value_and_grad(loss, methods.sam(0.1))
        halves.append(sam(W, sam.init(W), 1.0, jnp.float32(1), ROWS, batch=half)[0][1])
    np.testing.assert_allclose(grad, sum(halves) / 2, rtol=1e-6)

    several = lambda p, *batch: jnp.mean(batch[0] @ p) ** 2 + jnp.mean(batch[1])  # noqa: E731
    with pytest.raises(TypeError, match=r"`batch='batch'` .*must name an argument of the loss"):
        one_step(methods.m_sam(methods.sam(0.1), 1), several, X, ROWS)
    one_step(methods.m_sam(methods.sam(0.1), 1, batch=(1, 2)), several, X, ROWS)


@pytest.mark.parametrize("batch", [["x"], ("batch", "batch"), -1, 0, (), True, None, 0.5])
def test_names_of_a_batch_are_checked_before_any_step(batch):
    for make in (methods.m_sam, methods.microbatched):
        with pytest.raises(TypeError, match=r"\(batch=...\)` must be the name or the position"):
            make(methods.sam(0.1), 2, batch=batch)
    if batch is not True:
        with pytest.raises(TypeError, match=r"`tsam\(split_batch=...\)` must be the name"):
            methods.tsam(1.0, 0.1, 2, split_batch=batch)


@pytest.mark.parametrize("key", [2**40, -(2**40)])
def test_seeds_that_would_wrap_are_refused(key):
    with pytest.raises(ValueError, match=r"`key` must be a seed from -2\^31 to 2\^32 - 1"):
        value_and_grad(square, methods.sam(0.1), key=key)


def test_data_of_another_kind_of_key_are_refused():
    with pytest.raises(TypeError, match="`key` must be an integer seed or a single PRNG key"):
        value_and_grad(square, methods.sam(0.1), key=jnp.zeros(4, jnp.uint32))
    state = value_and_grad(square, methods.sam(0.1), key=jax.random.key(0, impl="rbg")).init(W)
    with pytest.raises(TypeError, match=r"`key` of the state must have the shape .* got \(4,\)"):
        value_and_grad(square, methods.sam(0.1))(W, state)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_automatic_tilt_of_nothing_finite_is_not_finite(compiled):
    step = value_and_grad(
        lambda p: jnp.sum(p) * jnp.nan, methods.tsam(tilting.AutoTilt(0.5), 0.1, 3)
    )
    (value, grad), state = (jax.jit(step) if compiled else step)(W, step.init(W))
    assert np.isnan([value, *grad, state.last.metrics["tilt"]]).all()


def test_a_plain_gradient_that_is_not_finite_is_a_sample_that_is_not():
    """Whether or not the zeros of noise and ascent are known before tracing."""

    @jax.custom_vjp
    def bad(p):
        return square(p)

    bad.defvjp(lambda p: (square(p), p), lambda p, g: (p * jnp.inf,))
    for made in (
        methods.tilted_sampling(1.0, 2, noise=noise.none),
        methods.tsam_hmc(1.0, 2, radius=0.0, beta=0.1),
    ):
        _, state = one_step(made, bad)
        metrics = state.last.metrics
        assert np.isnan(metrics["losses"]).all()
        assert np.isnan(metrics["weights"]).all()


@pytest.mark.parametrize("search", ["backtracking", "lbfgs"])
def test_a_line_search_ignores_arguments_that_are_not_its_own(search):
    base = optax.lbfgs(memory_size=2)
    if search == "backtracking":
        base = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))
    optimizer, of_scale = (
        sharpness_aware(base, methods.sam(0.1)),
        lambda p, **kw: square(p) * kw["a"],
    )
    updates, _ = optimizer.update(None, optimizer.init(W), W, value_fn=of_scale, a=1.0, other=2)
    expected, _ = optimizer.update(None, optimizer.init(W), W, value_fn=square)
    np.testing.assert_array_equal(updates, expected)


def test_an_accumulating_base_keeps_its_extra_arguments():
    optimizer = sharpness_aware(optax.MultiSteps(optax.polyak_sgd(0.1), 2), methods.sam(0.1))
    state = optimizer.init(W)
    for _ in range(2):
        updates, state = optimizer.update(None, state, W, value_fn=square)
    assert (updates < 0).all()


def test_a_mask_may_be_a_callable_tree():
    """Such as an equinox module of booleans."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Net:
        w: jax.Array
        b: jax.Array

        def __call__(self, x):
            return x @ self.w + self.b

    net = Net(jnp.ones((2, 3)), jnp.ones(3))
    mask = jax.tree.map(lambda x: x.ndim > 1, net)
    fun = lambda net: jnp.sum(net(X) ** 2)  # noqa: E731
    (_, grad), _ = (step := value_and_grad(fun, methods.sam(0.1, mask=mask)))(net, step.init(net))
    by_function = value_and_grad(fun, methods.sam(0.1, mask=methods.matrices))
    (_, expected), _ = by_function(net, by_function.init(net))
    jax.tree.map(np.testing.assert_array_equal, grad, expected)
