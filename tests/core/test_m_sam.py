"""m-SAM: estimators on micro-batches, and on each device's share of the batch."""

import functools
from pathlib import Path

import contract_table
import device_programs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_contract
from contract_table import GAUSSIAN, batch, loss, parameters
from test_contract import flat

from tsam_jax import Loss, estimate_gradient, methods, value_and_grad

INNER = {
    "sam": methods.sam(0.3),
    "tsam": methods.tsam(2.0, 0.3, 2, noise=GAUSSIAN, strategy="unrolled"),
    "vasso": methods.vasso(0.3, 0.4),
    "fsam": methods.fsam(0.3, 0.5, 0.6),
    "rsam": methods.rsam(0.3, gamma=0.1),
    "xsam": methods.xsam(0.3, alpha_grid=(0.0, 1.0, 2.0), search_every=2),
}
every_inner = pytest.mark.parametrize("name", INNER)
strategies = pytest.mark.parametrize("strategy", ["unrolled", "streamed", "vectorized"])


def m_sam(inner, m, **options):
    return methods.m_sam(inner, m, batch="x", **options)


def close(actual, desired, rtol=2e-5, atol=1e-6):
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def hand_loop(inner, m, params, memory, k, x):
    """Runs step k on all micro-batches with one memory and key; averages all floats."""
    results = []
    for part in jnp.split(x, len(x) // m):
        step = {"step": k, "key": jax.random.fold_in(jax.random.key(0), k)}
        results.append(inner.estimate(Loss(loss, (part,)), params, memory, **step))

    def mean(*leaves):
        if jnp.issubdtype(leaves[0].dtype, jnp.floating):
            return sum(leaves) / len(leaves)
        return leaves[0]

    return jax.tree.map(mean, *results)


@functools.cache
def compiled_hand_loop(name):
    return jax.jit(functools.partial(hand_loop, INNER[name], 2))


@every_inner
@strategies
def test_hand_loop(name, strategy):
    step, params = value_and_grad(loss, m_sam(INNER[name], 2, strategy=strategy)), parameters()
    by_hand = compiled_hand_loop(name)
    state, step = step.init(params), jax.jit(step)
    memory, key = state.memory, state.key
    for k in range(3):
        (value, grad), state = step(params, state, batch(k))
        desired, memory = by_hand(params, memory, jnp.int32(k), batch(k))
        close((value, grad, state.memory), (desired.value, desired.grad, memory))
        close(tuple(state.last), (desired.value, desired.metrics))
    assert state.step == 3
    np.testing.assert_array_equal(state.key, key)


def test_closed_form_on_quadratics(x64):
    """L_i = (x - c_i)^T A (x - c_i) / 2, with one example per micro-batch."""
    a = jnp.diag(jnp.array([0.5, 2.0, 4.0])) + 0.1
    centres = jax.random.normal(jax.random.key(1), (4, 3), jnp.float64)
    x = jnp.array([1.0, -2.0, 0.5])

    def quadratic(x, centres):
        return jnp.mean(jax.vmap(lambda c: (x - c) @ a @ (x - c) / 2)(centres))

    step = value_and_grad(quadratic, methods.m_sam(methods.sam(0.3), 1, batch="centres"))
    (value, grad), _ = step(x, step.init(x), centres)
    ends = []
    for c in centres:
        g = a @ (x - c)
        ends.append(x - c + 0.3 * g / jnp.linalg.norm(g))
    np.testing.assert_allclose(grad, sum(a @ end for end in ends) / 4, rtol=1e-11)
    np.testing.assert_allclose(value, sum(end @ a @ end / 2 for end in ends) / 4, rtol=1e-11)
    step = value_and_grad(quadratic, methods.sam(0.3))
    (_, full), _ = step(x, step.init(x), centres)
    assert jnp.abs(full - grad).max() > 1e-2


def test_the_moving_average_is_that_of_the_mean_gradient():
    step, params = value_and_grad(loss, m_sam(methods.vasso(0.3, 0.4), 2)), parameters()
    state, step = step.init(params), jax.jit(step)
    for k in range(2):
        _, state = step(params, state, batch(k))
    first, second = (jax.grad(loss)(params, batch(k)) for k in range(2))
    close(state.memory, jax.tree.map(lambda a, b: 0.6 * a + 0.4 * b, first, second))


def test_schedules_count_steps_and_not_micro_batches():
    params = parameters()
    scheduled = value_and_grad(loss, m_sam(methods.sam(lambda step: 0.1 + 0.2 * step), 2))
    _, state = scheduled(params, scheduled.init(params), batch())
    (_, grad), _ = scheduled(params, state, batch(1))
    constant = value_and_grad(loss, m_sam(methods.sam(0.3), 2))
    (_, desired), _ = constant(params, constant.init(params), batch(1))
    close(grad, desired)


def test_both_adapters_agree_and_the_base_gets_the_batch():
    heard, params = {}, parameters()

    def listen(updates, state, params=None, **extra_args):
        heard.update(extra_args)
        return updates, state

    estimator = m_sam(methods.sam(0.3), 2)
    base = optax.GradientTransformationExtraArgs(lambda params: (), listen)
    optimizer = optax.chain(estimate_gradient(estimator), base)
    x = batch()
    updates, state = optimizer.update(None, optimizer.init(params), params, value_fn=loss, x=x)
    step = value_and_grad(loss, estimator)
    (value, grad), inner = step(params, step.init(params), x)
    close((updates, state[0]), (grad, inner), rtol=0, atol=0)
    assert value == inner.last.value
    assert set(heard) == {"value_fn", "x"}
    assert heard["x"] is x


def test_a_batch_does_not_matter_to_other_methods():
    sam, params = methods.sam(0.3), parameters()
    optimizer = estimate_gradient(sam)
    state = optimizer.init(params)
    actual = optimizer.update(None, state, params, value_fn=loss, x=batch())
    desired = optimizer.update(None, state, params, value_fn=lambda p: loss(p, batch()))
    close(actual, desired, rtol=0, atol=0)


@strategies
def test_aux_is_averaged_where_it_can_be(strategy):
    x, y = jnp.arange(6.0), jnp.arange(6)

    def fun(w, data, offset):
        x, y = data
        key = jax.random.fold_in(jax.random.key(0), jnp.sum(y))
        aux = {"mean": jnp.mean(x), "half": jnp.mean(x).astype(jnp.bfloat16), "y": y, "key": key}
        return jnp.sum(w * jnp.mean(x)) + offset, aux

    estimator = methods.m_sam(methods.sam(0.1), 2, batch="data", strategy=strategy)
    step, w = value_and_grad(fun, estimator, has_aux=True), jnp.ones(2)
    ((_, aux), grad), _ = jax.jit(step)(w, step.init(w), (x, y), offset=1.0)
    np.testing.assert_allclose(aux["mean"], 2.5)
    assert (aux["half"].dtype, float(aux["half"])) == (jnp.bfloat16, 2.5)
    np.testing.assert_array_equal(aux["y"], [0, 1])
    assert aux["key"] == jax.random.fold_in(jax.random.key(0), 1)
    np.testing.assert_allclose(grad, 2.5, rtol=1e-6)


@strategies
@pytest.mark.parametrize("name", ["sam", "tsam"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_dtypes_and_structures_are_stable(name, dtype, strategy, x64):
    optimizer = estimate_gradient(m_sam(INNER[name], 2, strategy=strategy))
    params = {**parameters(dtype), "wide": jnp.float32(2.0), "empty": jnp.zeros((0, 3), dtype)}

    def fun(p, x):
        return loss(p, x) + (p["wide"] ** 2).astype(dtype)

    def update(params, state):
        return optimizer.update(None, state, params, value_fn=fun, x=batch())

    state = jax.eval_shape(optimizer.init, params)
    updates, after = jax.eval_shape(update, params, state)
    assert described(updates) == described(jax.eval_shape(lambda: params))
    assert described(after) == described(state)


@pytest.mark.parametrize("name", ["sam", "tsam"])
def test_zero_gradients_are_finite_and_nan_reaches_the_base(name):
    params = parameters()
    base = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=5)
    optimizer = optax.chain(estimate_gradient(m_sam(INNER[name], 2)), base)

    def update(fun):
        state = optimizer.init(params)
        return optimizer.update(None, state, params, value_fn=fun, x=batch())

    updates, state = update(lambda p, x: 0.0 * loss(p, x))
    assert np.all(flat(updates) == 0)
    assert state[0].last.value == 0
    one_is_bad = batch()[3, 0]
    factor = lambda x: jnp.where(jnp.any(x == one_is_bad), jnp.nan, 1.0)  # noqa: E731
    updates, state = update(lambda p, x: factor(x) * loss(p, x))
    assert np.all(flat(updates) == 0)
    assert state[1].total_notfinite == 1


RULES = (
    test_contract.test_one_trace,
    test_contract.test_buffers_can_be_donated,
    test_contract.test_strict_modes_of_jax,
    test_contract.test_convergence,
)


@pytest.mark.parametrize("name", ["sam", "tsam"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_the_contract_holds_around(name, rule, monkeypatch):
    """The rules of test_contract.py, with a `value_fn` that takes the batch."""

    def make_step(optimizer):
        def step(params, state, x):
            updates, state = optimizer.update(None, state, params, value_fn=loss, x=x)
            return optax.apply_updates(params, updates), state

        return step

    def make_m_sam(**arguments):
        return m_sam(methods.METHODS[name](**arguments), 3)

    row = contract_table.TABLE[name]
    monkeypatch.setattr(test_contract, "make_step", make_step)
    monkeypatch.setitem(contract_table.TABLE, "m_sam", row)
    monkeypatch.setitem(methods.METHODS, "m_sam", make_m_sam)
    rule("m_sam")


AXIS = "must name arrays whose leading axis counts examples"


@pytest.mark.parametrize(
    ("m", "x", "message"),
    [
        (4, jnp.ones((6, 4)), r"`m_sam\(m=...\)` must divide the size of the batch, 6, got 4"),
        (8, jnp.ones((6, 4)), r"must divide the size of the batch, 6, got 8"),
        (2, jnp.ones((0, 4)), r"must divide the size of the batch, 0, got 2"),
        (
            2,
            (jnp.ones(6), jnp.ones(4)),
            r"`batch='x'` must name arrays with the same number of examples.*axes of \[4, 6\]",
        ),
        (2, (), r"`batch='x'` must name arrays with the same number of .* axes of no array"),
        (2, (jnp.ones(6), 1.0), rf"`batch='x'` {AXIS}, got float32 of shape \(\) at .*\[1\]"),
        (2, 1.0, rf"`batch='x'` {AXIS}, got float32 of shape \(\)\.$"),
        (2, jax.random.split(jax.random.key(0), 6), rf"{AXIS}, got key<fry> of shape \(6,\)\.$"),
    ],
)
def test_batches_that_cannot_be_split(m, x, message):
    step, w = value_and_grad(lambda w, x: jnp.sum(w), m_sam(methods.sam(0.1), m)), jnp.ones(2)
    with pytest.raises(ValueError, match=message):
        step(w, step.init(w), x)


def test_a_loss_that_knows_its_batch_is_a_clear_error():
    estimator, w = methods.m_sam(methods.sam(0.1), 2), jnp.ones(2)
    optimizer, step = estimate_gradient(estimator), value_and_grad(jnp.sum, estimator)
    named = r"`batch='batch'` \(of `m_sam` and .*must name an argument of the loss"
    message = rf"{named}.* called with the parameters only.*value_fn=loss, batch=batch"
    with pytest.raises(TypeError, match=message):
        optimizer.update(None, optimizer.init(w), w, value_fn=jnp.sum)
    with pytest.raises(TypeError, match=message):
        step(w, step.init(w))
    step = value_and_grad(loss, estimator)
    with pytest.raises(TypeError, match=rf"{named}.* called with `x`\. Pass the batch"):
        step(parameters(), step.init(parameters()), batch())
    with pytest.raises(TypeError, match=r"`value_fn` needs `x`, but `update` was called without"):
        optimizer.update(None, optimizer.init(parameters()), parameters(), value_fn=loss)


def two_arguments(w, weight, x, y):
    return weight * jnp.sum(w) * jnp.mean(x) + jnp.mean(y["y"] ** 2) * jnp.sum(w**2)


@pytest.mark.parametrize("wrap", [methods.m_sam, methods.microbatched])
@pytest.mark.parametrize("cut", [("x", "y"), (2, "y"), (2, 3), ("y", 2)])
def test_the_batch_is_found_by_name_and_by_position(cut, wrap, x64):
    """The other arguments are not split."""
    w, x, y = jnp.array([1.0, -2.0]), jnp.arange(6.0), {"y": jnp.arange(6.0) ** 2}
    step = value_and_grad(two_arguments, wrap(methods.sam(0.1), 2, batch=cut))
    actual = step(w, step.init(w), 3.0, x, y=y)
    same = step(w, step.init(w), 3.0, x=x, y=y)
    close(same, actual, rtol=0, atol=0)
    cut_by_hand = value_and_grad(
        lambda w, part: two_arguments(w, 3.0, part[0], y={"y": part[1]}),
        wrap(methods.sam(0.1), 2, batch="part"),
    )
    close(actual, cut_by_hand(w, step.init(w), (x, y["y"])), rtol=1e-12, atol=1e-13)
    (value, _), _ = actual
    (whole, _), _ = value_and_grad(two_arguments, methods.sam(0.1))(w, step.init(w), 3.0, x, y=y)
    assert (jnp.abs(value - whole) < 1e-12) == (wrap is methods.microbatched)


def test_arguments_that_are_out_of_range():
    sam = methods.sam(0.1)
    with pytest.raises(ValueError, match=r"`m_sam\(m=...\)` must be a positive integer, got 0"):
        methods.m_sam(sam, 0)
    with pytest.raises(TypeError, match=r"`m_sam\(m=...\)` must be an integer"):
        methods.m_sam(sam, 2.0)
    with pytest.raises(ValueError, match=r"`m_sam\(strategy=...\)` must be one of 'auto'"):
        methods.m_sam(sam, 2, strategy="vmap")
    for wrap in methods.m_sam, methods.microbatched:
        for cut in 0, True, 1.5, None, (), ("x", "x"):
            message = rf"`{wrap.__name__}\(batch=...\)` must be the name or the position of an arg"
            with pytest.raises(TypeError, match=message):
                wrap(sam, 2, batch=cut)
    with pytest.raises(TypeError, match=r"`m_sam\(estimator=...\)` must be a `GradientEstimator`"):
        methods.m_sam(methods.sam, 2)


def test_streaming_needs_one_loop_and_unrolling_none():
    params = parameters()

    def program(strategy):
        step = value_and_grad(loss, m_sam(methods.sam(0.1), 2, strategy=strategy))
        return str(jax.make_jaxpr(step)(params, step.init(params), batch()))

    assert "scan" in program("streamed")
    assert "scan" not in program("unrolled")
    assert "scan" not in program("vectorized")
    assert "scan" in program("auto")  # under `jit`, without convolutions


def test_each_device_is_a_micro_batch():
    program = Path(__file__).parent / "per_device_program.py"
    assert device_programs.run(program) == ["sam", "tsam", "vasso", "fsam", "streamed", "nested"]
