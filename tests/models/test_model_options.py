"""Dtypes, rematerialisation and dropout of the models, and training steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from golden_models import cross_entropy, flat, relative_error, split

import tsam_jax.nnx
from tsam_jax import methods, value_and_grad
from tsam_jax.models import MODELS, distilbert, resnet, vit, wide_resnet
from tsam_jax.models._batch_norm import BatchNorm

TEXT = {"vocabulary": 20, "max_length": 8, "width": 16, "depth": 1, "heads": 2}
TINY = {
    "mlp": {"width": 8, "image_shape": (8, 8, 3)},
    "cnn": {"width": 4, "image_shape": (8, 8, 3)},
    "resnet18": {"blocks": (1, 1), "width": 4},
    "resnet18-imagenet": {"blocks": (1,), "width": 4},
    "wrn16-8": {"depth": 10, "widening": 1},
    "vit-b16": {"image_shape": (8, 8, 3), "patch": 4, "width": 16, "depth": 1, "heads": 2},
    "bert-base": TEXT,
    "distilbert": TEXT,
}
LABELS = jnp.array([0, 1, 2, 0])


def build(name, seed=0, **options):
    rngs = nnx.Rngs(params=0, dropout=seed)
    return MODELS[name].build(3, **TINY[name], **options, rngs=rngs)


def each(*quick):
    """Parametrises over all architectures; those not named are marked slow."""
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in TINY]
    )


def arguments(name):
    if MODELS[name].kind == "image":
        return (jax.random.normal(jax.random.key(1), (4, 8, 8, 3)),)
    tokens = jax.random.randint(jax.random.key(1), (4, 8), 0, 20)
    return tokens, jnp.arange(8) < jnp.array([[8], [6], [3], [1]]), tokens % 2


def started(model, name):
    """WideResNet's head starts at zero, which would hide all other differences."""
    if name != "wrn16-8":
        return model
    model.head.kernel[...] = jax.random.normal(jax.random.key(2), model.head.kernel.shape)
    return model


def outputs(model, name):
    graph, params, rest = split(model)
    return jax.jit(lambda *state: nnx.merge(graph, *state)(*arguments(name)))(params, rest)


@each("resnet18", "distilbert")
def test_bfloat16_is_close_to_float32(name):
    exact = build(name)
    model = build(name, dtype=jnp.bfloat16)
    for m in (started(exact, name), started(model, name)):
        m.eval()
    assert {x.dtype.name for x in jax.tree.leaves(split(model)[1])} == {"float32"}
    half, full = outputs(model, name), outputs(exact, name)
    assert (half.shape, half.dtype) == ((4, 3), jnp.float32)
    assert 0 < relative_error(half, full) < 0.03


@each("wrn16-8")  # its blocks have both BatchNorm and dropout
def test_rematerialisation_changes_nothing(name):
    @functools.partial(jax.jit, static_argnums=0)
    def run(graph, params, rest):
        def loss(params):
            model = nnx.merge(graph, params, rest)
            y = model(*arguments(name))
            return cross_entropy(y, LABELS), nnx.as_pure(split(model)[2])

        return jax.grad(loss, has_aux=True)(params)

    (plain, before), (remat, after) = (
        run(*split(started(build(name, dropout=0.3, remat=flag), name))) for flag in (False, True)
    )
    for path, x in flat(plain).items():
        np.testing.assert_allclose(flat(remat)[path], x, 1e-5, 1e-6, err_msg=path)
    assert before  # statistics, and keys of dropout
    for path, x in flat(before).items():
        assert (flat(after)[path] == x).all(), path


@pytest.mark.parametrize("name", TINY)
def test_rematerialisation_is_in_the_program(name):
    def primitives(**options):
        graph, params, rest = split(nnx.eval_shape(lambda: build(name, **options)))
        run = lambda *state: nnx.merge(graph, *state)(*arguments(name))  # noqa: E731
        return {eqn.primitive.name for eqn in jax.make_jaxpr(run)(params, rest).eqns}

    remat = {"checkpoint", "remat", "remat2"}  # by the version of JAX
    assert remat & primitives(remat=True)
    assert not remat & primitives()


