"""The contract of all methods as optax optimizers: one rule per test.

A new method gets a row in contract_table.py.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_problem
from contract_table import TABLE, batch, loss, make, parameters

from tsam_jax import Cost, Loss, estimate_gradient, methods, value_and_grad


def rows(names):
    marks = {True: [pytest.mark.slow], False: []}
    return [
        pytest.param(name, marks=marks[name in TABLE and TABLE[name].spelling]) for name in names
    ]


every_method = pytest.mark.parametrize("name", rows(methods.METHODS))
SAMPLED = [name for name, row in TABLE.items() if row.sampled]
sampled = pytest.mark.parametrize("name", rows(SAMPLED))
STRATEGIES = ("vectorized", "unrolled", "streamed")
# quick: tsam under every strategy, the others under one
sampled_by_strategy = pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(n, x, marks=[] if n == "tsam" or x == "streamed" else pytest.mark.slow)
        for n in SAMPLED
        for x in STRATEGIES
    ],
)
masked = pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.masked])
WITH_NUMBERS = [name for name, row in TABLE.items() if row.numbers]
with_numbers = pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, row in TABLE.items() for number in row.numbers]
)


def make_optimizer(estimator, base=None, key=0):
    base = base or optax.sgd(0.01, momentum=0.9)
    return optax.chain(estimate_gradient(estimator, key=key), base)


def make_step(optimizer):
    def step(params, state, x):
        value_fn = lambda p: loss(p, x)  # noqa: E731 - as users write it
        updates, state = optimizer.update(None, state, params, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    return step


@functools.cache
def compiled(name, **changes):
    """Optimizer of a method, and its step, compiled once for all tests."""
    optimizer = make_optimizer(make(name, **changes))
    return optimizer, jax.jit(make_step(optimizer))


def one_step(name, **changes):
    optimizer, step = compiled(name, **changes)
    return step(parameters(), optimizer.init(parameters()), batch())


def train(optimizer, steps=2, params=None):
    params = parameters() if params is None else params
    state, step = optimizer.init(params), jax.jit(make_step(optimizer))
    for k in range(steps):
        params, state = step(params, state, batch(k))
    return params, state


def flat(tree):
    return np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])


def difference(a, b):
    return np.abs(flat(a) - flat(b)).max()


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def listen(estimator, fun=loss, *, has_aux=False, **options):
    """Estimates without `jit`; returns the last evaluation and all calls of the loss."""
    of_batch = Loss(fun, (batch(),), has_aux=has_aux)
    return small_problem.listen(estimator, of_batch, parameters(), **options)


def test_the_table_has_every_method_and_every_argument():
    assert set(TABLE) == set(methods.METHODS)
    for name, method in methods.METHODS.items():
        required = {
            argument
            for argument, parameter in inspect.signature(method).parameters.items()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        }
        assert required <= set(TABLE[name].arguments)


@every_method
def test_unknown_extra_arguments_reach_the_base(name):
    heard = {}

    def update(updates, state, params=None, **extra_args):
        heard.update(extra_args)
        return updates, state

    base = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer, params = make_optimizer(make(name), base), parameters()
    value_fn = lambda p: loss(p, batch())  # noqa: E731
    state = optimizer.init(params)
    optimizer.update(None, state, params, value_fn=value_fn, value=1.0, surprise="yes")
    assert heard == {"value_fn": value_fn, "value": 1.0, "surprise": "yes"}


@every_method
def test_missing_params_or_value_fn_is_a_clear_error(name):
    optimizer, params = make_optimizer(make(name)), parameters()
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"`update\(params=...\)` must be the parameters, got"):
        optimizer.update(None, state, value_fn=lambda p: loss(p, batch()))
    with pytest.raises(TypeError, match=r"`update\(value_fn=...\)` must be a function.*got None"):
        optimizer.update(None, state, params)


@every_method
def test_one_trace(name):
    optimizer = make_optimizer(make(name))
    chex.clear_trace_counter()  # it counts by the function's name
    step = jax.jit(chex.assert_max_traces(make_step(optimizer), n=1))
    params = parameters()
    state = optimizer.init(params)
    for k in range(3):
        params, state = step(params, state, batch(k))


@every_method
def test_buffers_can_be_donated(name):
    key = jax.random.key(5)
    optimizer = make_optimizer(make(name), key=key)
    step = jax.jit(make_step(optimizer), donate_argnums=(0, 1))
    first, second = parameters(), parameters()
    states = optimizer.init(first), optimizer.init(second)
    results = []
    for params, state in zip((first, second), states, strict=True):
        start = params
        for k in range(2):
            params, state = step(params, state, batch(k))
        assert start["w"].is_deleted()
        results.append(flat(params))
    np.testing.assert_array_equal(*results)
    assert not key.is_deleted()


@every_method
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_dtypes_and_structures_are_stable(name, dtype, x64):
    for options in [{"strategy": x} for x in STRATEGIES] if TABLE[name].sampled else [{}]:
        check_dtypes_and_structures(make(name, **options), dtype)


def check_dtypes_and_structures(estimator, dtype):
    optimizer = make_optimizer(estimator)
    params = {**parameters(dtype), "wide": jnp.float32(2.0)}
    state = jax.eval_shape(optimizer.init, params)

    def value_fn(p):
        return loss(p, batch()) + (p["wide"] ** 2).astype(dtype)

    def update(params, state):
        return optimizer.update(None, state, params, value_fn=value_fn)

    updates, after = jax.eval_shape(update, params, state)
    assert described(updates) == described(params)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert described(state[0]) == described(after[0])
    for x in jax.tree.leaves(after[0]):
        if jnp.issubdtype(x.dtype, jnp.floating):
            assert x.dtype == jnp.result_type(dtype, jnp.float32)
    (value, grad), same = jax.eval_shape(value_and_grad(value_fn, estimator), params, after[0])
    assert value.dtype == jnp.result_type(dtype, jnp.float32)
    assert described(grad) == described(params)
    assert described(same) == described(after[0])


@every_method
@pytest.mark.parametrize(
    ("wrapper", "dtype"),
    [
        pytest.param(w, x, marks=pytest.mark.slow if w and x != jnp.bfloat16 else [])
        for w in (None, "m_sam", "microbatched")
        for x in (jnp.float32, jnp.bfloat16, jnp.float64)
    ],
)
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_metrics_and_memory_are_those_that_init_declares(name, wrapper, dtype, x64):
    estimator, params = make(name), parameters(dtype)
    if wrapper:
        estimator = methods.WRAPPERS[wrapper](estimator, 3, batch="x")
    memory, metrics = jax.eval_shape(estimator.init, params)

    def estimate(params, memory):
        of_batch = Loss(loss, (batch(),))
        return estimator.estimate(
            of_batch, params, memory, step=jnp.int32(0), key=jax.random.key(0)
        )

    evaluation, after = jax.eval_shape(estimate, params, memory)
    assert described(evaluation.metrics) == described(metrics)
    assert described(after) == described(memory)
    assert set(metrics) <= set(methods.METRICS)
    assert {x.dtype for x in metrics.values()} == {jnp.result_type(dtype, jnp.float32)}


@every_method
def test_the_metric_loss_is_that_of_the_first_evaluation(name):
    evaluation, calls = listen(make(name))
    if "loss" in evaluation.metrics:
        kind, point = calls[0]
        assert kind == "gradient"
        np.testing.assert_allclose(evaluation.metrics["loss"], loss(point, batch()), rtol=1e-6)
    else:
        assert TABLE[name].sampled


@every_method
def test_special_cases_do_not_change_the_type_of_the_state(name):
    def types(**changes):
        optimizer, params = make_optimizer(make(name, **changes)), parameters()
        state = jax.eval_shape(optimizer.init, params)
        step = make_step(optimizer)
        return described((state, jax.eval_shape(step, params, state, batch())))

    if "rho" in inspect.signature(methods.METHODS[name]).parameters:
        assert types(rho=0) == types(rho=0.0) == types()
    if TABLE[name].erm is not None:
        assert types(**TABLE[name].erm) == types()


@every_method
def test_the_cost_is_known_also_of_wrapped_methods(name):
    estimator = make(name)
    assert isinstance(estimator.cost, Cost)
    assert estimator.cost.gradients >= 1
    for wrapped in (
        methods.m_sam(estimator, 3),
        methods.microbatched(estimator, 3),
        methods.per_device(estimator, "data"),
    ):
        assert wrapped.cost == estimator.cost


@every_method
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_strict_modes_of_jax(name):
    for dtype in jnp.float32, jnp.bfloat16, jnp.float64:
        with (
            jax.enable_x64(dtype == jnp.float64),
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
            jax.checking_leaks(),
        ):
            start = parameters(dtype)
            jax.eval_shape(lambda p: train(make_optimizer(make(name)), 1, p), start)


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_numbers_may_be_injected(name):
    row = TABLE[name]

    def factory(**numbers):
        return make_optimizer(make(name, **numbers))

    factory.__signature__ = inspect.Signature([
        inspect.Parameter(number, inspect.Parameter.KEYWORD_ONLY) for number in row.numbers
    ])
    optimizer = optax.inject_hyperparams(factory)(**{n: row.arguments[n] for n in row.numbers})
    params, step = parameters(), jax.jit(make_step(optimizer))
    start = optimizer.init(params)

    def first_step(**numbers):
        numbers = {n: jnp.asarray(x, jnp.float32) for n, x in numbers.items()}
        state = start._replace(hyperparams=start.hyperparams | numbers)
        return step(params, state, batch())[0]

    given = first_step()
    assert difference(given, one_step(name)[0]) < 1e-6
    for number, other in row.numbers.items():
        changed = first_step(**{number: other})
        assert difference(changed, one_step(name, **{number: other})[0]) < 1e-6
        assert difference(changed, given) > 1e-5


@with_numbers
def test_numbers_may_be_schedules_of_the_step_counter(name, number):
    row = TABLE[name]
    first, second = row.arguments[number], row.numbers[number]

    def schedule(step):
        return jnp.where(step == 0, first, second)

    scheduled = make_optimizer(make(name, **{number: schedule}))
    step, params = jax.jit(make_step(scheduled)), parameters()
    after = step(params, scheduled.init(params), batch(0))
    assert difference(one_step(name)[0], after[0]) < 1e-6
    constant, changed = (compiled(name, **c)[1] for c in ({}, {number: second}))
    later = [f(*after, batch(1))[0] for f in (constant, step, changed)]
    assert difference(later[1], later[2]) < 1e-6
    assert difference(later[1], later[0]) > 1e-5


@with_numbers
@pytest.mark.parametrize("edge", [0, 1])
def test_schedules_may_return_numbers_of_python(name, number, edge):
    step = make_step(make_optimizer(make(name, **{number: lambda _: edge})))
    state = make_optimizer(make(name)).init(parameters())
    jax.eval_shape(step, parameters(), state, batch())  # traces it: no error of Python


@every_method
def test_a_zero_gradient_is_finite(name):
    evaluation, _ = listen(make(name), lambda p, x: 0.0 * loss(p, x))
    assert all(jnp.all(g == 0) for g in jax.tree.leaves(evaluation.grad))
    assert evaluation.value == 0


@sampled_by_strategy
def test_samples_that_are_not_finite_are_left_out(name, strategy):
    def broken(p, bad):
        return jnp.where(p["b"][0] > parameters()["b"][0], bad, 1.0) * loss(p, batch())

    step, params = value_and_grad(broken, make(name, s=4, strategy=strategy), key=2), parameters()
    state, step = step.init(params), jax.jit(step)
    for bad in jnp.nan, jnp.inf:
        (value, grad), after = step(params, state, bad)
        losses, weights = (np.asarray(after.last.metrics[x]) for x in ("losses", "weights"))
        present = np.isfinite(losses)
        assert 0 < present.sum() < 4
        assert np.all(np.isnan(losses[~present]))
        assert np.all(weights[~present] == 0)
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
        assert np.all(weights[present] > 0)
        assert jnp.isfinite(value)
        assert np.all(np.isfinite(flat(grad)))


@every_method
def test_if_nothing_is_finite_apply_if_finite_acts(name):
    base = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=5)
    optimizer, params = make_optimizer(make(name), base), parameters()
    state = optimizer.init(params)
    updates, state = optimizer.update(
        None, state, params, value_fn=lambda p: jnp.nan * loss(p, batch())
    )
    assert np.all(flat(updates) == 0)
    assert state[1].total_notfinite == 1
    assert not np.isfinite(state[0].last.value)


@every_method
def test_without_noise_and_ascent_it_is_the_plain_gradient(name):
    if TABLE[name].erm is None:
        pytest.skip("it never is")
    estimator = make(name, **TABLE[name].erm)
    evaluation, calls = listen(estimator)
    desired, _ = listen(make("erm"))
    np.testing.assert_array_equal(flat(evaluation.grad), flat(desired.grad))
    assert evaluation.value == desired.value
    assert len(calls) == estimator.cost.gradients == 1


@masked
def test_masked_leaves_are_not_perturbed(name):
    for mask in {"w": True, "b": False}, (lambda p: {"w": True, "b": False}):
        _, calls = listen(make(name, mask=mask))
        assert all(jnp.all(point["b"] == parameters()["b"]) for _, point in calls)
        assert any(jnp.any(point["w"] != parameters()["w"]) for _, point in calls)
    _, calls = listen(make(name))
    assert any(jnp.any(point["b"] != parameters()["b"]) for _, point in calls)


@every_method
def test_aux_is_of_the_first_evaluation(name):
    evaluation, calls = listen(make(name), lambda p, x: (loss(p, x), p), has_aux=True)
    np.testing.assert_array_equal(flat(evaluation.aux), flat(calls[0][1]))


@every_method
def test_cost_is_what_is_called(name):
    policies = ("first", "mean", "clean") if TABLE[name].sampled else (None,)
    for aux in policies:
        changes = {"aux": aux, "strategy": "unrolled", "s": 3} if aux else {}
        estimator, period = make(name, **changes), TABLE[name].period
        _, calls = listen(estimator, steps=period)
        kinds = [kind for kind, _ in calls]
        assert kinds.count("gradient") == pytest.approx(period * estimator.cost.gradients)
        assert kinds.count("value") == pytest.approx(period * estimator.cost.values)


@every_method
def test_convergence(name):
    optimizer, params = make_optimizer(make(name), optax.sgd(0.01)), parameters()

    def step(carry, _):
        params, state = make_step(optimizer)(*carry, batch())
        return (params, state), loss(params, batch())

    _, losses = jax.lax.scan(step, (params, optimizer.init(params)), length=200)
    assert losses[-1] < 0.1 * losses[0]
