"""Loading of checkpoints: heads, formats and errors."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from golden_models import FOLDER, flat, record, split
from safetensors.numpy import load_file, save_file

from tsam_jax.models import _checkpoint_files
from tsam_jax.models.pretrained import PretrainedError, architecture_of, load_pretrained


def load(path, **options):
    return load_pretrained(path, rngs=nnx.Rngs(0), **options)


def parameters(model):
    """Parameters and statistics by path."""
    _, params, rest = split(model)
    floats = {path: x for path, x in flat(rest).items() if x.dtype == jnp.float32}
    return {path: np.asarray(x) for path, x in (flat(params) | floats).items()}


def assert_same(actual, desired, *, but=()):
    actual, desired = parameters(actual), parameters(desired)
    assert actual.keys() == desired.keys()
    for path, x in desired.items():
        if not path.startswith(but):
            np.testing.assert_array_equal(actual[path], x, err_msg=path)


def tensors_of(name):
    return load_file(FOLDER / name / "model.safetensors")


def write(folder, tensors, name=None, **changes):
    """Writes a checkpoint; with a reference model's `name`, also its config.json with `changes`."""
    folder.mkdir(exist_ok=True)
    tensors = {key: np.ascontiguousarray(x) for key, x in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    if name:
        config = json.loads((FOLDER / name / "config.json").read_text()) | changes
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if value != "absent"})
        )
    return folder


@pytest.fixture(scope="module")
def distilbert():
    return load(FOLDER / "hf_distilbert")


@pytest.fixture(scope="module")
def vit():
    return load(FOLDER / "hf_vit")


def test_a_head_of_another_size_is_made_anew(distilbert, caplog):
    caplog.set_level("INFO", "tsam_jax")
    model = load(FOLDER / "hf_distilbert", num_outputs=5)
    assert caplog.messages == [f"{FOLDER / 'hf_distilbert'}: newly initialised: head"]
    assert_same(model, distilbert, but=("head/",))
    kernel = np.asarray(model.head.kernel[...])
    assert kernel.shape == (32, 5)
    assert 0.01 < kernel.std() < 0.03
    assert not model.head.bias[...].any()
    other = load_pretrained(FOLDER / "hf_distilbert", num_outputs=5, rngs=nnx.Rngs(1))
    assert (other.head.kernel[...] != kernel).all()


def test_a_head_of_the_same_size_is_kept(distilbert):
    model = load_pretrained(FOLDER / "hf_distilbert", num_outputs=2, rngs=nnx.Rngs(1))
    assert_same(model, distilbert)
    kernel = tensors_of("hf_distilbert")["classifier.weight"].T
    np.testing.assert_array_equal(model.head.kernel[...], kernel)


def test_a_checkpoint_without_head_gets_one(distilbert, tmp_path):
    tensors = {
        key.removeprefix("distilbert."): x
        for key, x in tensors_of("hf_distilbert").items()
        if "classifier" not in key
    }
    tensors["vocab_projector.bias"] = np.zeros(100, np.float32)  # of another task
    folder = write(tmp_path, tensors, "hf_distilbert")
    with pytest.raises(PretrainedError, match=r"no head; pass `load_pretrained\(num_outputs="):
        load(folder)
    model = load(folder, num_outputs=2)
    assert_same(model, distilbert, but=("head/", "pre_classifier/"))
    assert 0.01 < np.std(model.pre_classifier.kernel[...]) < 0.03


def test_the_pooler_of_bert_may_be_missing_only_without_a_head(tmp_path):
    tensors = {k: x for k, x in tensors_of("hf_bert").items() if "pooler" not in k}
    folder = write(tmp_path, tensors, "hf_bert")
    with pytest.raises(PretrainedError, match=r"no head; pass"):
        load(folder)  # this head is for token classification or question answering
    outputs = len(tensors["classifier.bias"])
    for n in (outputs, outputs + 1):
        model = load(folder, num_outputs=n)
        assert model.head.kernel.shape == (32, n)
        assert (model.head.kernel[...] != np.zeros((32, n))).all()
    stored = tensors["classifier.weight"].T
    assert (load(folder, num_outputs=outputs).head.kernel[...] != stored).any()