@each("resnet18", "distilbert")
def test_dropout_masks_by_key_and_not_in_evaluation(name):
    model, plain = build(name, dropout=0.5), build(name)
    model, plain = started(model, name), started(plain, name)
    graph, params, rest = split(model)
    other = split(build(name, seed=1, dropout=0.5))[2]
    for m in (model, plain):
        m.eval()
    evaluation, x = split(model)[0], arguments(name)

    @jax.jit
    def run(rest, other):
        model = nnx.merge(graph, params, rest)
        trained = model(*x), model(*x), nnx.merge(graph, params, other)(*x)
        again = nnx.merge(graph, params, rest)(*x)
        evaluated = [nnx.merge(evaluation, params, state)(*x) for state in (rest, other)]
        return trained, again, [*evaluated, nnx.merge(*split(plain))(*x)]

    (first, second, other_key), again, evaluated = run(rest, other)
    assert (again == first).all()
    for y in (second, other_key, *evaluated):
        assert not jnp.allclose(y, first)
    for y in evaluated[1:]:
        np.testing.assert_allclose(y, evaluated[0], 1e-5, 1e-5)


def test_without_dropout_there_are_no_keys_in_the_state():
    for name in ("resnet18", "vit-b16"):
        rest = flat(split(nnx.eval_shape(lambda name=name: build(name)))[2])
        assert {path.rpartition("/")[2] for path in rest} <= {"mean", "var"}


@pytest.mark.slow
def test_convolutions_start_as_in_their_sources():
    options = {"blocks": (1, 1), "width": 32, "rngs": nnx.Rngs(0)}
    cifar, imagenet = (resnet.build(3, stem=stem, **options) for stem in ("cifar", "imagenet"))
    wide = wide_resnet.build(3, depth=10, widening=2, rngs=nnx.Rngs(0))
    layers = cifar.stages[1][0].conv1, imagenet.stages[1][0].conv1, wide.groups[1][0].conv1
    uniform, fan_out, fan_in = (np.asarray(layer.kernel[...]) for layer in layers)
    assert uniform.shape == fan_out.shape == fan_in.shape == (3, 3, 32, 64)
    bound = (9 * 32) ** -0.5
    assert 0.99 * bound < np.abs(uniform).max() <= bound
    np.testing.assert_allclose(uniform.std(), bound / 3**0.5, rtol=0.02)
    np.testing.assert_allclose(fan_out.std(), (2 / (9 * 64)) ** 0.5, rtol=0.02)
    np.testing.assert_allclose(fan_in.std(), (2 / (9 * 32)) ** 0.5, rtol=0.02)
    assert np.abs(fan_in).max() > 3 * fan_in.std()  # not truncated at two standard deviations
    assert not wide.head.kernel[...].any()


def test_imagenet_stem_pads_as_pytorch_does():
    model = resnet.build(3, blocks=(1,), width=2, stem="imagenet", rngs=nnx.Rngs(0))
    model.eval()
    x = np.asarray(jax.random.normal(jax.random.key(1), (1, 16, 16, 3)))
    padded = np.pad(x[0], ((3, 3), (3, 3), (0, 0)))
    y = np.zeros((8, 8, 2))
    for i, j in np.ndindex(8, 8):
        window = padded[2 * i : 2 * i + 7, 2 * j : 2 * j + 7]
        y[i, j] = np.einsum("hwc,hwco->o", window, model.conv.kernel[...])
    y = np.pad(np.maximum(y, 0) / np.sqrt(1 + 1e-5), ((1, 1), (1, 1), (0, 0)))  # values are >= 0
    pooled = [
        [y[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(4)] for i in range(4)
    ]
    np.testing.assert_allclose(model.stem(x)[0], pooled, 1e-5, 1e-6)


def test_padding_has_no_influence():
    model = build("bert-base")
    model.eval()
    tokens, mask, types = arguments("bert-base")
    other = jnp.where(mask, tokens, (tokens + 1) % 20)
    run = nnx.jit(lambda model, *x: model(*x))
    y = run(model, tokens, mask, types)
    np.testing.assert_allclose(run(model, other, mask, types), y, 1e-6, 1e-6)
    assert not jnp.allclose(run(model, other, jnp.ones_like(mask), types), y)
    assert jnp.isfinite(run(model, tokens, jnp.zeros_like(mask), types)).all()


@pytest.mark.parametrize("name", ["resnet18", "distilbert"])
def test_a_tsam_step_is_pure_and_moves_statistics_and_keys_once(name):
    graph, params, rest = split(build(name))
    estimator = methods.tsam(t=2.0, rho=0.05, s=2, strategy="streamed")
    rates = optax.sgd(0.1)

    def loss(params, rest):
        model = nnx.merge(graph, params, rest)
        value = cross_entropy(model(*arguments(name)), LABELS)
        return value, nnx.as_pure(split(model)[2])

    function, traces = value_and_grad(loss, estimator, has_aux=True), []

    @jax.jit
    def step(params, rest, state, optimizer):
        traces.append(None)
        ((value, rest), grads), state = function(params, state, rest)
        updates, optimizer = rates.update(grads, optimizer, params)
        return optax.apply_updates(params, updates), rest, state, optimizer, value

    states = [params, rest, function.init(params), rates.init(params)]
    before = jax.tree.map(lambda x: (x.shape, x.dtype), states)
    values = []
    for _ in range(3):
        *states, value = step(*states)
        values.append(float(value))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), states) == before
    assert len(traces) == 1
    assert values[-1] < values[0]
    after, old = flat(states[1]), flat(rest)
    kinds = {path.rpartition("/")[2] for path in after}
    assert kinds == ({"mean", "var"} if name == "resnet18" else {"key", "count"})
    for path, x in after.items():
        if path.endswith("count"):
            assert x - old[path] == 3
        if path.endswith("/mean"):
            assert (x != old[path]).any()


