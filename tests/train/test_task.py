"""Tasks of images, text and numbers: made from small arrays, trained for a step or two."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from rich.console import Console

from tsam_jax import cli, data
from tsam_jax.commands.study import Train
from tsam_jax.data import augmentation
from tsam_jax.train import config, loop, run
from tsam_jax.train.metrics import METRICS
from tsam_jax.train.progress import Progress
from tsam_jax.train.resolve import resolve
from tsam_jax.train.settings import parse
from tsam_jax.train.task import AUGMENTATIONS, load_task, open_data

RNG = np.random.default_rng(0)
MODELS = Path(__file__).parent.parent / "data" / "models"


def opened(inputs, labels, **fields):
    part = data.Records(labels, lambda rows: jax.tree.map(lambda x: x[rows], inputs))
    return data.OpenSplits(part, part, part, **fields)


IMAGES = opened(
    RNG.integers(0, 256, (12, 8, 8, 3), np.uint8) // np.array([1, 2, 4], np.uint8),
    RNG.integers(0, 3, 12).astype(np.int32),
    num_classes=3,
)
READ = data.read_splits(IMAGES)
TOKENS = RNG.integers(5, 50, (12, 6)).astype(np.int32)
TEXT = {
    "token_ids": TOKENS,
    "attention_mask": np.ones_like(TOKENS),
    "token_type_ids": np.zeros_like(TOKENS),
}
SIMILARITY = opened(
    TEXT, RNG.random(12).astype(np.float32), num_classes=None, kind="text", vocab_size=50
)


def trained(task, dataset, text="sam(rho=0.05)", epochs=2):
    loaded = load_task(task, [0], opened=dataset)
    optimizer = config.Optimizer(batch_size=6, lr=0.05)
    plan = loop.plan_for(parse(text)[0], optimizer, loaded.train_size, epochs)
    metrics = {name: METRICS[name].function for name in loaded.metrics if name != "loss"}
    program = loop.make_program(loaded.network, plan, loaded.train_size, metrics=metrics)
    start = program.init(0, loop.numbers_for(parse(text)[0], optimizer))
    return loaded, list(loop.train(program, start, loaded.of_seed(0), ends=range(1, epochs + 1)))


def test_images_train_from_bytes_with_augmentation_in_half_precision():
    task = config.Task(
        model="cnn",
        augmentation="official",
        loss="official",
        label_smoothing=0.1,
        precision="bfloat16",
    )
    loaded, rounds = trained(task, IMAGES, "sam(rho=0.01)", epochs=12)
    assert loaded.data.train.inputs.dtype == jnp.uint8
    assert {x.dtype for x in jax.tree.leaves(rounds[-1].state.params)} == {jnp.dtype("float32")}
    losses = [this.metrics["train_loss"] for this in rounds]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_text_trains_on_numbers_with_the_loss_as_the_measure():
    task = config.Task(model="bert-tiny", loss="mse")
    loaded, rounds = trained(task, SIMILARITY)
    assert loaded.metrics == ("loss",)
    assert set(rounds[0].metrics) == {"train_loss", "validation_loss", "test_loss", "step_loss"}
    assert np.isfinite(rounds[-1].metrics["train_loss"])


@pytest.mark.parametrize(
    ("fields", "dataset", "names"),
    [
        ({"model": "cnn"}, IMAGES, ("accuracy",)),
        ({"model": "cnn", "metrics": ("f1", "accuracy")}, IMAGES, ("f1", "accuracy")),
        ({"model": "bert-tiny", "dataset": "glue:STS-B"}, SIMILARITY, ("pearson", "spearman")),
    ],
)
def test_a_task_has_its_measures_and_the_first_one_selects(fields, dataset, names):
    loaded, rounds = trained(config.Task(**fields), dataset, epochs=1)
    assert loaded.metrics == (*names, "loss")
    measured = {f"{part}_{name}" for part in loop.PARTS for name in (*names, "loss")}
    assert measured <= rounds[0].metrics.keys()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_with_a_constant_channel_train(name, tmp_path):
    images = RNG.integers(0, 256, (60, 8, 8, 3), np.uint8)
    images[..., 1] = 7
    np.savez(tmp_path / "mine.npz", train_images=images, train_labels=np.arange(60) % 3)
    task = config.Task(dataset=f"npz:{tmp_path / 'mine.npz'}", model="cnn", augmentation=name)
    dataset = open_data(task)
    assert data.read_splits(dataset).std[1] == 1
    _, rounds = trained(task, dataset)
    assert np.isfinite(rounds[-1].metrics["train_loss"])
    for x in jax.tree.leaves(rounds[-1].state.params):
        assert jnp.isfinite(x).all()


def test_images_are_normalised_in_training_and_in_evaluation():
    network = load_task(config.Task(model="cnn"), [0], opened=IMAGES).network
    found = network.augment(jax.random.key(0), READ.train.inputs)
    expected = (READ.train.inputs / 255 - np.array(READ.mean)) / np.array(READ.std)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "patch"), [("official", 16), ("crop-flip", 0)])
def test_crop_flip_is_the_official_recipe_without_cutout(name, patch):
    task = config.Task(model="cnn", augmentation=name)
    network = load_task(task, [0], opened=IMAGES).network
    key = jax.random.key(3)
    crop_key, flip_key, cutout_key = jax.random.split(key, 3)
    flipped = augmentation.random_flip(flip_key, READ.train.inputs)
    shifted = augmentation.random_crop(crop_key, flipped, 4)
    expected = augmentation.normalise(shifted, READ.mean, READ.std)
    expected = augmentation.cutout(cutout_key, expected, patch, probability=0.5)
    np.testing.assert_array_equal(network.augment(key, READ.train.inputs), expected)


def test_label_noise_has_the_law_that_is_named():
    labels = np.zeros(2000, np.int32)
    inputs = np.zeros((2000, 2), np.float32)
    dataset = opened(inputs, labels, num_classes=4, kind="vector")
    shares = {}
    for law in ("other-labels", "official"):
        task = config.Task(model="mlp", label_noise=0.4, noise_law=law)
        noisy = load_task(task, [0, 1], opened=dataset).data.train.labels
        assert (noisy[0] != noisy[1]).any()
        shares[law] = float((noisy[0] != 0).mean())
    assert shares["other-labels"] == pytest.approx(0.4)
    assert shares["official"] == pytest.approx(0.3, abs=0.04)  # 0.4 (1 - 1/4); 4 standard errors


def test_texts_longer_than_a_checkpoint_takes_are_refused_before_training():
    tokens = np.full((12, 100), 7, np.int32)
    inputs = {name: tokens if name == "token_ids" else np.ones_like(tokens) for name in TEXT}
    texts = opened(inputs, RNG.random(12).astype(np.float32), num_classes=None, kind="text")
    task = config.Task(pretrained=str(MODELS / "hf_bert"), loss="mse")
    with pytest.raises(config.ConfigError, match=r"`--max-length 128`: .*at most"):
        load_task(task, [0], opened=texts._replace(vocab_size=50))


def test_pretrained_weights_are_the_same_for_every_seed_and_the_head_is_not():
    task = config.Task(pretrained=str(MODELS / "hf_bert"), loss="mse", dropout=0.0)
    network = load_task(task, [0], opened=SIMILARITY).network
    plan = loop.plan_for(parse("erm")[0], config.Optimizer(batch_size=6), 12, 1)
    program = loop.make_program(network, plan, 12)
    first, second = (jax.tree.leaves_with_path(program.init(seed).params) for seed in (0, 1))
    differ = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, x), (_, y) in zip(first, second, strict=True)
        if (x != y).any()
    }
    assert differ == {"head/kernel"}


@pytest.mark.parametrize(
    ("fields", "dataset", "message"),
    [
        ({"model": "resnet"}, IMAGES, "`resnet` is not a known model: .*Perhaps you meant"),
        ({"model": "bert-tiny"}, IMAGES, "`--model bert-tiny` is for text"),
        ({"model": "cnn", "loss": "mse"}, SIMILARITY, "is for image, and digits has text"),
        (
            {"model": "cnn", "loss": "mse"},
            IMAGES,
            "`--loss` must be mse for regression.*'mse' for digits",
        ),
        ({"model": "bert-tiny", "loss": "cross-entropy"}, SIMILARITY, "`--loss` must be mse"),
        ({"model": "bert-tiny", "label_noise": 0.1}, SIMILARITY, "are for classes"),
        ({"model": "bert-tiny", "label_smoothing": 0.1}, SIMILARITY, "are for classes"),
        ({"model": "cnn", "metrics": ("pearson",)}, IMAGES, r"`pearson` .* of classes"),
        ({"model": "bert-tiny", "metrics": ("f1",)}, SIMILARITY, r"`f1` .* of numbers"),
        (
            {"model": "bert-tiny", "loss": "mse", "augmentation": "official"},
            SIMILARITY,
            "`--augmentation official` is for images",
        ),
        ({"pretrained": "/nowhere"}, IMAGES, "`--pretrained`: "),
    ],
)
def test_what_does_not_fit_is_named(fields, dataset, message):
    with pytest.raises(config.ConfigError, match=message):
        load_task(config.Task(**fields), [0], opened=dataset)


def test_a_data_set_is_loaded_by_name_with_its_options(tmp_path):
    images = RNG.integers(0, 256, (40, 6, 6, 3), np.uint8)
    np.savez(tmp_path / "mine.npz", train_images=images, train_labels=np.arange(40) % 4)
    name = f"npz:{tmp_path / 'mine.npz'}"
    task = config.Task(dataset=name, model="cnn", train_size=20, image_size=8)
    loaded = load_task(task, [0])
    assert loaded.train_size == 20
    assert loaded.data.train.inputs.shape == (20, 8, 8, 3)
    parts = load_task(dataclasses.replace(task, evaluation_size=3), [0]).data
    assert [len(part.labels) for part in (parts.validation, parts.test)] == [3, 3]
    assert parts.train.inputs.shape == loaded.data.train.inputs.shape
    missing = config.Task(dataset="folder:nowhere")
    with pytest.raises(config.ConfigError, match="`--dataset folder:nowhere`: nowhere"):
        load_task(missing, [0])


def test_streamed_training_is_training_from_the_device(tmp_path):
    np.savez(
        tmp_path / "mine.npz",
        train_inputs=RNG.normal(size=(40, 5)).astype(np.float32),
        train_labels=np.arange(40) % 2,
    )
    task = config.TaskFlags(dataset=f"npz:{tmp_path / 'mine.npz'}", width=4, depth=1)
    histories = []
    for stream in (False, True):
        command = Train(
            method="sam(rho=0.1)",
            task={**task, "stream": stream},
            optimizer=config.OptimizerFlags(batch_size=6),
            budget=config.BudgetFlags(epochs=2),
        )
        found = resolve(command)
        [plan], loaded = found.plans, load_task(found.task, [0], opened=found.opened)
        one = run.make_run(plan, found.task, loaded, 0, None, evaluations=2)
        assert (one.stream is not None) == stream
        with Progress(1.0, Console(quiet=True)) as progress:
            outcome = run.train(one, progress)
        histories.append(outcome.log.lines)
    assert len(histories[0]) == 2
    for a, b in zip(*histories, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_streaming_without_its_package_is_refused_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(config.ConfigError, match=r"`--stream`: .*grain.*pip install"):
        load_task(config.Task(stream=True, model="mlp"), [0])


def text_files(folder):
    """A tiny GLUE task, and a checkpoint whose folder has the vocabulary."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film"]
    model = folder / "bert"
    shutil.copytree(MODELS / "hf_bert", model)
    (model / "vocab.txt").write_text("\n".join(words))
    rows = [f"{('bad', 'good')[i % 2]} film\t{i % 2}" for i in range(40)]
    (folder / "SST-2").mkdir()
    for part in "train", "dev":
        (folder / "SST-2" / f"{part}.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    return model


def test_a_pretrained_network_brings_its_vocabulary_and_the_defaults_of_fine_tuning(tmp_path):
    model = text_files(tmp_path)
    task = {"dataset": "glue:SST-2", "data_dir": str(tmp_path), "pretrained": str(model)}
    found = resolve(Train(method="erm", task=config.TaskFlags(**task)))
    assert found.task.vocabulary == str(model)
    assert found.family.name == "BERT, fine-tuned"
    assert found.opened.vocab_size == 7
    other = tmp_path / "other.txt"
    other.write_text((model / "vocab.txt").read_text() + "\nmore")
    found = resolve(Train(method="erm", task=config.TaskFlags(**task, vocabulary=str(other))))
    assert (found.task.vocabulary, found.opened.vocab_size) == (str(other), 8)
    library = tokenizers.BertWordPieceTokenizer(str(model / "vocab.txt"))
    library.save(str(model / "tokenizer.json"))
    (model / "vocab.txt").unlink()
    found = resolve(Train(method="erm", task=config.TaskFlags(**task)))
    assert (found.task.vocabulary, found.opened.vocab_size) == (str(model), 7)


def test_a_checkpoint_is_fine_tuned_in_one_command(tmp_path, capsys):
    model = text_files(tmp_path)
    words = ["train", "glue:SST-2", "--data-dir", str(tmp_path), "--pretrained", str(model)]
    words += ["--batch-size", "16", "--epochs", "2", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "Test accuracy at the last epoch" in shown or "test accuracy at the last" in shown
    assert "BERT, fine-tuned" in shown
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0


def test_a_checkpoint_of_texts_is_refused_for_images_by_name(tmp_path, capsys):
    model = text_files(tmp_path)
    assert cli.main(["train", "folder:photos", "--pretrained", str(model)]) == 2
    shown = capsys.readouterr().err
    assert "is a model of texts, but `--dataset folder:photos` has no texts" in shown


def test_errors_of_readers_name_the_flags(monkeypatch):
    def unreadable(*_, **__):
        raise data.DataError("give `size=` a number, `vocab` a file, and `lowercase`")

    monkeypatch.setattr(data, "open_splits", unreadable)
    shown = "give `--image-size` a number, `--vocabulary` a file, and `--casing`"
    with pytest.raises(config.ConfigError, match=f"`--dataset digits`: {shown}"):
        open_data(config.Task())
