"""The nnx estimator: a step is that of the pure form, and moves the model's state once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax_models import Net, batch, counter, loss_fn

import tsam_jax.nnx
from tsam_jax import methods, noise, tsam, value_and_grad

BASE = optax.sgd(0.1, momentum=0.9)
LAW = noise.gaussian(rms=0.1)
SAM = methods.sam(0.5)
RANDOM = methods.rsam(0.1, gamma=0.1)
TSAM = methods.tsam(5.0, 0.1, 2, noise=LAW, strategy="streamed")


def new(estimator, model=None, wrt=nnx.Param):
    model = model or Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, BASE, wrt=wrt)
    return model, optimizer, tsam_jax.nnx.Estimator(model, estimator, wrt=wrt)


def step(model, optimizer, estimator, batch):
    loss, grads = estimator.value_and_grad(loss_fn)(model, batch)
    optimizer.update(model, grads)
    return loss


train_step = nnx.jit(step)  # one for all tests, which then compile it once an estimator


def arrays(node):
    """The arrays of an nnx object, those of PRNG keys as integers."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    raw = lambda x: jax.random.key_data(x) if is_key(x) else x  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(raw(x)), nnx.as_pure(nnx.state(node)))


def close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_a_step_of_sam_by_hand():
    """Two gradients by nnx alone: the first one's side effects stay, the second one's do not."""
    model, optimizer, estimator = new(SAM)
    gradient = nnx.jit(nnx.value_and_grad(loss_fn))
    for k in range(2):
        first, second, base = nnx.clone(model), nnx.clone(model), nnx.clone(optimizer)
        _, grads = gradient(first, batch(k))
        length = optax.tree.norm(nnx.as_pure(grads))
        ascent = jax.tree.map(lambda g: 0.5 * g / length, nnx.as_pure(grads))  # noqa: B023
        params = nnx.as_pure(nnx.state(second, nnx.Param))
        nnx.update(second, jax.tree.map(jnp.add, params, ascent))
        desired, grads = gradient(second, batch(k))
        base.update(first, grads)

        loss = train_step(model, optimizer, estimator, batch(k))
        np.testing.assert_allclose(loss, desired, rtol=1e-5)
        close(arrays(model), arrays(first))
        close(arrays(optimizer), arrays(base))
        assert (counter(model), int(estimator.state.step[...])) == (k + 1, k + 1)


def test_the_trajectory_is_that_of_the_pure_form():
    model, optimizer, estimator = new(TSAM)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.as_pure(params), nnx.as_pure(rest)

    def pure_loss(params, batch, rest):
        model = nnx.merge(graphdef, params, rest)
        return loss_fn(model, batch), nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))

    function = value_and_grad(pure_loss, TSAM, has_aux=True)

    @jax.jit
    def pure_step(params, rest, state, base_state, batch):
        ((loss, rest), grads), state = function(params, state, batch, rest)
        updates, base_state = BASE.update(grads, base_state, params)
        return optax.apply_updates(params, updates), rest, state, base_state, loss

    state, base_state = function.init(params), BASE.init(params)
    for k in range(3):
        params, rest, state, base_state, desired = pure_step(
            params, rest, state, base_state, batch(k)
        )
        loss = train_step(model, optimizer, estimator, batch(k))
        np.testing.assert_allclose(loss, desired, rtol=1e-5)
    nnx.update(twin := nnx.clone(model), params)
    nnx.update(twin, rest)
    close(arrays(model), arrays(twin))
    assert counter(model) == 3


