"""A generated ViT checkpoint: a new head on the stored encoder."""

import jax
import numpy as np
import pytest
from checkpoints import write_vit
from flax import nnx
from golden_models import FOLDER, flat, split
from safetensors.numpy import load_file

from tsam_jax.models.pretrained import load_pretrained


def test_the_names_are_those_of_transformers(tmp_path):
    made = load_file(write_vit(tmp_path) / "model.safetensors")
    real = load_file(FOLDER / "hf_vit" / "model.safetensors")
    assert {k: x.shape for k, x in made.items()} == {k: x.shape for k, x in real.items()}


@pytest.mark.parametrize("outputs", [10, None])
def test_a_new_head_on_the_stored_encoder(outputs, tmp_path, caplog):
    caplog.set_level("INFO", "tsam_jax")
    folder = write_vit(tmp_path, outputs=outputs)
    model = load_pretrained(folder, num_outputs=3, rngs=nnx.Rngs(0))
    assert caplog.messages == [f"{folder}: newly initialised: head"]
    stored = load_file(folder / "model.safetensors")
    prefix = "" if outputs is None else "vit."
    query = stored[f"{prefix}encoder.layer.1.attention.attention.query.weight"]
    np.testing.assert_array_equal(model.layers[1].attention.query.kernel[...], query.T)

    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    graph, params, rest = split(model)
    logits = nnx.merge(graph, params, rest)(images)
    assert logits.shape == (4, 3)
    grads = jax.grad(lambda p: nnx.merge(graph, p, rest)(images)[:, 0].mean())(params)
    constant = [path for path, g in flat(grads).items() if not g.any()]
    assert constant == []  # only the head's weights are new, and all weights are trainable


def test_the_stored_head_is_kept(tmp_path):
    folder = write_vit(tmp_path, outputs=10)
    model = load_pretrained(folder, rngs=nnx.Rngs(0))
    kernel = load_file(folder / "model.safetensors")["classifier.weight"].T
    np.testing.assert_array_equal(model.head.kernel[...], kernel)