def test_statistics_are_in_float32_and_of_one_value_finite():
    layer = BatchNorm(1, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.array([[1000.0], [1002.0]])  # bfloat16 would round both to 1000
    np.testing.assert_allclose(layer(x), [[-1.0], [1.0]], rtol=1e-2)
    np.testing.assert_allclose(layer.mean[...], [100.1], rtol=1e-5)
    np.testing.assert_allclose(layer.var[...], [0.9 + 0.1 * 2.0], rtol=1e-5)
    assert layer(x).dtype == jnp.bfloat16
    layer(x[:1])
    assert jnp.isfinite(layer.var[...]).all()


def test_recalibration_knows_the_batch_norm_of_the_models():
    model = resnet.build(3, blocks=(1,), width=2, rngs=nnx.Rngs(0))
    batch = arguments("resnet18")[0]
    tsam_jax.nnx.recalibrate_batch_norm(model, [batch])
    convolved = np.asarray(model.conv(batch), np.float64)
    np.testing.assert_allclose(model.norm.mean[...], convolved.mean((0, 1, 2)), 1e-4, 1e-6)
    np.testing.assert_allclose(model.norm.var[...], convolved.var((0, 1, 2), ddof=1), 1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("resnet18", stem="torch"), r'`build\(stem=...\)` must be "cifar" or'),
        (lambda: resnet.build(3, blocks=(1, 0), rngs=nnx.Rngs(0)), r"at least one block in each"),
        (lambda: MODELS["wrn16-8"].build(3, depth=18, rngs=nnx.Rngs(0)), r"6 n \+ 4 for n >= 1"),
        (lambda: build("mlp", dropout=1.0), r"`dropout` must be at least 0 and less than 1, got 1"),
        (lambda: vit.build(3, patch=15, rngs=nnx.Rngs(0)), r"`patch` must divide height and width"),
        (lambda: distilbert.build(3, heads=7, rngs=nnx.Rngs(0)), r"`heads` must divide `width`"),
        (
            lambda: MODELS["cnn"].build(3, image_shape=(3, 9, 1), rngs=nnx.Rngs(0)),
            r"must be at least \(4, 4, channels\)",
        ),
        (lambda: build("resnet18")(jnp.zeros((4, 3, 8, 8))), r"Channels come last"),
        (lambda: build("vit-b16")(jnp.zeros((4, 16, 16, 3))), r"\(batch, 8, 8, 3\), got \(4, 16,"),
        (lambda: build("bert-base")(jnp.zeros((4, 9), jnp.int32)), r"at most 8 tokens, .* got 9"),
        (lambda: build("distilbert")(jnp.zeros((4, 8))), r"integers of shape \(batch, length\)"),
        (
            lambda: build("bert-base")(jnp.zeros((4, 8), jnp.int32), jnp.ones((4, 7))),
            r"`attention_mask` must have the shape of `token_ids`, \(4, 8\), got \(4, 7\)",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(call)