@pytest.mark.parametrize("impl", [None, "threefry2x32", "rbg"])
def test_the_noise_is_that_of_the_pure_form_with_the_same_key(impl):
    key = 7 if impl is None else jax.random.key(7, impl=impl)
    model = nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0))
    estimator = tsam_jax.nnx.Estimator(model, RANDOM, key=key)
    step = value_and_grad(lambda kernel, x: jnp.mean(jnp.tanh(x @ kernel)), RANDOM, key=key)
    state, x, kernel = step.init(model.kernel[...]), batch()[0], model.kernel[...]
    leaves = jax.tree.leaves(estimator.state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    assert {type(x) for x in leaves} == {tsam_jax.nnx.EstimatorVariable}
    for _ in range(2):
        (desired, desired_grad), state = step(kernel, state, x)
        value, grads = estimator.value_and_grad(lambda model, x: jnp.mean(jnp.tanh(model(x))))(
            model, x
        )
        np.testing.assert_allclose(value, desired, rtol=1e-6)
        np.testing.assert_allclose(grads["kernel"][...], desired_grad, rtol=1e-5)
    close(arrays(estimator.state), arrays(state))


@pytest.mark.parametrize("key", [None, 0.5, "a", jax.random.split(jax.random.key(0), 2)])
def test_what_is_no_key(key):
    with pytest.raises(TypeError, match="`key` must be an integer seed or a single PRNG key, got"):
        tsam_jax.nnx.Estimator(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), SAM, key=key)


def test_m_sam_averages_gradients_and_statistics_of_its_micro_batches():
    gradient = nnx.jit(lambda model, estimator, x: estimator.value_and_grad(loss_fn)(model, x))
    model, _, estimator = new(methods.m_sam(SAM, 3))
    loss, grads = gradient(model, estimator, batch())
    halves = []
    for part in slice(0, 3), slice(3, 6):
        half, _, sam = new(SAM)
        result = gradient(half, sam, jax.tree.map(lambda x: x[part], batch()))  # noqa: B023
        halves.append((result[0], arrays(result[1]), arrays(half)["norm"]))
    close(
        (loss, arrays(grads), arrays(model)["norm"]),
        jax.tree.map(lambda a, b: (a + b) / 2, *halves),
    )
    assert counter(model) == 1


def test_probes_share_a_dropout_mask_and_steps_do_not():
    """The loss is the number of the mask: `losses` are of the last probes, aux is of the first."""

    def number_of_mask(model, batch):
        kept = model.dropout(jnp.ones(16)) > 0
        number = jnp.sum(kept * 2.0 ** jnp.arange(16))
        return number + 0.0 * model.head.kernel.sum(), number

    @nnx.jit
    def draw(model, estimator):
        (_, first), _ = estimator.value_and_grad(number_of_mask, has_aux=True)(model, batch())
        return first

    model, _, estimator = new(TSAM)
    numbers = []
    for _ in range(3):
        numbers.append(draw(model, estimator).item())
        np.testing.assert_array_equal(estimator.state.last.metrics["losses"][...], numbers[-1])
    assert len(set(numbers)) == 3


def test_without_perturbation_it_is_nnx_value_and_grad():
    def with_aux(model, batch, factor):
        return factor * loss_fn(model, batch), {"batch": batch[1]}

    model, _, estimator = new(methods.erm())
    twin = nnx.clone(model)
    ours = lambda *args: args[0].value_and_grad(with_aux, has_aux=True)(*args[1:], factor=2.0)  # noqa: E731
    (value, aux), grads = nnx.jit(ours)(estimator, model, batch())
    theirs = nnx.jit(nnx.value_and_grad(with_aux, has_aux=True))
    (desired, _), twins = theirs(twin, batch(), 2.0)
    assert value == desired
    np.testing.assert_array_equal(aux["batch"], batch()[1])
    assert jax.tree.structure(grads) == jax.tree.structure(twins)
    close(arrays(grads), arrays(twins), rtol=0, atol=0)
    close(arrays(model), arrays(twin), rtol=0, atol=0)
    assert counter(model) == 1


