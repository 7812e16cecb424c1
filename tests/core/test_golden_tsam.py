"""TSAM against numbers from the official code; see tests/data/golden/README.md.

Every record is three steps. The tests replay the recorded noise through a user-defined law, and
compare losses, weights, gradient and parameters for every strategy and both adapters.
"""

import functools
import itertools

import golden_records
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_records import STEPS, relative_error

import tsam_jax
from tsam_jax import methods, noise

NAMES = golden_records.names("tsam_mlp", "tsam_convbn", "tsam_quad")
SEED = 7


def law_by_order(perturbations):
    """Noise law that counts its calls; the j-th call of a step is sample j."""
    calls = iter(range(jax.tree.leaves(perturbations)[0].shape[0]))

    def law(key, params):
        j = next(calls)
        return jax.tree.map(lambda e: e[j], perturbations)

    return law


def law_by_key(table, s):
    """Noise law that finds step and sample from its key, as `tsam` documents; otherwise NaN."""
    steps = [jax.random.split(jax.random.fold_in(jax.random.key(SEED), k), s) for k in range(STEPS)]
    known = jax.random.key_data(jnp.stack(steps)).reshape(STEPS * s, -1)

    def law(key, params):
        match = jnp.all(jax.random.key_data(key) == known, axis=1)

        def found(e):
            row = e.reshape(STEPS * s, *e.shape[2:])[jnp.argmax(match)]
            return jnp.where(match.any(), row, jnp.nan)

        return jax.tree.map(found, table)

    return law


def base_optimizer(base, lr, momentum, weight_decay):
    if base == "adamw":
        return optax.adamw(lr, weight_decay=weight_decay)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum))


def schedule(kind, t):
    """The official code's `--schedule_t` for 3 steps in total."""
    return {
        0: t,
        1: lambda step: t * step / STEPS,
        2: lambda step: t * (STEPS - step) / STEPS,
    }[kind]


def keep_updates():
    """Optax transformation whose state is the last updates that it received."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    return optax.GradientTransformation(
        init, lambda updates, state, params=None: (updates, updates)
    )


@functools.cache
def make_step(problem, base, s, schedule_t, strategy):
    """One step, compiled once for all records that differ in numbers only.

    It returns lists with the output of the optax adapter and, on the cheapest problem, also that of
    the other adapter.
    """

    def options(k, table):
        if strategy == "unrolled":
            law = law_by_order(jax.tree.map(lambda e: e[k], table))
        else:
            law = law_by_key(table, s)
        return {"noise": law, "strategy": strategy}

    def make_optimizer(k, table, t, rho):
        kept = optax.chain(keep_updates(), base_optimizer(*base))
        return tsam_jax.tsam(kept, schedule(schedule_t, t), rho, s, **options(k, table), key=SEED)

    def make_evaluate(loss, k, table, t, rho):
        estimator = methods.tsam(schedule(schedule_t, t), rho, s, **options(k, table))
        return tsam_jax.value_and_grad(loss, estimator, key=SEED)

    def init(params, *numbers):
        evaluate = make_evaluate(jnp.sum, 0, *numbers)  # of whichever loss: the state is the same
        return make_optimizer(0, *numbers).init(params), evaluate.init(params)

    @jax.jit
    def step(params, states, k, table, t, rho, data, smoothing):
        loss = golden_records.make_loss(problem, data, smoothing)
        optimizer = make_optimizer(k, table, t, rho)
        updates, chained = optimizer.update(None, states[0], params, value_fn=loss)
        here, state = params, states[1]
        params = optax.apply_updates(params, updates)
        outputs = [output(chained[0].last, chained[1][0], params)]
        if problem == "quad":
            evaluate = make_evaluate(loss, k, table, t, rho)
            (_, agg_grad), state = evaluate(here, state)
            outputs.append(output(state.last, agg_grad, params))
        return params, (chained, state), outputs

    def output(last, agg_grad, params):
        return {
            "value": last.value,
            "loss2": last.metrics["losses"],
            "weights": last.metrics["weights"],
            "agg_grad": agg_grad,
            "params": params,
        }

    return init, step


def run(record, strategy, dtype):
    """Runs three steps from the recorded draws; returns each adapter's results, stacked."""
    meta = record.meta
    base = (meta["base"], meta["lr"], meta["momentum"], meta["weight_decay"])
    init, step = make_step(meta["problem"], base, meta["s"], meta["schedule_t"], strategy)

    def cast(tree):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype.kind == "f" else None), tree)

    params, table, data = cast((record.init, golden_records.noise(record), record.data))
    t, rho, smoothing = (jnp.asarray(meta[name], dtype) for name in ("t", "rho", "smoothing"))
    states = init(params, table, t, rho)
    steps = []
    for k in range(STEPS):
        params, states, outputs = step(params, states, k, table, t, rho, data, smoothing)
        steps.append(outputs)
    return jax.tree.map(lambda *x: np.stack(x), *steps)