OTHER_TASKS = {
    "hf_bert": ("qa_outputs.weight", "cls.predictions.bias", "cls.seq_relationship.weight"),
    "hf_distilbert": ("qa_outputs.bias", "vocab_transform.weight", "vocab_layer_norm.bias"),
    "hf_vit": ("decoder.0.weight", "vit.embeddings.mask_token", "vit.pooler.dense.bias"),
}


@pytest.mark.parametrize(("name", "others"), OTHER_TASKS.items())
def test_heads_of_other_tasks_are_passed_over(name, others, tmp_path):
    heads = ("classifier.", "pre_classifier.", "bert.pooler.")
    tensors = {k: x for k, x in tensors_of(name).items() if not k.startswith(heads)}
    tensors |= {other: np.zeros(2, np.float32) for other in others}
    model = load(write(tmp_path, tensors, name), num_outputs=7)
    assert_same(model, load(FOLDER / name), but=("head/", "pooler/", "pre_classifier/"))


def test_wrong_tensors_are_listed_by_name(tmp_path):
    tensors = tensors_of("hf_distilbert")
    del tensors["distilbert.embeddings.LayerNorm.bias"]
    tensors["adapter.weight"] = np.zeros(3, np.float32)
    tensors["pre_classifier.weight"] = np.zeros((32, 31), np.float32)
    tensors["pre_classifier.bias"] = np.zeros(32, np.int8)
    tensors["distilbert.embeddings.word_embeddings.weight"] = np.zeros(100, np.float32)
    with pytest.raises(PretrainedError) as error:
        load(write(tmp_path, tensors, "hf_distilbert"))
    assert str(error.value).endswith(
        "does not fit a DistilBert with these settings. Tensors"
        " missing: distilbert.embeddings.LayerNorm.bias;"
        " unexpected: adapter.weight;"
        " of another shape or dtype: distilbert.embeddings.word_embeddings.weight float32[100] (for"
        " embeddings/words/embedding [100, 32]), pre_classifier.bias int8[32] (for"
        " pre_classifier/bias [32]), pre_classifier.weight float32[32, 31] (for"
        " pre_classifier/kernel [32, 32])."
    )


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hf_bert", {"model_type": "gpt2"}, "`model_type` .* must be 'bert', .* got 'gpt2'"),
        ("hf_bert", {"hidden_act": "relu"}, "`hidden_act` .* must be 'gelu', got 'relu'"),
        ("hf_bert", {"position_embedding_type": "relative_key"}, "must be 'absolute', got 'relat"),
        ("hf_bert", {"is_decoder": True}, "`is_decoder` .* must be False, got True"),
        ("hf_bert", {"hidden_size": "absent"}, "`hidden_size` is missing"),
        ("hf_bert", {"num_attention_heads": "4"}, "`num_attention_heads` .* a positive 32-bit"),
        ("hf_bert", {"layer_norm_eps": -1.0}, "`layer_norm_eps` .* number >= 0 and < 1, got -1"),
        ("hf_bert", {"hidden_dropout_prob": 5}, "`hidden_dropout_prob` .* < 1, got 5"),
        ("hf_bert", {"num_attention_heads": 7}, "`heads` must divide `width`"),
        ("hf_bert", {"num_hidden_layers": 10**9}, "`num_hidden_layers` .* is 1000000000, but ther"),
        ("hf_bert", {"vocab_size": 10**9}, r"word_embeddings.weight .*\[1000000000, 32\]"),
        ("hf_bert", {"intermediate_size": 10**30}, "`intermediate_size` .* positive 32-bit .* got"),
        ("hf_vit", {"image_size": 10**6}, r"position_embeddings .*\[1, 15625000001, 32\]"),
        ("hf_vit", {"patch_size": 10**9}, "`patch` must divide height and width"),
        ("hf_distilbert", {"activation": "relu"}, "`activation` .* got 'relu'"),
        (
            "hf_distilbert",
            {"n_layers": 3},
            "`n_layers` .* is 3, but there are tensors for 2 layers",
        ),
        (
            "hf_distilbert",
            {"n_layers": 1},
            "`n_layers` .* is 1, but there are tensors for 2 layers",
        ),
        ("hf_distilbert", {"dim": 64}, r"shape or dtype: .*\[32\] \(for embeddings/norm/bias \[64"),
        ("hf_vit", {"qkv_bias": False}, "`qkv_bias` .* must be True, got False"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, changes, message, tmp_path):
    with pytest.raises(PretrainedError, match=message):
        load(write(tmp_path, tensors_of(name), name, **changes))