@pytest.mark.parametrize("name", ["vasso", "looksam", "xsam", "tsam_hmc"])
def test_states_of_other_kinds(name):
    """Averages, branches, searches and chains: a step keeps shapes, dtypes and structure."""
    arguments = {
        "vasso": {"rho": 0.1, "theta": 0.5},
        "looksam": {"rho": 0.1, "every": 2},
        "xsam": {"rho": 0.1},
        "tsam_hmc": {"t": 1.0, "s": 2, "radius": 0.1, "beta": 0.01},
    }
    triple = new(methods.METHODS[name](**arguments[name]))
    graphdef, state = nnx.split(triple)
    state = nnx.as_pure(state)

    def pure(state, batch):
        triple = nnx.merge(graphdef, state)
        step(*triple, batch)
        return nnx.as_pure(nnx.state(triple))

    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert described(jax.eval_shape(pure, state, batch())) == described(state)


def test_tied_weights_count_once():
    class Tied(nnx.Module):
        def __init__(self):
            self.a = nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(0))
            self.b = nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(0))
            self.b.kernel = self.a.kernel

    square = lambda model, x: jnp.mean(model.b(jnp.tanh(model.a(x))) ** 2)  # noqa: E731
    model, x = Tied(), batch()[0][:, :3]
    w = model.a.kernel[...]
    by_hand = value_and_grad(lambda w, x: jnp.mean((jnp.tanh(x @ w) @ w) ** 2), SAM)
    (desired, grad), _ = by_hand(w, by_hand.init(w), x)
    value, grads = tsam_jax.nnx.Estimator(model, SAM).value_and_grad(square)(model, x)
    np.testing.assert_allclose(value, desired, rtol=1e-5)
    (leaf,) = jax.tree.leaves(grads)
    np.testing.assert_allclose(leaf, grad, rtol=1e-5)


def test_only_the_parameters_of_wrt_move():
    wrt = nnx.All(nnx.Param, nnx.PathContains("head"))
    model, optimizer, estimator = new(SAM, wrt=wrt)
    before, points = arrays(model), []

    def listening(model, batch):
        points.append(nnx.as_pure(nnx.state(model, nnx.Param)))
        return loss_fn(model, batch)

    _, grads = estimator.value_and_grad(listening)(model, batch())
    optimizer.update(model, grads)
    assert list(grads) == ["head"]
    assert points[1]["hidden"]["kernel"] is points[0]["hidden"]["kernel"]
    after = arrays(model)
    np.testing.assert_array_equal(after["hidden"]["kernel"], before["hidden"]["kernel"])
    assert np.any(after["head"]["kernel"] != before["head"]["kernel"])


def test_what_does_not_move_is_not_carried_along():
    """Or each sample would take a copy of all frozen weights with it."""
    model = Net(nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    wrt = nnx.All(nnx.Param, nnx.PathContains("head"))

    def gradient(state):
        model = nnx.merge(graphdef, state)
        estimator = tsam_jax.nnx.Estimator(model, TSAM, wrt=wrt)
        return nnx.as_pure(estimator.value_and_grad(loss_fn)(model, batch()))

    program = str(jax.make_jaxpr(gradient)(nnx.as_pure(state)))
    assert "f32[2,8]" in program  # the statistics of two samples
    assert "f32[2,4,8]" not in program


def test_donated_and_pure_steps_are_the_same():
    plain, donated = new(SAM), new(SAM)
    graphdef, state = nnx.split(new(SAM))
    state, kernel = nnx.as_pure(state), donated[0].hidden.kernel.get_value()

    @functools.partial(jax.jit, donate_argnums=0)
    def pure_step(state, batch):
        triple = nnx.merge(graphdef, state)
        step(*triple, batch)
        return nnx.as_pure(nnx.state(triple))

    donating_step = nnx.jit(step, donate_argnums=(0, 1, 2))
    for k in range(2):
        train_step(*plain, batch(k))
        donating_step(*donated, batch(k))
        state = pure_step(state, batch(k))
    assert kernel.is_deleted()
    close(arrays(donated), arrays(plain))
    close(arrays(nnx.merge(graphdef, state)), arrays(plain))


def test_a_restored_run_goes_on_bit_for_bit(tmp_path):
    triple = new(RANDOM)
    train_step(*triple, batch(0))
    with ocp.StandardCheckpointer() as checkpoints:
        checkpoints.save(tmp_path / "state", nnx.as_pure(nnx.state(triple)))
    train_step(*triple, batch(1))

    restored = new(RANDOM, Net(nnx.Rngs(7)))
    with ocp.StandardCheckpointer() as checkpoints:
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.as_pure(nnx.state(restored)))
        nnx.update(restored, checkpoints.restore(tmp_path / "state", like))
    train_step(*restored, batch(1))
    close(arrays(restored), arrays(triple), rtol=0, atol=0)
    assert int(restored[2].state.step[...]) == 2


