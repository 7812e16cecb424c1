"""`split_batch`: each sample gets its own slice of the batch."""

import contract_table
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_contract
from contract_table import batch, loss, parameters
from small_problem import assert_bitwise, assert_close, flat

import tsam_jax
from tsam_jax import Loss, methods, noise, tilting, value_and_grad

GAUSSIAN, STRATEGIES = noise.gaussian(rms=0.1), ("vectorized", "unrolled", "streamed")
W_ONLY = {"w": True, "b": False}
# name -> method with 3 samples, as a function of its other arguments
CASES = {
    "tsam": lambda **kw: methods.tsam(2.0, 0.3, 3, noise=GAUSSIAN, delta="half", **kw),
    "worst": lambda **kw: methods.tsam(np.inf, 0.3, 3, noise=GAUSSIAN, **kw),
    "sampling": lambda **kw: methods.tilted_sampling(2.0, 3, noise=GAUSSIAN, **kw),
    "still": lambda **kw: methods.tilted_sampling(2.0, 3, noise=noise.none, **kw),
    "ascent": lambda **kw: methods.tsam(2.0, 0.3, 3, noise=noise.none, **kw),
    "masked": lambda **kw: methods.tsam(2.0, 0.3, 3, noise=GAUSSIAN, mask=W_ONLY, **kw),
    "pairs": lambda **kw: methods.tsam(2.0, 0.3, 3, noise=noise.antithetic(GAUSSIAN), **kw),
    "chosen": lambda **kw: methods.tsam(tilting.AutoTilt(0.7), 0.3, 3, noise=GAUSSIAN, **kw),
}


def outputs(estimator, x, fun=loss, **options):
    """Returns ((value, aux), grad) or (value, grad), and the samples' losses and weights."""
    params = parameters(jnp.result_type(float))
    step = value_and_grad(fun, estimator, **options)
    out, state = jax.jit(step)(params, step.init(params), x)
    metrics = state.last.metrics
    return (out, metrics["losses"], metrics["weights"]) if "weights" in metrics else (out,)


@pytest.mark.parametrize("name", ["tsam", "pairs"])
def test_slices_that_are_copies_give_the_estimate_of_the_whole(name, x64):
    x = jnp.tile(batch()[:2], (3, 1))
    whole, split = CASES[name](strategy="unrolled"), CASES[name](split_batch="x")
    assert_close(outputs(split, x), outputs(whole, x), rtol=1e-12, atol=1e-13)


# name -> rho, mask, noise of sample j, tilt of the weights, tilt of the losses
BY_HAND = {
    "tsam": (0.3, None, GAUSSIAN, lambda _: 1.0),
    "worst": (0.3, None, GAUSSIAN, lambda _: np.inf),
    "sampling": (0.0, None, GAUSSIAN, lambda _: 2.0),
    "still": (0.0, None, noise.none, lambda _: 2.0),
    "ascent": (0.3, None, noise.none, lambda _: 2.0),
    "masked": (0.3, W_ONLY, GAUSSIAN, lambda _: 2.0),
    "pairs": (0.3, None, noise.antithetic(GAUSSIAN), lambda _: 2.0),
    "chosen": (0.3, None, GAUSSIAN, lambda losses: tilting.tilt_for_ess(losses, 0.7)),
}


def by_hand(name, x):
    """Reference for `outputs`: a loop over slices of two examples."""
    rho, mask, law, tilt_of = BY_HAND[name]
    params, step_key = parameters(jnp.float64), jax.random.fold_in(jax.random.key(0), 0)
    moved = lambda tree: tree if mask is None else {**tree, "b": None}  # noqa: E731
    losses, grads = [], []
    for j, part in enumerate((x[0:2], x[2:4], x[4:6])):
        if isinstance(law, noise.Design):
            eps = law.draw(step_key, j, 3, params)
        else:
            eps = law(jax.random.split(step_key, 3)[j], moved(params))
        point = {k: params[k] if eps[k] is None else params[k] + eps[k] for k in params}
        grad = moved(jax.grad(loss)(point, part))
        length = np.linalg.norm(flat(grad))
        point = {k: point[k] if grad[k] is None else point[k] + rho * grad[k] / length for k in eps}
        value, grad = jax.value_and_grad(loss)(point, part)
        losses.append(value)
        grads.append(grad)
    losses = jnp.stack(losses)
    tilt = tilt_of(losses)
    worst = jnp.where(losses == losses.max(), 1.0, 0.0)
    weights = worst if np.isinf(tilt) else jax.nn.softmax(tilt * losses)
    grad = jax.tree.map(lambda *g: sum(w * x for w, x in zip(weights, g, strict=True)), *grads)
    return (tilting.tilted_loss(losses, tilt), grad), losses, weights