def test_settings_are_those_of_the_config(tmp_path):
    changes = {"seq_classif_dropout": 0.4, "dropout": 0.3, "attention_dropout": 0.0}
    folder = write(tmp_path, tensors_of("hf_distilbert"), "hf_distilbert", **changes)
    model = load(folder)
    layer = model.layers[0]
    rates = model.dropout.rate, layer.dropout.rate, model.embeddings.dropout.rate
    assert (*rates, layer.attention.dropout.rate) == (0.4, 0.3, 0.3, 0.0)
    assert layer.attention_dropout.rate == 0  # BERT drops here, DistilBERT does not
    assert load(folder, dropout=0.0).layers[0].dropout.rate == 0.0
    bert = load(FOLDER / "hf_bert", dropout=0.25)
    assert (bert.dropout.rate, bert.layers[0].attention_dropout.rate) == (0.25, 0.25)


def test_shards_are_put_together(distilbert, tmp_path):
    tensors = tensors_of("hf_distilbert")
    files = {key: f"model-{len(key) % 2}.safetensors" for key in tensors}
    for file in set(files.values()):
        save_file({k: x for k, x in tensors.items() if files[k] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    shutil.copy(FOLDER / "hf_distilbert" / "config.json", tmp_path)
    index.write_text(json.dumps({"weight_map": files}))
    assert_same(load(tmp_path), distilbert)

    index.write_text(json.dumps({"weight_map": files | {"more": "model-0.safetensors"}}))
    with pytest.raises(PretrainedError, match=r"does not match its files: .*: more"):
        load(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "../model-0.safetensors"}}))
    with pytest.raises(PretrainedError, match="which is not a file in its folder"):
        load(tmp_path)
    index.write_text("[]")
    with pytest.raises(PretrainedError, match="must contain a JSON object, got a list"):
        load(tmp_path)


def test_stored_half_precision_becomes_float32(distilbert, tmp_path):
    tensors = tensors_of("hf_distilbert")
    half = {key: x.astype(ml_dtypes.bfloat16) for key, x in tensors.items()}
    model = load(write(tmp_path, half, "hf_distilbert"))
    for path, x in parameters(distilbert).items():
        rounded = x.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(parameters(model)[path], rounded)


def test_values_that_float32_cannot_hold_are_refused(tmp_path):
    for value in (1e300, -1e300, np.nan, np.inf):
        tensors = tensors_of("hf_distilbert")
        name = "distilbert.embeddings.LayerNorm.bias"
        tensors[name] = tensors[name].astype(np.float64)
        load(write(tmp_path, tensors, "hf_distilbert"))
        tensors[name][3] = value
        with pytest.raises(PretrainedError, match=f"Tensors not finite in float32: {name}.$"):
            load(write(tmp_path, tensors, "hf_distilbert"))


@pytest.mark.parametrize(
    ("dtype", "called"), [("float8_e4m3fn", "F8_E4M3"), ("float8_e5m2", "F8_E5M2"), ("c8", "C64")]
)
def test_types_that_are_not_supported_are_named(dtype, called, tmp_path):
    tensors = tensors_of("hf_distilbert")
    name = "pre_classifier.bias"
    tensors[name] = tensors[name].astype(np.dtype(dtype))
    message = f"tensor {name} has the unsupported dtype {called}; convert it to float32"
    with pytest.raises(PretrainedError, match=message):
        load(write(tmp_path, tensors, "hf_distilbert"))


