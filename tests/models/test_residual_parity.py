"""ResNet and WideResNet against the official TSAM code: outputs, gradients, BatchNorm buffers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_models import cross_entropy, flat, record, relative_error, split

from tsam_jax.models import _names_resnet, resnet, wide_resnet

NAMES = {
    "thin_resnet18_w4": _names_resnet.resnet_names(
        (2, 2, 2, 2), shortcut="shortcut", head="linear"
    ),
    "wrn16_1": _names_resnet.wide_resnet_names(3),
}
BUILD = {
    "thin_resnet18_w4": functools.partial(resnet.build, width=4),
    "wrn16_1": functools.partial(wide_resnet.build_official, depth=16, widening=1),
}


def loaded(name, dtype):
    """Network with the recorded weights: graphs for training and evaluation, and states."""
    model = nnx.eval_shape(lambda: BUILD[name](10, rngs=nnx.Rngs(0)))
    stored = record(name)
    weights = {
        path: jnp.asarray(layout(stored[f"weight/{theirs}"]), dtype)
        for path, (theirs, layout) in NAMES[name].items()
    }
    model.train()
    training, *states = split(model)
    model.eval()
    evaluation = split(model)[0]
    fill = lambda path, _: weights[jax.tree_util.keystr(path, simple=True, separator="/")]  # noqa: E731
    return training, evaluation, *(jax.tree.map_with_path(fill, state) for state in states)


def images(name, dtype):
    return jnp.asarray(record(name)["input/x"].transpose(0, 2, 3, 1), dtype)


def stages(model, x):
    """Outputs of the stages, averaged over the image, by their official names."""
    if isinstance(model, resnet.ResNet):
        outputs, groups = {"conv1": model.conv(x)}, model.stages
        x, names = model.stem(x), ["layer1", "layer2", "layer3", "layer4"]
    else:
        x, groups = model.conv(x), model.groups
        outputs, names = {"f.0_convolution": x}, ["f.1_block", "f.2_block", "f.3_block"]
    for key, group in zip(names, groups, strict=True):
        for block in group:
            x = block(x)
        outputs[key] = x
    if isinstance(model, wide_resnet.WideResNet):
        outputs["f.6_pooling"] = nnx.relu(model.norm(x))
    return {key: y.mean((1, 2)) for key, y in outputs.items()}


@functools.cache
def in_float64(name):
    """Evaluation logits and stages; training loss, logits and gradients; updated statistics."""
    training, evaluation, params, rest = loaded(name, jnp.float64)
    x, y = images(name, jnp.float64), record(name)["input/y"]

    @functools.partial(jax.value_and_grad, has_aux=True)
    def train(params):
        model = nnx.merge(training, params, rest)
        logits = model(x)
        return cross_entropy(logits, y), (logits, nnx.as_pure(nnx.state(model, nnx.BatchStat)))

    def evaluate(params):
        model = nnx.merge(evaluation, params, rest)
        return model(x), stages(model, x)

    return jax.device_get(jax.jit(lambda params: (*evaluate(params), *train(params)))(params))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_in_float64(name, x64):
    logits, means, *_ = in_float64(name)
    stored = record(name)
    assert relative_error(logits, stored["logits_eval64"]) < 1e-10
    recorded = {key for key in stored if key.startswith("stage_mean64/")}
    assert recorded == {f"stage_mean64/{key}" for key in means}
    for key, mean in means.items():
        assert relative_error(mean, stored[f"stage_mean64/{key}"]) < 1e-10, key


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_training_in_float64(name, x64):
    _, _, (loss, (logits, _)), grads = in_float64(name)
    stored, grads = record(name), flat(grads)
    assert relative_error(loss, stored["loss_train64"]) < 1e-10
    assert relative_error(logits, stored["logits_train64"]) < 1e-10
    length = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    assert relative_error(length, stored["grad_train64_global_norm"]) < 1e-10
    ours = {theirs: (path, layout) for path, (theirs, layout) in NAMES[name].items()}
    for key in (key for key in stored if key.startswith("grad_train64/")):
        path, layout = ours[key.removeprefix("grad_train64/")]
        assert relative_error(grads[path], layout(stored[key])) < 1e-9, key


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_running_statistics_are_pytorchs(name, x64):
    _, _, (_, (_, statistics)), _ = in_float64(name)
    stored, statistics = record(name), flat(statistics)
    recorded = [key for key in stored if key.startswith("buf_after") and "running" in key]
    assert len(recorded) == len(statistics)
    for path, x in statistics.items():
        theirs = NAMES[name][path].name
        assert relative_error(x, stored[f"buf_after_train64/{theirs}"]) < 1e-10, theirs


@pytest.mark.parametrize("name", NAMES)
def test_logits_in_float32(name):
    *graphs, params, rest = loaded(name, jnp.float32)
    x = images(name, jnp.float32)
    run = jax.jit(lambda *state: [nnx.merge(graph, *state)(x) for graph in graphs])
    for mode, logits in zip(("train", "eval"), run(params, rest), strict=True):
        assert relative_error(logits, record(name)[f"logits_{mode}32"]) < 1e-5, mode