@pytest.mark.parametrize(
    ("name", "strategy"),
    [*(("tsam", strategy) for strategy in STRATEGIES), *((name, "auto") for name in CASES)],
)
def test_a_loop_over_slices(name, strategy, x64):
    estimator, x = CASES[name](split_batch="x", strategy=strategy), batch()
    actual = outputs(estimator, x)
    assert_close(actual, by_hand(name, x), rtol=1e-9)
    assert len({float(this) for this in actual[1]}) == 3


@pytest.mark.parametrize("m", [1, 2])
def test_at_tilt_0_without_noise_it_is_m_sam(m, x64):
    split = methods.tsam(0.0, 0.3, 6 // m, noise=noise.none, split_batch="x")
    m_sam = methods.m_sam(methods.sam(0.3), m, batch="x")
    actual, desired = (outputs(estimator, batch())[0] for estimator in (split, m_sam))
    assert_close(actual, desired, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("s", [1, 3])
@pytest.mark.parametrize(("rho", "gradients"), [(0.3, 2), (0.0, 1)])
@pytest.mark.parametrize("aux", ["first", "clean"])
def test_cost_is_counted_in_shares_of_the_batch(s, rho, gradients, aux):
    seen, x, params = [], batch(), parameters()

    def counted(p, part):
        seen.append(len(part) / len(x))
        return loss(p, part), None

    for law in GAUSSIAN, noise.none:
        seen.clear()
        options = {"noise": law, "split_batch": "part", "aux": aux, "strategy": "unrolled"}
        estimator = methods.tsam(1.0, rho, s, **options)
        step = value_and_grad(counted, estimator, has_aux=True)
        jax.eval_shape(step, params, step.init(params), x)
        is_erm = s == 1 and rho == 0 and law is noise.none  # its aux is that of the parameters
        assert estimator.cost == (gradients, float(aux == "clean" and not is_erm))
        np.testing.assert_allclose(sum(seen), sum(estimator.cost))


def test_aux_is_that_of_a_slice():
    def fun(p, x):
        return loss(p, x), {"mean": jnp.mean(x), "rows": jnp.int32(len(x)), "row": x[0]}

    def aux(policy):
        estimator = CASES["tsam"](split_batch="x", aux=policy)
        return outputs(estimator, batch(), fun, has_aux=True)[0][0][1]

    x = batch()
    assert_close(aux("first"), {"mean": x[:2].mean(), "rows": jnp.int32(2), "row": x[0]})
    mean = {"mean": x.mean(), "rows": jnp.int32(2), "row": x[::2].mean(axis=0)}
    assert_close(aux("mean"), mean)
    assert_close(aux("clean"), {"mean": x.mean(), "rows": jnp.int32(6), "row": x[0]})


def test_a_slice_that_is_not_finite_is_left_out():
    x = batch().at[3, 0].set(jnp.nan)
    estimator = methods.tsam(0.0, 0.3, 3, noise=GAUSSIAN, split_batch="x")
    (value, grad), losses, weights = outputs(estimator, x)
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
    np.testing.assert_allclose(weights, [0.5, 0.0, 0.5])
    assert np.isfinite(value)
    assert np.all(np.isfinite(flat(grad)))


def test_slices_may_be_evaluated_in_parts_and_be_those_of_a_micro_batch(x64):
    split, x = CASES["tsam"](split_batch="x"), batch()
    in_parts = outputs(methods.microbatched(split, 1, batch="x"), x)
    assert_close(in_parts, outputs(split, x), rtol=1e-10)
    halves = [outputs(split, half)[:2] for half in (x[:3], x[3:])]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    assert_close(outputs(methods.m_sam(split, 3, batch="x"), x)[:2], mean, rtol=1e-10)


def test_the_optax_adapter_needs_a_batch():
    options = {"noise": GAUSSIAN, "split_batch": True}
    optimizer = tsam_jax.tsam(optax.sgd(1.0), 2.0, 0.3, 3, **options, key=3)
    params, state = parameters(), optimizer.init(parameters())
    of_batch = lambda p, batch: loss(p, batch)  # noqa: E731 - True means this name
    updates, _ = optimizer.update(None, state, params, value_fn=of_batch, batch=batch())
    for split in {}, {"split_batch": "x"}, {"split_batch": 1}, {"split_batch": ("x",)}:
        fun = loss if split else of_batch
        step = value_and_grad(fun, methods.tsam(2.0, 0.3, 3, **{**options, **split}), key=3)
        (_, grad), _ = step(params, step.init(params), batch())
        assert_bitwise(updates, jax.tree.map(jnp.negative, grad))
    message = r"`batch='batch'` .*`split_batch` of `tsam`.* must name an argument .*batch=batch"
    with pytest.raises(TypeError, match=message):
        optimizer.update(None, state, params, value_fn=lambda p: loss(p, batch()))


@pytest.mark.parametrize(
    ("s", "x", "message"),
    [
        (4, jnp.ones((6, 4)), "must divide the number of examples of the batch, 6, got 4"),
        (8, jnp.ones((6, 4)), "must divide the number of examples of the batch, 6, got 8"),
        (2, jnp.ones((0, 4)), "must divide the number of examples of the batch, 0, got 2"),
        (2, (jnp.ones(6), jnp.ones(4)), r"arrays with the same number of .*axes of \[4, 6\]"),
        (2, 1.0, r"leading axis counts examples, got float32 of shape \(\)"),
    ],
)
def test_batches_that_cannot_be_split(s, x, message):
    estimator, w = methods.tsam(1.0, 0.1, s, split_batch="x"), jnp.ones(2)
    step = value_and_grad(lambda w, x: jnp.sum(w), estimator)
    with pytest.raises(ValueError, match=message):
        step(w, step.init(w), x)


@pytest.mark.parametrize("make", [methods.tsam, methods.tilted_sampling, methods.from_paper])
@pytest.mark.parametrize("split", [True, "images", 2, ("x", "y")])
def test_the_batch_must_be_an_argument_of_the_loss(make, split):
    """The error is about the loss as it is called, so only a step can raise it."""
    arguments = {"t": 1.0, "s": 2} | ({"rho": 0.1} if make is methods.tsam else {})
    estimator, w = make(**arguments, split_batch=split), jnp.ones(2)
    step = value_and_grad(lambda w, x: jnp.sum(w * x), estimator)
    with pytest.raises(TypeError, match=r"must name an argument of the loss.*called with `x`"):
        step(w, step.init(w), jnp.ones((4, 2)))


@pytest.mark.parametrize("make", [methods.tsam, methods.tilted_sampling, methods.from_paper])
@pytest.mark.parametrize("split", [0, -1, 1.5, (), ("x", "x"), ["x"], ("x", None)])
def test_the_batch_must_be_names_or_positions(make, split):
    arguments = {"t": 1.0, "s": 2} | ({"rho": 0.1} if make is methods.tsam else {})
    with pytest.raises(TypeError, match=r"split_batch=...\)` must be the name or the position of"):
        make(**arguments, split_batch=split)


def test_the_parameters_cannot_be_cut():
    whole = Loss(lambda w, x: jnp.sum(w * x), (jnp.ones((4, 2)),))
    assert whole.examples(1) == 4
    for ask in (whole.examples, lambda batch: whole.on(0, 2, batch)):
        with pytest.raises(TypeError, match=r"`batch=0` .*must name an argument.*called with `x`"):
            ask(0)


RULES = (
    test_contract.test_one_trace,
    test_contract.test_buffers_can_be_donated,
    test_contract.test_strict_modes_of_jax,
)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_the_contract_holds(rule, monkeypatch):
    """The rules of test_contract.py, with a `value_fn` that takes the batch."""

    def make_step(optimizer):
        def step(params, state, x):
            updates, state = optimizer.update(None, state, params, value_fn=loss, x=x)
            return optax.apply_updates(params, updates), state

        return step

    row = contract_table.TABLE["tsam"]
    split = row._replace(arguments={**row.arguments, "split_batch": "x"})
    monkeypatch.setattr(test_contract, "make_step", make_step)
    monkeypatch.setitem(contract_table.TABLE, "tsam", split)
    rule("tsam")