def test_integers_are_read_in_full(tmp_path):
    save_file({"count": np.array([2**40 + 1])}, tmp_path / "x.safetensors")
    assert _checkpoint_files.read(tmp_path / "x.safetensors").tensors["count"] == 2**40 + 1


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs_is_called_by_its_name(name, tmp_path):
    write(tmp_path, tensors_of("hf_bert"), "hf_bert")
    (tmp_path / name).write_text(POINTER)
    message = f"{name} is a Git LFS pointer, not the file; run `git lfs pull`.$"
    with pytest.raises(PretrainedError, match=message):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_text(POINTER)
    with pytest.raises(PretrainedError, match="is a Git LFS pointer"):
        architecture_of(tmp_path / "model.safetensors")


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
    """Truncated anywhere, or with any byte of the header changed."""
    whole = (FOLDER / "hf_bert" / "model.safetensors").read_bytes()
    write(tmp_path, tensors_of("hf_bert"), "hf_bert")
    file, rng = tmp_path / "model.safetensors", np.random.default_rng(0)
    for cut in (0, 1, 7, 8, 9, *rng.integers(10, len(whole), 10), len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(PretrainedError, match="is not a complete safetensors file: ") as error:
            load(tmp_path)
        assert len(str(error.value)) < 400
    for place in (*range(8), *rng.integers(8, 2000, 12)):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        with pytest.raises(PretrainedError):
            load(tmp_path)


def test_layers_are_counted_not_believed(tmp_path):
    for name, old, new in (
        ("thin_resnet18_w4", "layer4.1.", "layer4.999999999999."),
        ("thin_resnet18_w4", "layer4.1.", "layer999999999999.1."),
        ("wrn16_1", "f.1_block.block.2.", "f.1_block.block.999999999999."),
    ):
        tensors = {key.replace(old, new): x for key, x in official(name).items()}
        with pytest.raises(PretrainedError, match="does not fit"):
            load(write(tmp_path, tensors) / "model.safetensors")


def test_files_that_are_none_are_refused(tmp_path):
    for odd in ("x" * 5000, "\0", str(FOLDER / "hf_bert" / "config.json" / "x")):
        with pytest.raises(PretrainedError, match="must be a safetensors file, or a folder"):
            load(odd)
    (tmp_path / "deep.json").write_text("[" * 10**5)
    with pytest.raises(PretrainedError, match=r"deep.json is not a JSON file"):
        _checkpoint_files._json(tmp_path / "deep.json")
    (tmp_path / "x.bin").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(PretrainedError, match=r"x.bin contains pickled code; convert it"):
        load(tmp_path / "x.bin")
    with pytest.raises(PretrainedError, match=r"must be a safetensors file, or a folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(PretrainedError, match=r"contain pickled code; convert them"):
        load(tmp_path)
    whole = (FOLDER / "hf_vit" / "model.safetensors").read_bytes()
    file = tmp_path / "model.safetensors"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PretrainedError, match=r"model.safetensors is not a complete safetensors"):
        load(tmp_path)
    file.write_bytes(whole)
    with pytest.raises(
        PretrainedError, match=r"Without a Hugging Face config.json, its tensors must be"
    ):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PretrainedError, match=r"config.json is not a JSON file"):
        load(tmp_path)


def test_old_names_of_layer_norm(tmp_path):
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): x
        for key, x in tensors_of("hf_bert").items()
    }
    old["cls.predictions.bias"] = np.zeros(100, np.float32)
    assert_same(load(write(tmp_path, old, "hf_bert")), load(FOLDER / "hf_bert"))


def renamed(layer, rest, fused):
    """Renames transformers' ViT: the parts of its layers, the rest, and q, k, v."""
    tensors = {}
    stored = tensors_of("hf_vit")
    for key, x in stored.items():
        name, _, kind = key.rpartition(".")
        if not key.startswith("vit.encoder.layer."):
            tensors[rest[key] if key in rest else f"{rest[name]}.{kind}"] = x
            continue
        index, _, part = name.removeprefix("vit.encoder.layer.").partition(".")
        if part in layer:
            tensors[f"{layer[part].format(index)}.{kind}"] = x
        elif part.endswith("query"):
            parts = [stored[key.replace("query", other)] for other in ("query", "key", "value")]
            tensors[fused.format(index, kind)] = np.concatenate(parts)
    return tensors


def test_vit_of_timm(vit, tmp_path):
    layer = {
        "layernorm_before": "blocks.{}.norm1",
        "attention.output.dense": "blocks.{}.attn.proj",
        "layernorm_after": "blocks.{}.norm2",
        "intermediate.dense": "blocks.{}.mlp.fc1",
        "output.dense": "blocks.{}.mlp.fc2",
    }
    rest = {
        "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "vit.layernorm": "norm",
        "classifier": "head",
    }
    tensors = renamed(layer, rest, "blocks.{}.attn.qkv.{}")
    assert_same(load(write(tmp_path, tensors) / "model.safetensors", heads=4), vit)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": "vit_tiny_patch8_32", "num_classes": 10}))
    model = load(tmp_path, heads=4)
    assert_same(model, vit)
    assert (model.norm.epsilon, model.layers[1].attention.heads) == (1e-6, 4)
    config.write_text(json.dumps({"architecture": "vit_base_patch16_clip_quickgelu_224"}))
    with pytest.raises(
        PretrainedError, match=r"`architecture` .* got 'vit_base_patch16_clip_quick"
    ):
        load(tmp_path)


