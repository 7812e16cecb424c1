"""BERT, DistilBERT and ViT against Hugging Face transformers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_models import FOLDER, cross_entropy, flat, record, relative_error, split

from tsam_jax.models import _names_text, _names_vit
from tsam_jax.models.pretrained import load_pretrained

NAMES = {
    "hf_bert": _names_text.bert_names(2),
    "hf_distilbert": _names_text.distilbert_names(2),
    "hf_vit": _names_vit.hugging_face_names(2),
}


def loaded(name):
    model = load_pretrained(FOLDER / name, rngs=nnx.Rngs(0))
    model.eval()
    return model


def inputs(name, dtype):
    """Arguments of the model's call."""
    stored = record(name)
    if name == "hf_vit":
        return (jnp.asarray(stored["input/pixel_values"].transpose(0, 2, 3, 1), dtype),)
    names = ("input_ids", "attention_mask", "token_type_ids")
    given = (stored.get(f"input/{key}") for key in names)
    return tuple(None if x is None else jnp.asarray(x, jnp.int32) for x in given)


def hidden_states(name, model, arguments):
    """Embeddings and the output of each layer, as in the model's `__call__`."""
    if name == "hf_vit":
        x, more = model.embeddings(*arguments), ()
    else:
        used = arguments if name == "hf_bert" else arguments[:1]
        x, more = model.embeddings(*used), (arguments[1] != 0,)
    states = [x]
    for layer in model.layers:
        states.append(layer(states[-1], *more))
    return jnp.stack(states)


@functools.cache
def in_float64(name):
    """Loss, logits, hidden states, and gradients by path."""
    graph, params, rest = split(loaded(name), jnp.float64)
    arguments, labels = inputs(name, jnp.float64), record(name)["input/labels"]

    @functools.partial(jax.value_and_grad, has_aux=True)
    def compute(params):
        model = nnx.merge(graph, params, rest)
        logits = model(*arguments)
        return cross_entropy(logits, labels), (logits, hidden_states(name, model, arguments))

    (loss, (logits, states)), grads = jax.device_get(jax.jit(compute)(params))
    return loss, logits, states, flat(grads)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_outputs_in_float64(name, x64):
    loss, logits, states, _ = in_float64(name)
    stored = record(name)
    assert logits.dtype == np.float64
    assert relative_error(loss, stored["loss64"]) < 1e-10
    assert relative_error(logits, stored["logits64"]) < 1e-10
    assert relative_error(states, stored["hidden_states64"]) < 1e-10


# Softmax does not depend on a key's bias, so its gradient is zero. The computed one is the rounding
# error of a sum whose terms are as large as a query bias's gradient, up to 0.5: a few times
# 0.5 x 2^-53. Measured norms are 0.2 to 2.3e-16 and differ between AVX2 and AVX-512; 1e-15 is 18
# such rounding errors.
ROUNDING = 1e-15


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_float64(name, x64):
    *_, grads = in_float64(name)
    stored, names = record(name), NAMES[name]
    assert grads.keys() == names.keys()
    norms = dict(zip(stored["param_names"].tolist(), stored["grad64_norms"], strict=True))
    assert norms.keys() == {source.name for source in names.values()}
    compared = 0
    for path, (theirs, layout) in names.items():
        np.testing.assert_allclose(np.linalg.norm(grads[path]), norms[theirs], 1e-10, ROUNDING)
        if f"grad64/{theirs}" in stored:
            compared += 1
            desired = layout(stored[f"grad64/{theirs}"])
            tolerance = 1e-10 * np.abs(desired).max() + ROUNDING
            np.testing.assert_allclose(grads[path], desired, 0, tolerance, err_msg=theirs)
    assert compared == sum(key.startswith("grad64/") for key in stored)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_in_float32(name):
    logits = nnx.jit(lambda model, *x: model(*x))(loaded(name), *inputs(name, jnp.float32))
    assert relative_error(logits, record(name)["logits32"]) < 1e-5
