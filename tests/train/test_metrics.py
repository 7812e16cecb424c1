"""Metrics of all predictions of a part, and what a task is judged by."""

import json

import numpy as np
import pytest

from tsam_jax import cli
from tsam_jax.train import config, loop, metrics
from tsam_jax.train.metrics import GLUE, f1, matthews, metrics_of, pearson, spearman
from tsam_jax.train.settings import parse
from tsam_jax.train.task import load_task


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


@pytest.mark.parametrize("metric", [matthews, f1])
@pytest.mark.parametrize("predicted", [[0, 0, 0], [1, 0, 0]])
def test_classes_that_are_constant_give_zero(metric, predicted):
    labels = np.zeros(3, int)
    assert metric(logits(predicted), labels) == 0
    assert matthews(logits(labels), np.array(predicted)) == 0


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_numbers_that_are_constant_give_zero_and_broken_ones_nan(metric):
    labels = np.arange(4.0)
    assert metric(np.full((4, 1), 0.3), labels) == 0
    assert metric(labels[:, None], np.ones(4)) == 0
    assert metric(np.array([[1e8], [1e8], [1e8 + 1e-7], [1e8]]), labels) == pytest.approx(0, abs=1)
    assert np.isnan(metric(np.array([[1], [2], [np.nan], [3]]), labels))


def test_the_average_is_that_of_the_papers_table():
    """Rows of ERM, SAM and TSAM of Table 1 and its column AVG."""
    rows = {
        77.15: "52/80.34 90.48 83.82 86.6/86.3 86.32 79.6 87.72 60.65 54.93",
        77.56: "52/80.48 91.74 85.29 87.0/86.5 87.71 81.1 86.42 58.84 56.34",
        78.01: "52/80.81 91.86 85.05 87.1/86.6 88.77 81.1 87.81 60.65 56.34",
    }
    for average, row in rows.items():
        cells = [[float(number) for number in cell.split("/")] for cell in row.split()]
        pairs = zip(GLUE.items(), cells, strict=True)
        table = {task: dict(zip(names, numbers, strict=False)) for (task, names), numbers in pairs}
        assert metrics.glue_average(table) == pytest.approx(average, abs=0.03)
    del table["WNLI"], table["CoLA"]["accuracy"]
    with pytest.raises(ValueError, match="it lacks CoLA accuracy, WNLI accuracy"):
        metrics.glue_average(table)


@pytest.mark.parametrize(
    ("dataset", "classes", "expected"),
    [
        ("glue:CoLA", 2, ("matthews", "accuracy")),
        ("glue/stsb", None, ("pearson", "spearman")),
        ("glue:MRPC", 2, ("accuracy", "f1")),
        ("digits", 10, ("accuracy",)),
        ("table:scores.tsv", None, ()),
        ("table:cola", 2, ("accuracy",)),
    ],
)
def test_what_a_task_is_judged_by(dataset, classes, expected):
    assert metrics_of(config.Task(dataset=dataset), classes) == expected


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("pearson", 2, "of classes must be of accuracy, matthews, f1, got 'pearson'"),
        ("f1", None, "of numbers must be of pearson, spearman, got 'f1'"),
        ("mcc", 2, "got 'mcc'"),
    ],
)
def test_metrics_that_do_not_fit_are_named(name, classes, message):
    with pytest.raises(config.ConfigError, match=message):
        metrics_of(config.Task(metrics=(name,)), classes)


@pytest.mark.usefixtures("fast_compile")
def test_each_part_and_seed_is_measured_with_its_own_labels():
    task = config.Task(train_size=60, width=8, depth=1, metrics=("f1", "accuracy"))
    loaded = load_task(task, [0, 1])
    optimizer = config.Optimizer(batch_size=30, lr=0.1)
    plan = loop.plan_for(parse("erm()")[0], optimizer, 60, 1)
    program = loop.make_program(loaded.network, plan, 60)
    [this] = loop.train(program, program.init([0, 1]), loaded.data, epochs=1, every=1)
    assert loaded.metric == "f1"
    for part in ("train", "validation", "test"):
        examples = getattr(loaded.data, part)
        outputs = np.asarray(program.predict(this.state, examples.inputs))
        for row in (0, 1):
            labels = np.asarray(examples.labels[row] if part == "train" else examples.labels)
            found = this.metrics[f"{part}_f1"][row]
            assert found == pytest.approx(f1(outputs[row], labels), rel=1e-6)
            hits = (outputs[row].argmax(-1) == labels).mean()
            assert this.metrics[f"{part}_accuracy"][row] == pytest.approx(hits)
    assert "test_outputs" not in this.metrics


SENTENCES = ["a dog runs", "the cat sleeps", "a man eats", "birds fly high", "rain falls"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += sorted({word for sentence in SENTENCES for word in sentence.split()})


@pytest.mark.usefixtures("fast_compile")
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
    options += ["--train-size", "None", "--label-noise", "0", "--max-length", "12"]
    options += ["--base", "adam", "--lr", "0.003", "--batch-size", "20", "--epochs", "12"]
    code = cli.main(["train", "--method", "erm()", *options, "--out", str(out)])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    result = json.loads((out / "result.json").read_text())
    measured = result["metrics"]
    assert measured["train_pearson"] > 0.5
    assert measured.keys() >= {"test_pearson", "test_spearman", "validation_spearman"}
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = max(line["validation_pearson"] for line in log)
    assert result["best"]["validation_pearson"] == best
    assert f"pearson {measured['test_pearson']:.4f}" in shown.out