def test_the_optax_adapter_does_for_models_without_such_state():
    def square(model, batch):
        return jnp.mean((model(batch[0]) - 1.0) ** 2)

    @nnx.jit
    def adapter_step(model, optimizer, batch):
        graphdef = nnx.graphdef(model)
        value_fn = lambda params: square(nnx.merge(graphdef, params), batch)  # noqa: E731
        optimizer.update(model, None, value_fn=value_fn)

    @nnx.jit
    def estimator_step(model, optimizer, estimator, batch):
        _, grads = estimator.value_and_grad(square)(model, batch)
        optimizer.update(model, grads)

    model, twin = (nnx.Linear(4, 3, rngs=nnx.Rngs(0)) for _ in range(2))
    optimizer = nnx.Optimizer(twin, tsam(BASE, 5.0, 0.1, 2, noise=LAW), wrt=nnx.Param)
    triple = new(TSAM, model)
    for k in range(2):
        estimator_step(*triple, batch(k))
        adapter_step(twin, optimizer, batch(k))
    close(arrays(model), arrays(twin))
    assert np.any(arrays(model)["kernel"] != nnx.Linear(4, 3, rngs=nnx.Rngs(0)).kernel[...])


def test_another_model_is_a_clear_error():
    model, _, estimator = new(TSAM)
    gradient = estimator.value_and_grad(loss_fn)
    rule = r"`Estimator.value_and_grad` must be called with the model that .* made for: parameter"
    with pytest.raises(
        ValueError, match=rf"{rule} `head/kernel` was float32\[8, 3\], got none.* Make"
    ):
        gradient(model.hidden, batch())
    with pytest.raises(ValueError, match=rf"{rule} `head/.*` was float32.*, got bfloat16"):
        gradient(Net(nnx.Rngs(0), param_dtype=jnp.bfloat16), batch())
    model.extra = nnx.Param(jnp.ones(2))
    with pytest.raises(ValueError, match=rf"{rule} `extra` was absent, got float32\[2\]"):
        gradient(model, batch())


def test_variables_that_the_loss_leaves_behind_are_a_clear_error():
    def leaves_behind(model, batch):
        model.norm.largest = nnx.Variable(jnp.max(batch[0]))
        return loss_fn(model, batch)

    model, _, estimator = new(SAM)
    with pytest.raises(ValueError, match=r"got `model/norm/largest` added.* Return it"):
        estimator.value_and_grad(leaves_behind)(model, batch())


class Half(nnx.Module):
    """One half of a GAN: dense layer, BatchNorm, dropout."""

    def __init__(self, n, m, rngs):
        self.dense = nnx.Linear(n, m, rngs=rngs)
        self.norm = nnx.BatchNorm(m, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.dense(x)))


def gan_loss(generator, noise, critic):
    return jnp.mean(jax.nn.softplus(-critic["last"](critic["first"](generator(noise)))))


def gan(seed=0):
    rngs = nnx.Rngs(seed)
    return Half(4, 3, rngs), {"first": Half(3, 8, nnx.Rngs(5)), "last": nnx.Linear(8, 1, rngs=rngs)}


Z = jax.random.normal(jax.random.key(3), (16, 4))