def tolerance(quantity, record, dtype):
    """1e-10 in float64 and 1e-5 in float32, relative to the norm of the whole quantity.

    A rounding error e of the losses changes the weights by up to 2 t e relative, and a float32
    loss L has e = 6e-8 L at best: at t = 100 and L = 2 that is 2.4e-5, which no float32 program
    can avoid.
    """
    if dtype == jnp.float64:
        return 1e-10
    if quantity == "weights":
        rounding = np.finfo(np.float32).eps / 2 * np.max(np.abs(record.arrays["loss2"]))
        return max(1e-5, 2 * np.max(record.arrays["t_used"]) * rounding)
    return 1e-5


def check(names, strategy, dtype):
    failures = []
    for name in names:
        record = golden_records.load(name)
        adapters = run(record, strategy, dtype)
        assert {x.dtype for x in jax.tree.leaves(adapters)} == {np.dtype(dtype)}
        for actual, quantity in itertools.product(
            adapters, ("loss2", "weights", "agg_grad", "params")
        ):
            error = relative_error(actual[quantity], record.arrays[quantity])
            if not error <= tolerance(quantity, record, dtype):
                failures.append(f"{name}: {quantity} {error:.1e}")
    assert not failures, "\n".join(failures)


def in_groups(families):
    """The records in groups that share one compiled step."""
    groups = {}
    for name in golden_records.names(*families):
        meta = golden_records.load(name).meta
        kind = "-t_schedule" if meta["schedule_t"] else "-adamw" if meta["base"] == "adamw" else ""
        groups.setdefault(f"{meta['problem']}-s{meta['s']}{kind}", []).append(name)
    return [pytest.param(names, id=id_) for id_, names in groups.items()]


ALL = in_groups(["tsam_mlp", "tsam_convbn", "tsam_quad"])


def test_all_records_are_covered():
    assert sum(len(group.values[0]) for group in ALL) == 112


@pytest.mark.parametrize("names", ALL)
def test_float64(names, x64):
    check(names, "unrolled", jnp.float64)


@pytest.mark.parametrize("strategy", ["vectorized", "streamed"])
@pytest.mark.parametrize("names", in_groups(["tsam_quad"]))
def test_float64_of_the_other_strategies(names, strategy, x64):
    check(names, strategy, jnp.float64)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["vectorized", "streamed"])
@pytest.mark.parametrize("names", in_groups(["tsam_mlp", "tsam_convbn"]))
def test_float64_of_networks_under_the_other_strategies(names, strategy, x64):
    check(names, strategy, jnp.float64)


@pytest.mark.parametrize("names", in_groups(["tsam_mlp", "tsam_quad"]))
def test_float32(names):
    check(names, "unrolled", jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["vectorized", "streamed"])
@pytest.mark.parametrize("names", in_groups(["tsam_quad"]))
def test_float32_of_the_other_strategies(names, strategy):
    check(names, strategy, jnp.float32)


QUICK = golden_records.names("tsam_quad")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in NAMES]
)
def test_noise_laws_scale_normals_as_the_official_code_does(name, x64, monkeypatch):
    record = golden_records.load(name)
    meta, desired = record.meta, golden_records.noise(record)
    if meta["epsilon"] == "gaussian":
        law = noise.gaussian(rms=meta["scaling"], clip=meta["r"])
        factor = np.ones((STEPS, meta["s"]))
    else:
        law = noise.sphere(radius=meta["r"])
        factor = record.arrays["uniform_u"] ** 1e-8  # the official code's: 1 to 6e-8
        assert np.all(np.abs(factor - 1) < 1e-6)
    recorded = sorted(record.arrays["noise_raw"].items())
    for k, j in np.ndindex(STEPS, meta["s"]):
        normals = [jnp.asarray(z[k, j]) for _, z in recorded]
        monkeypatch.setattr(jax.random, "normal", lambda *_, normals=normals: normals.pop(0))
        with jax.disable_jit():  # otherwise the first draw becomes a constant of the program
            drawn = law(jax.random.key(0), record.init)
        for leaf, e in drawn.items():
            np.testing.assert_allclose(factor[k, j] * e, desired[leaf][k, j], rtol=1e-12)
