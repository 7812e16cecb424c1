"""Losses and metrics, against NumPy and by hand, and what a task is judged by."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import cli
from tsam_jax.train import config, loop, record
from tsam_jax.train.metrics import (
    LOSSES,
    METRICS,
    accuracy,
    f1,
    matthews,
    metric,
    metrics_of,
    pearson,
    spearman,
)
from tsam_jax.train.settings import parse
from tsam_jax.train.task import load_task

OUTPUTS = jnp.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
LABELS = jnp.array([0, 2])


def log_softmax():
    x = np.asarray(OUTPUTS, np.float64)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_cross_entropy():
    found = LOSSES["cross-entropy"](OUTPUTS, LABELS)
    np.testing.assert_allclose(found, [-log_softmax()[0, 0], -log_softmax()[1, 2]], rtol=1e-6)


def test_smoothing_as_in_optax_gives_each_class_its_share():
    targets = np.full((2, 3), 0.1 / 3)
    targets[[0, 1], [0, 2]] += 0.9
    found = LOSSES["cross-entropy"](OUTPUTS, LABELS, smoothing=0.1)
    np.testing.assert_allclose(found, -(targets * log_softmax()).sum(axis=1), rtol=1e-5)


def test_the_official_smoothing_gives_the_other_classes_their_share_and_can_reach_zero():
    targets = np.full((2, 3), 0.1 / 2)
    targets[[0, 1], [0, 2]] = 0.9
    divergence = (targets * (np.log(targets) - log_softmax())).sum(axis=1)
    found = LOSSES["official"](OUTPUTS, LABELS, smoothing=0.1)
    np.testing.assert_allclose(found, divergence, rtol=1e-5)
    best = LOSSES["official"](jnp.log(jnp.asarray(targets)), LABELS, smoothing=0.1)
    np.testing.assert_allclose(best, 0, atol=1e-6)


def test_the_official_loss_without_smoothing_is_the_cross_entropy():
    found = LOSSES["official"](OUTPUTS, LABELS)
    np.testing.assert_allclose(found, LOSSES["cross-entropy"](OUTPUTS, LABELS), rtol=1e-6)


def test_squared_error_is_of_the_only_output():
    assert LOSSES["mse"](jnp.array([[1.0], [3.0]]), jnp.array([0.0, 5.0])).tolist() == [1, 4]


def test_accuracy():
    assert accuracy(np.asarray(OUTPUTS), np.asarray(LABELS)) == 0.5


def logits(predicted, classes=2):
    return np.eye(classes)[predicted]


def test_matthews_and_f1_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    outputs = logits([1, 1, 0, 1, 0, 0, 0, 0])
    hits, misses, false_alarms, rest = 2, 1, 1, 4
    product = (hits + false_alarms) * (hits + misses) * (rest + false_alarms) * (rest + misses)
    expected = (hits * rest - false_alarms * misses) / product**0.5
    assert matthews(outputs, labels) == pytest.approx(expected)
    assert f1(outputs, labels) == pytest.approx(2 * hits / (2 * hits + misses + false_alarms))
    assert matthews(-outputs, labels) == pytest.approx(-expected)


def test_f1_of_three_classes_is_the_mean_over_all_of_them():
    found = f1(logits([0, 0, 1], 3), np.array([0, 0, 0]))
    assert found == pytest.approx(0.8 / 3)


def test_correlations_by_hand():
    labels = np.array([1.0, 2.0, 3.0, 5.0])
    outputs = np.array([[0.1], [0.4], [0.3], [9.0]])
    assert pearson(outputs, labels) == pytest.approx(np.corrcoef(outputs[:, 0], labels)[0, 1])
    assert spearman(outputs, labels) == pytest.approx(0.8)  # one swap of neighbours: 1 - 6 * 2 / 60
    assert spearman(-outputs, labels) == pytest.approx(-0.8)


@pytest.mark.parametrize("function", [matthews, f1])
@pytest.mark.parametrize("predicted", [[0, 0, 0], [1, 0, 0]])
def test_classes_that_are_constant_give_zero(function, predicted):
    labels = np.zeros(3, int)
    assert function(logits(predicted), labels) == 0
    assert matthews(logits(labels), np.array(predicted)) == 0


@pytest.mark.parametrize("function", [pearson, spearman])
def test_numbers_that_are_constant_give_zero_and_broken_ones_nan(function):
    labels = np.arange(4.0)
    assert function(np.full((4, 1), 0.3), labels) == 0
    assert function(labels[:, None], np.ones(4)) == 0
    nearly = np.array([[1e8], [1e8], [1e8 + 1e-7], [1e8]])  # constant to float32, not to float64
    assert function(nearly, labels) == pytest.approx(1 / np.sqrt(15), rel=0.01)
    assert np.isnan(function(np.array([[1], [2], [np.nan], [3]]), labels))


@pytest.mark.parametrize(
    ("dataset", "classes", "expected"),
    [
        ("glue:CoLA", 2, ("matthews", "accuracy")),
        ("glue/stsb", None, ("pearson", "spearman")),
        ("glue:MRPC", 2, ("accuracy", "f1")),
        ("glue:SST-2", 2, ("accuracy",)),
        ("glue/cola:2.0.0", 2, ("matthews", "accuracy")),
        ("tfds:glue/cola:2.*.*", 2, ("matthews", "accuracy")),
        ("tfds:glue/stsb", None, ("pearson", "spearman")),
        ("glue/sst2", 2, ("accuracy",)),
        ("glue:nothing", 2, ("accuracy",)),
        ("tfds:cifar10:3.0.2", 10, ("accuracy",)),
        ("digits", 10, ("accuracy",)),
        ("table:scores.tsv", None, ()),
        ("table:cola", 2, ("accuracy",)),
    ],
)
def test_what_a_task_is_judged_by(dataset, classes, expected):
    assert metrics_of(config.Task(dataset=dataset), classes) == expected


def test_metrics_that_are_asked_for_replace_those_of_the_task():
    asked = config.Task(dataset="glue:CoLA", metrics=("f1", "accuracy"))
    assert metrics_of(asked, 2) == ("f1", "accuracy")
    assert metrics_of(config.Task(dataset="numbers", metrics=("spearman",)), None) == ("spearman",)


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("pearson", 2, "of classes: there are accuracy, f1, matthews"),
        ("f1", None, "of numbers: there are pearson, spearman"),
        ("mcc", 2, "`mcc` is not a known metric"),
        ("acuracy", 2, "Perhaps you meant `accuracy`"),
        ("loss", 2, "`loss` is not a known metric"),
    ],
)
def test_metrics_that_do_not_fit_are_named(name, classes, message):
    with pytest.raises(config.ConfigError, match=message):
        metrics_of(config.Task(metrics=(name,)), classes)


def test_the_row_of_a_metric_says_how_it_is_read():
    assert {name for name, one in METRICS.items() if one.percent} == {"accuracy"}
    assert {name for name, one in METRICS.items() if not one.higher_is_better} == {"loss"}
    assert METRICS["accuracy"].shown(0.98765) == "98.77 %"
    assert METRICS["accuracy"].shown(0.98765, digits=1) == "98.8 %"
    assert METRICS["loss"].shown(0.123456) == "0.1235"
    assert METRICS["f1"].shown(None) == METRICS["loss"].shown(float("nan")) == "-"


@pytest.mark.parametrize("logged", ["loss", "validation_loss", "test_loss", "train_loss"])
def test_of_losses_the_smaller_is_better(logged):
    assert metric(logged).better(0.1) > metric(logged).better(0.2)
    assert metric(logged).better(9.0) > metric(logged).better(float("nan"))


def test_a_metric_of_the_users_own_is_higher_for_better():
    assert metric("test_hit_rate").name == "hit_rate"
    assert metric("hit_rate").better(2) > metric("hit_rate").better(1)
    assert metric("hit_rate").better(-1e9) > metric("hit_rate").better(float("nan"))
    assert metric("hit_rate").shown(0.5) == "0.5"
    assert metric("validation_accuracy") is METRICS["accuracy"]


def test_each_part_and_seed_is_measured_with_its_own_labels():
    task = config.Task(
        model="mlp", train_size=60, width=8, depth=1, metrics=("f1", "accuracy"), label_noise=0.4
    )
    loaded = load_task(task, [0, 1])
    assert loaded.metrics == ("f1", "accuracy", "loss")
    optimizer = config.Optimizer(batch_size=30, lr=0.1)
    plan = loop.plan_for(parse("erm()")[0], optimizer, 60, 1)
    program = loop.make_program(loaded.network, plan, 60, metrics={"f1": f1, "accuracy": accuracy})
    for seed in (0, 1):
        data = loaded.of_seed(seed)
        [this] = loop.train(program, program.init(seed), data, ends=[1])
        for part in ("train", "validation", "test"):
            examples = getattr(data, part)
            outputs = loaded.network.predict(this.weights[0], examples.inputs, this.weights[1])
            outputs, labels = np.asarray(outputs), np.asarray(examples.labels)
            found = this.metrics[f"{part}_f1"]
            assert found == pytest.approx(f1(outputs, labels), rel=1e-6)
            hits = (outputs.argmax(-1) == labels).mean()
            assert this.metrics[f"{part}_accuracy"] == pytest.approx(hits)
        assert "test_" not in this.metrics


SENTENCES = ["a dog runs", "the cat sleeps", "a man eats", "birds fly high", "rain falls"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += sorted({word for sentence in SENTENCES for word in sentence.split()})


def test_similarity_of_sentences_trains_to_its_correlations(tmp_path, capsys):
    """STS-B: a pair scores 5 if it is one sentence twice, else 0; half of the rows each."""
    rng = np.random.default_rng(0)

    def rows(count):
        for number in range(count):
            first, other = rng.choice(5, 2, replace=False)
            second, score = (first, 5.0) if number % 2 else (other, 0.0)
            yield "\t".join([SENTENCES[first], SENTENCES[second], f"{score:.3f}"])

    folder = tmp_path / "STS-B"
    folder.mkdir()
    for name, count in (("train", 44), ("dev", 10)):
        lines = ["sentence1\tsentence2\tscore", *rows(count)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    out = tmp_path / "run"
    options = ["--dataset", "glue:STS-B", "--data-dir", str(tmp_path), "--loss", "mse"]
    options += ["--vocabulary", str(tmp_path / "vocab.txt"), "--model", "bert-tiny"]
    options += ["--max-length", "12", "--weight-decay", "0.0005"]
    options += ["--schedule", "constant", "--warmup", "0", "--clip", "none"]
    options += ["--base", "adam", "--lr", "0.003", "--batch-size", "20", "--epochs", "12"]
    code = cli.main(["train", "--method", "erm()", *options, "--out", str(out)])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    [result] = record.read_lines(out / "rows.jsonl")
    measured = result["final"]
    assert measured["train_pearson"] > 0.5
    assert measured.keys() >= {"test_pearson", "test_spearman", "validation_spearman"}
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = max(line["validation_pearson"] for line in log)
    assert result["best"]["validation_pearson"] == best
    assert "test pearson at the last epoch" in " ".join(shown.out.split())