def test_other_models_among_the_arguments_keep_what_the_loss_changes_in_them():
    desired, desired_critic = gan()
    value, grads = nnx.value_and_grad(gan_loss)(desired, Z, critic=desired_critic)
    for method in (methods.erm(), methods.tsam(5.0, 0.1, 2, aux="clean"), methods.sam(0.5)):
        generator, critic = gan()
        before = arrays(critic["first"].norm)
        estimator = tsam_jax.nnx.Estimator(generator, method)
        step = nnx.jit(lambda g, c, e: e.value_and_grad(gan_loss)(g, Z, critic=c))
        found, estimate = step(generator, critic, estimator)
        close(arrays(critic["first"]), arrays(desired_critic["first"]))  # at the parameters
        close(arrays(critic["last"]), arrays(desired_critic["last"]))
        close(arrays(generator), arrays(desired))
        assert not np.allclose(before["mean"], arrays(critic["first"].norm)["mean"])
        assert jax.tree.structure(estimate) == jax.tree.structure(grads)
        if method.cost.gradients == 1:
            close(nnx.as_pure(estimate), nnx.as_pure(grads))
            np.testing.assert_allclose(found, value, rtol=1e-6)


def test_other_models_are_not_split_with_the_batch():
    generator, critic = gan()
    method = methods.m_sam(methods.sam(0.5), 8, batch="noise")
    estimator = tsam_jax.nnx.Estimator(generator, method)
    estimator.value_and_grad(gan_loss)(generator, Z, critic=critic)
    means = []
    for half in jnp.split(Z, 2):
        probe, other = gan()
        gan_loss(probe, half, other)
        means.append(other["first"].norm.mean[...])
    np.testing.assert_allclose(critic["first"].norm.mean[...], sum(means) / 2, rtol=1e-4, atol=1e-6)
    assert int(critic["first"].dropout.rngs.count[...]) == 1


def test_a_layer_that_two_models_share_is_trained_in_both():
    generator, critic = Half(4, 4, nnx.Rngs(0)), Half(4, 4, nnx.Rngs(1))
    critic.dense = generator.dense
    loss = lambda g, c: jnp.mean(c(g(Z)) ** 3)  # noqa: E731
    params, rest = nnx.state(generator, nnx.Param), nnx.split((generator, critic), nnx.Param, ...)

    def pure(kernel):
        g, c = nnx.merge(rest[0], *rest[1:], copy=True)
        g.dense.kernel = c.dense.kernel = nnx.Param(kernel)
        return loss(g, c)

    desired = jax.grad(pure)(params["dense"]["kernel"][...])
    _, grads = tsam_jax.nnx.Estimator(generator, methods.erm()).value_and_grad(loss)(
        generator, critic
    )
    np.testing.assert_allclose(grads["dense"]["kernel"][...], desired, rtol=1e-5, atol=1e-6)


def test_a_stream_of_random_numbers_among_the_arguments_moves_once_a_step():
    rngs, model = nnx.Rngs(noise=0), nnx.Linear(4, 1, rngs=nnx.Rngs(1))
    loss = lambda m, rngs: jnp.mean(m(Z + jax.random.normal(rngs.noise(), Z.shape)) ** 2)  # noqa: E731
    tsam_jax.nnx.Estimator(model, SAM).value_and_grad(loss)(model, rngs)
    assert int(rngs.noise.count[...]) == 1


def test_a_model_that_the_loss_takes_from_outside_is_a_clear_error():
    generator, critic = gan()
    estimator = tsam_jax.nnx.Estimator(generator, SAM)
    outside = lambda g: gan_loss(g, Z, critic=critic)  # noqa: E731
    with pytest.raises(ValueError, match="pass the object that it changes as an arg"):
        nnx.jit(lambda g, e: e.value_and_grad(outside)(g))(generator, estimator)


def test_an_optimizer_is_no_estimator():
    message = r"`Estimator\(estimator=...\)` must be a `GradientEstimator`, such as .*, got a Grad"
    with pytest.raises(TypeError, match=message):
        tsam_jax.nnx.Estimator(Net(nnx.Rngs(0)), tsam(optax.sgd(0.1), 1.0, 0.1, 2))
