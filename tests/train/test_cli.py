"""The command line: what a user types, sees, and is refused."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tsam_jax import cli
from tsam_jax.methods import METHODS, WRAPPERS
from tsam_jax.recipes import RECIPES, Recipe
from tsam_jax.train import catalogue, config, experiments
from tsam_jax.train import compare as compare_module

SMALL = ["--train-size", "200", "--width", "8", "--batch-size", "50", "--budget", "12"]
FEW = [*SMALL, "--seeds", "2", "--seeds-together", "yes"]

SPLIT = "tsam(t=1, rho=0.1, s={}, split_batch=True)"


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def logged(directory):
    """The lines of metrics.jsonl without their times."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{**line, "timing": None} for line in lines]


def test_compare_writes_a_whole_report(tmp_path, capsys):
    out = tmp_path / "run"
    methods = ["erm", "sam(rho=0.1)", "tsam(t=5, rho=0.1, s=3)"]
    code, shown, _ = run(capsys, "compare", "--methods", *methods, *FEW, "--out", str(out))
    assert code == 0
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "learning_curves.png",
        "metrics.jsonl",
        "report.html",
        "report.json",
        "sharpness.png",
    }
    report = json.loads((out / "report.json").read_text())
    assert report["complete"]
    spent = [(m["epochs"], m["gradient_evaluations"]) for m in report["methods"]]
    assert spent == [(12, 48), (6, 48), (2, 48)]  # the same budget for each
    for method in report["methods"]:
        assert method["seeds"] == [0, 1]
        assert len(method["top_eigenvalue"]) == 2
        assert min(method["neighbourhood_variance"][0]) > 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * (12 + 6 + 2)
    assert lines[-1]["gradient_evaluations"] == 48
    assert "report.html" in shown
    assert "sam(rho=0.1)" in shown
    assert "\x1b[" not in shown  # no terminal, no control characters