@pytest.mark.parametrize("dense", ["encoder_layer_{}.mlp.0", "encoder_layer_{}.mlp.linear_1"])
def test_vit_of_torchvision(dense, vit, tmp_path):
    layer = {
        "layernorm_before": "encoder_layer_{}.ln_1",
        "attention.output.dense": "encoder_layer_{}.self_attention.out_proj",
        "layernorm_after": "encoder_layer_{}.ln_2",
        "intermediate.dense": dense,
        "output.dense": dense.replace("_1", "_2").replace("mlp.0", "mlp.3"),
    }
    layer = {key: f"encoder.layers.{name}" for key, name in layer.items()}
    rest = {
        "vit.embeddings.cls_token": "class_token",
        "vit.embeddings.position_embeddings": "encoder.pos_embedding",
        "vit.embeddings.patch_embeddings.projection": "conv_proj",
        "vit.layernorm": "encoder.ln",
        "classifier": "heads.head",
    }
    fused = "encoder.layers.encoder_layer_{}.self_attention.in_proj_{}"
    folder = write(tmp_path, renamed(layer, rest, fused))
    assert_same(load(folder / "model.safetensors", heads=4), vit)


def test_positions_of_vit_for_larger_images(vit, tmp_path):
    tensors = tensors_of("hf_vit")
    name = "vit.embeddings.position_embeddings"
    rows = np.repeat(np.arange(4), 4)[:, None] + 10 * np.tile(np.arange(4), 4)[:, None]
    tensors[name] = tensors[name].copy()
    tensors[name][0, 1:] = rows  # the same in all 32 features
    model = load(write(tmp_path, tensors, "hf_vit"), image_shape=(32, 64, 3))
    assert_same(model, vit, but=("embeddings/positions",))
    positions = np.asarray(model.embeddings.positions[...])
    np.testing.assert_array_equal(positions[:, 0], tensors[name][:, 0])
    grid = positions[0, 1:].reshape(4, 8, 32)
    np.testing.assert_allclose(np.diff(grid, axis=0), 1, atol=1e-5)
    inner = grid[0, 3:5]  # away from the border, where interpolation is exact for linear functions
    np.testing.assert_allclose(inner, np.repeat([[12.5], [17.5]], 32, 1), atol=1e-5)


def official(name):
    prefix = "weight/"
    stored = record(name)
    return {k.removeprefix(prefix): x for k, x in stored.items() if k.startswith(prefix)}


def test_resnets_of_the_official_code_torchvision_and_timm(tmp_path):
    tensors = official("thin_resnet18_w4")
    model = load(write(tmp_path / "official", tensors) / "model.safetensors")
    assert [len(stage) for stage in model.stages] == [2, 2, 2, 2]
    np.testing.assert_array_equal(model.norm.var[...], tensors["bn1.running_var"])
    for old, new in (("shortcut", "downsample"), ("linear.", "fc.")):
        tensors = {key.replace(old, new): x for key, x in tensors.items()}
    folder = write(tmp_path / "torchvision", tensors)
    assert_same(load(folder / "model.safetensors"), model)
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    assert_same(load(folder, num_outputs=3), model, but=("head/",))

    tensors["conv1.weight"] = np.zeros((4, 3, 7, 7), np.float32)
    assert load(write(folder, tensors)).pool_stem
    tensors["layer1.0.conv3.weight"] = np.zeros((4, 4, 1, 1), np.float32)
    with pytest.raises(PretrainedError, match="bottleneck blocks, as in ResNet-50"):
        load(write(folder, tensors))


def test_wide_resnet_of_the_official_code(tmp_path):
    tensors = official("wrn16_1")
    model = load(write(tmp_path, tensors) / "model.safetensors")
    assert [len(group) for group in model.groups] == [3, 3, 3]
    np.testing.assert_array_equal(model.norm.mean[...], tensors["f.4_normalization.running_mean"])