def test_flatness_can_be_left_out(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--seeds", "1", "--flatness-examples", "0", "--out", str(out)]
    code, shown, _ = run(capsys, "compare", "--methods", "erm()", *SMALL, *options)
    assert code == 0
    [method] = json.loads((out / "report.json").read_text())["methods"]
    assert method["neighbourhood_mean"] == [[]]
    assert method["top_eigenvalue"] == [None]
    assert "report.html" in shown


def test_ctrl_c_leaves_a_partial_report(tmp_path, capsys, monkeypatch):
    measured = []

    def interrupt_the_second(network, examples):
        measure = make_measure(network, examples)

        def interrupted(state, data):
            if measured:
                raise KeyboardInterrupt
            measured.append(1)
            return measure(state, data)

        return interrupted

    make_measure = compare_module.make_measure
    monkeypatch.setattr(compare_module, "make_measure", interrupt_the_second)
    out = tmp_path / "run"
    methods = ["erm()", "sam(rho=0.1)", "sam(rho=0.2)"]
    code, shown, _ = run(capsys, "compare", "--methods", *methods, *FEW, "--out", str(out))
    assert code == 130
    report = json.loads((out / "report.json").read_text())
    assert not report["complete"]
    assert [m["label"] for m in report["methods"]] == ["erm()", "sam(rho=0.1)"]
    assert report["methods"][0]["top_eigenvalue"][0] is not None
    assert report["methods"][1]["top_eigenvalue"] == [None, None]  # trained, not yet measured
    assert (out / "report.html").exists()
    assert "Interrupted" in shown


def test_a_real_interrupt_signal_while_training(tmp_path):
    out = tmp_path / "run"
    # A shell's background job ignores SIGINT, and so would a child of the tests run in one.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "import sys; from tsam_jax.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "compare", "--methods", "erm", "--out", str(out)]
    command += [*FEW, "--budget", "1000000", "--evaluations", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        log, deadline = out / "metrics.jsonl", time.monotonic() + 600
        try:
            while process.poll() is None and not (log.exists() and log.stat().st_size):
                assert time.monotonic() < deadline, "no line in the log"
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            shown, _ = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 130, shown
    report = json.loads((out / "report.json").read_text())
    assert not report["complete"]
    assert report["methods"][0]["epochs"] > 0


def test_sweep_chooses_by_validation_and_never_reports_the_test(tmp_path, capsys):
    out = tmp_path / "sweep"
    grids = ["erm(lr=[1e-6, 0.05])", "sam(rho=0.05, lr=[0.05, 1e-6])"]
    code, shown, _ = run(capsys, "sweep", "--methods", *grids, *FEW, "--out", str(out))
    assert code == 0
    found = json.loads((out / "sweep.json").read_text())
    assert found["chosen"] == {"erm": "erm(lr=0.05)", "sam": "sam(rho=0.05, lr=0.05)"}
    assert found["settings_tried"] == {"erm": 2, "sam": 2}
    for path in ("sweep.json", "metrics.jsonl"):
        text = (out / path).read_text()
        assert "validation_accuracy" in text
        assert "test_accuracy" not in text
        assert "test_loss" not in text
    assert "tsam-jax compare digits --methods 'erm(lr=0.05)' 'sam(rho=0.05, lr=0.05)'" in shown


def test_train_resumes_bit_for_bit(tmp_path, capsys):
    method = ["train", "--method", "tsam(t=5, rho=0.1, s=2)", *SMALL, "--checkpoint-every", "1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(capsys, *method, "--epochs", "4", "--out", str(whole))[0] == 0
    assert run(capsys, *method, "--epochs", "2", "--out", str(cut))[0] == 0
    used = json.loads((cut / "config.json").read_text())
    used["budget"]["epochs"] = 4  # as if the run had been stopped half-way
    (cut / "config.json").write_text(json.dumps(used))
    code, shown, _ = run(capsys, "train", "--resume", str(cut))
    assert code == 0
    logs = [logged(path) for path in (cut, whole)]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4
    assert "test: accuracy" in shown


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        run(capsys, "train", "--method", "erm", *SMALL, "--epochs", "1", "--out", str(out))[0] == 0
    )
    used = json.loads((out / "config.json").read_text())
    used["seed"], used["budget"]["epochs"] = 5, 2
    (out / "config.json").write_text(json.dumps(used))
    log = (out / "metrics.jsonl").read_text()
    code, _, errors = run(capsys, "train", "--resume", str(out))
    assert code == 2
    assert "is of another run" in errors
    assert (out / "metrics.jsonl").read_text() == log


def test_train_forgets_what_was_logged_after_the_checkpoint(tmp_path, capsys):
    out = tmp_path / "run"
    method = ["train", "--method", "erm", *SMALL, "--epochs", "3", "--out", str(out)]
    assert run(capsys, *method)[0] == 0
    log = out / "metrics.jsonl"
    before = log.read_text()
    log.write_text(before + '{"epoch": 4, "train_loss": 1}\n{"epoch": 5, "tra')
    assert run(capsys, "train", "--resume", str(out))[0] == 0
    assert log.read_text() == before


def test_a_recipe_stands_first_and_options_replace_its_values(tmp_path, capsys, monkeypatch):
    own = Recipe(
        "a recipe of the test",
        task={"train_size": 200, "width": 8, "label_noise": 0.2},
        optimizer={"batch_size": 50, "base": "adamw"},
        budget={"epochs": 2},
        method="tsam",
        settings={"tsam": "tsam(t=20, rho=0.7, s=3)"},
        published="92.0 %",
    )
    monkeypatch.setattr(config, "RECIPES", {"digits": RECIPES["digits"], "own": own})
    monkeypatch.setattr(experiments, "RECIPES", {"own": own})
    out = tmp_path / "run"
    options = ["--t", "5", "--s", "2", "--seed", "1", "--label-noise", "0.1", "--out", str(out)]
    code, _, _ = run(capsys, "train", "own", *options)
    assert code == 0
    used = json.loads((out / "config.json").read_text())
    assert (used["recipe"], used["seed"]) == ("own", 1)
    assert used["method"] == "tsam(t=5.0, rho=0.7, s=2)"
    assert used["task"]["label_noise"] == 0.1
    assert used["task"]["width"] == 8
    assert used["optimizer"]["base"] == "adamw"
    metrics = json.loads((out / "result.json").read_text())["metrics"]
    assert 1 <= metrics["step_effective_sample_size"] <= 2

    code, shown, _ = run(capsys, "evaluate", str(out))
    assert code == 0
    assert "epoch 2\n" in shown
    assert f"test: accuracy {100 * metrics['test_accuracy']:.2f} %" in shown
    best = json.loads((out / "result.json").read_text())["best"]
    _, shown, _ = run(capsys, "evaluate", str(out / "best"), "--part", "validation")
    assert f"epoch {best['epoch']}\n" in shown
    assert f"validation: accuracy {100 * best['validation_accuracy']:.2f} %" in shown

    _, shown, _ = run(capsys, "recipes")
    assert "a recipe of the test" in shown
    assert "92.0 %" in shown


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    out = tmp_path / "run"
    options = [*SMALL, "--method", "erm()", "--lr", "1e30", "--epochs", "3", "--out", str(out)]
    code, _, errors = run(capsys, "train", *options)
    assert code == 1
    assert "the loss is not finite at step" in errors
    assert "epoch 1. Last good checkpoint: none. Try" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digit"], "Perhaps you meant `digits`"),
        (["train", "digits", "--recipe", "digits"], "`--recipe` is given more than once"),
        (["train", "--method", "erm", "--rho", "1"], "`rho` is not a known argument of `erm`"),
        (["train", "--s", "0"], "must be a positive integer, got 0"),
        (["train", "--base", "adamm"], "Perhaps you meant `adam`"),
        (["train", "--loss", "mse"], "`--loss mse` is for numbers"),
        (["train", "--dataset", "folder:nowhere"], "`--dataset folder:nowhere`: "),
        (["evaluate", "nowhere"], "is not a directory"),
        (["evaluate", "."], "is not the directory of a training run"),
        (["compare", "--methods", "smm"], "Perhaps you meant `sam`"),
        (["compare", "--methods", "sam(rho=-1)"], "must be a finite number >= 0, got -1"),
        (["compare", "--methods", "erm()", "erm( )"], "`--methods` has erm() more than once"),
        (["compare", "--label-noise", "1.5"], "`--label-noise` must be between 0 and 1, got 1.5"),
        (["compare", "--seeds", "0"], "`--seeds` must be a finite number >= 1, got 0"),
        (["compare", "--budget", "0"], "`--budget` must be a finite number > 0, got 0"),
        (["compare", "--batch-size", "2000"], "`--batch-size` must be at most `--train-size`"),
        (["compare", "--methods", SPLIT.format(3)], "must be a multiple of s = 3 in `tsam(t=1, "),
        (["sweep", "--methods", SPLIT.format("[2, 4]")], "must be a multiple of s = 4 in `tsam(t"),
        (["train", "--method", SPLIT.format(2), "--batch-size", "5"], "multiple of s = 2 in"),
        (["compare", "--train-size", "5000"], "`--train-size` must be between 1 and 1499"),
        (["compare", "--lr", "nan"], "`--lr` must be a finite number >= 0, got nan"),
        (["sweep", "--methods", "sam(rho=[])"], "empty list"),
        (["train", "--method", "sam(rho=[1,2])"], "`--method` takes one setting, got 2"),
        (
            ["train", "--checkpoint-every", "0"],
            "`--checkpoint-every` and `--keep-checkpoints` must",
        ),
        (["train", "--keep-checkpoints", "0"], "must be >= 1 and `--seed` >= 0, got 10, 0 and 0"),
        (["train", "--resume", "nowhere", "--epochs", "9"], "leave out the other options"),
        (["train", "--resume", "nowhere"], "is not the directory of a training run"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert message in errors
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_splits_the_batch_trains_for_what_a_step_costs(tmp_path, capsys):
    out = tmp_path / "run"
    code, _, _ = run(capsys, "train", "--method", SPLIT.format(5), *SMALL, "--out", str(out))
    assert code == 0
    result = json.loads((out / "result.json").read_text())
    assert result["complete"]
    assert result["epochs"] == 6  # a budget of 12, and 2 gradients a step
    assert result["metrics"]["gradient_evaluations"] == 6 * 4 * 2


def test_unknown_options_are_refused_with_a_hint(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare", "--seedz", "3"])
    assert stopped.value.code == 2
    assert "--seeds" in capsys.readouterr().err


def test_directories_that_cannot_be_used_are_refused(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    code, _, errors = run(capsys, "compare", "--out", str(tmp_path / "full"))
    assert code == 2
    assert "has files in it" in errors
    assert (tmp_path / "full" / "file").read_text() == "mine"
    code, _, errors = run(capsys, "compare", "--out", str(tmp_path / "full" / "file" / "below"))
    assert code == 2
    assert "cannot write to" in errors


def test_methods_lists_every_method_with_cost_and_source(capsys):
    code, shown, _ = run(capsys, "methods")
    assert code == 0
    for name in METHODS:
        assert name in shown
    assert "g(theta + rho u(g))" in shown
    assert "ICLR 2021" in shown


def methods_row(name):
    """What the table says in the row of a method, in one line."""
    columns = catalogue.methods_table().columns
    cells = [list(column.cells) for column in columns]
    row = [str(cell) for cell in cells[0]].index(name)
    return [" ".join(str(column[row]).split()) for column in cells[1:]]


def test_methods_lists_every_wrapper():
    text, cost = methods_row("m_sam")
    assert text.startswith("1/n sum_i ghat(B_i), the batch cut into")
    assert "estimator, m, batch='batch' Foret et al." in text
    assert cost == "as the estimator inside"
    assert "estimator, axis_name Foret et al. 2021" in methods_row("per_device")[0]


def test_methods_lists_a_new_wrapper_from_the_table_alone(monkeypatch):
    def doubled(estimator, *, factor=2.0):
        """Twice what an estimator says.

        Source: ours.
        """

    monkeypatch.setitem(WRAPPERS, "doubled", doubled)
    assert methods_row("doubled") == [
        "Twice what an estimator says. estimator, factor=2.0 ours.",
        "as the estimator inside",
    ]


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["compare"],
        ["evaluate"],
        ["methods"],
        ["recipes"],
        ["sweep"],
        ["train"],
        ["train", "digits"],
    ],
)
def test_help_everywhere(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--help"])
    assert stopped.value.code == 0
    assert "tsam-jax" in capsys.readouterr().out
