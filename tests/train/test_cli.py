"""The command line: what a user types, sees, and is refused."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tsam_jax import cli
from tsam_jax.commands import catalogue, commands
from tsam_jax.methods import METHODS, WRAPPERS
from tsam_jax.recipes import RECIPES, Recipe
from tsam_jax.train import loop, resolve

TINY = ["--train-size", "200", "--width", "8", "--batch-size", "50"]
SMALL = [*TINY, "--budget", "12"]
FEW = [*SMALL, "--seeds", "2"]

SPLIT = "tsam(t=1, rho=0.1, s={}, split_batch=True)"


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def rows_of(directory):
    return [json.loads(line) for line in (directory / "rows.jsonl").read_text().splitlines()]


def logged(directory):
    """The lines of metrics.jsonl without their times."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{**line, "timing": None} for line in lines]


def test_compare_writes_a_whole_report(tmp_path, capsys):
    out = tmp_path / "run"
    methods = ["erm", "sam(rho=0.1)", "tsam(t=5, rho=0.1, s=3)"]
    code, shown, _ = run(capsys, "compare", "--methods", *methods, *FEW, "--out", str(out))
    assert code == 0
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        "cells",
        "learning_curves.png",
        "report.html",
        "report.json",
        "rows.jsonl",
        "sharpness.png",
        "study.json",
    }
    rows = rows_of(out)
    spent = [(row["epochs"], row["gradient_evaluations"]) for row in rows[::2]]
    assert spent == [(12, 48), (6, 48), (2, 48)]  # the same budget for each
    assert {len(row["curve"]["epoch"]) for row in rows} == {2}  # and looked at as often
    assert [row["seed"] for row in rows] == [0, 1] * 3
    for row in rows:
        assert min(row["flatness"]["variance"]) > 0
        assert (out / row["directory"] / "best").is_dir()
        assert (out / row["directory"] / "checkpoints").is_dir()
    assert shown.startswith("Training mlp on digits, 40 % of the training labels replaced.")
    assert "of the training labels replaced" in (out / "report.html").read_text()
    assert "report.html" in shown
    assert "sam(rho=0.1)" in shown
    assert "\x1b[" not in shown  # no terminal, no control characters


@pytest.mark.slow
def test_a_real_interrupt_signal_while_training(tmp_path, capsys):
    out = tmp_path / "run"
    # A shell's background job ignores SIGINT, and so would a child of the tests run in one.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "import sys; from tsam_jax.cli import main; sys.exit(main())"
    methods = ["erm", "sam(rho=0.1)"]
    command = [sys.executable, "-c", program, "compare", "--methods", *methods, "--out", str(out)]
    command += [*FEW, "--budget", "1000000", "--evaluations", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        log, deadline = out / "cells/000-erm-seed0/metrics.jsonl", time.monotonic() + 600
        try:
            while process.poll() is None and not (log.exists() and log.stat().st_size):
                assert time.monotonic() < deadline, "no line in the log"
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            shown, _ = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 130, shown
    assert "Stopping after this epoch" in shown
    assert f"tsam-jax compare --resume {out}" in shown
    assert json.loads((out / "report.json").read_text())["rows"] == []
    assert (log.parent / "checkpoints").is_dir()


def test_train_resumes_bit_for_bit_after_an_interrupt(tmp_path, capsys, monkeypatch):
    method = ["train", "--method", "tsam(t=5, rho=0.1, s=2)", *TINY, "--epochs", "4"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(capsys, *method, "--out", str(whole))[0] == 0
    train = loop.train

    def interrupted(*arguments, **options):
        for this in train(*arguments, **options):
            if this.epoch == 2:
                signal.raise_signal(signal.SIGINT)
            yield this

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", interrupted)
        code, shown, _ = run(capsys, *method, "--out", str(cut))
    assert code == 130
    assert f"resume with: tsam-jax train --resume {cut}" in shown
    assert len(logged(cut)) == 2
    code, shown, _ = run(capsys, "train", "--resume", str(cut))
    assert code == 0
    assert logged(cut) == logged(whole)
    assert "test accuracy at the last epoch" in shown
    assert run(capsys, *method, "--out", str(cut))[0] == 0  # the same command again: it is done
    assert logged(cut) == logged(whole)


def test_the_directory_of_another_run_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "--method", "erm", *TINY, "--epochs", "1", "--out", str(out)]
    assert run(capsys, *command)[0] == 0
    log = (out / "metrics.jsonl").read_text()
    for other, name in (["--seed", "5"], "seeds"), (["--lr", "0.5"], "settings"):
        code, _, errors = run(capsys, *command, *other)
        assert code == 2
        assert f"has another run; {name}" in errors
    saved = json.loads((out / "study.json").read_text())
    saved["seeds"], saved["words"] = [5], [*saved["words"], "--seed", "5"]
    (out / "study.json").write_text(json.dumps(saved))  # as if by hand
    for said in ("has another run; seed differ", "is of another run"):
        code, _, errors = run(capsys, "train", "--resume", str(out))
        assert code == 2
        assert said in errors
        (out / "config.json").unlink(missing_ok=True)
    assert (out / "metrics.jsonl").read_text() == log


def test_a_run_of_several_processes_is_resumed_by_several(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "--method", "erm", *TINY, "--epochs", "1", "--out", str(out)]
    assert run(capsys, *command)[0] == 0
    saved = json.loads((out / "study.json").read_text())
    saved["words"] += ["--distributed", "localhost:1,2,0"]
    (out / "study.json").write_text(json.dumps(saved))
    code, _, errors = run(capsys, "train", "--resume", str(out))
    assert code == 2
    assert "needs the `--distributed` of each" in errors
    code, _, errors = run(capsys, "train", "--resume", str(out), "--distributed", "here")
    assert code == 2
    assert "`--distributed` must be auto or HOST:PORT,COUNT,INDEX, got 'here'" in errors


def test_train_forgets_what_was_logged_after_the_checkpoint(tmp_path, capsys):
    out = tmp_path / "run"
    method = ["train", "--method", "erm", *TINY, "--epochs", "3", "--out", str(out)]
    assert run(capsys, *method)[0] == 0
    log = out / "metrics.jsonl"
    before = log.read_text()
    log.write_text(before + '{"epoch": 4, "train_loss": 1}\n{"epoch": 5, "tra')
    (out / "rows.jsonl").unlink()  # the run was killed before it wrote its row
    assert run(capsys, "train", "--resume", str(out))[0] == 0
    assert log.read_text() == before


def test_a_recipe_stands_first_and_options_override_its_values(tmp_path, capsys, monkeypatch):
    own = Recipe(
        "a recipe of the test",
        task={"dataset": "digits", "train_size": 200, "width": 8, "label_noise": 0.2},
        optimizer={"batch_size": 50, "base": "adamw"},
        budget={"epochs": 2},
        method="tsam",
        settings={"tsam": "tsam(t=20, rho=0.7, s=3)"},
        published="92.0 %",
    )
    monkeypatch.setattr(resolve, "RECIPES", {"digits": RECIPES["digits"], "own": own})
    monkeypatch.setattr(catalogue, "RECIPES", {"own": own})
    out = tmp_path / "run"
    options = ["--t", "5", "--s", "2", "--seed", "1", "--label-noise", "0.1", "--out", str(out)]
    code, shown, _ = run(capsys, "train", "own", *options)
    assert code == 0
    assert "10 % of the training labels replaced" in shown.splitlines()[0]
    used = json.loads((out / "config.json").read_text())
    assert used["seed"] == 1
    assert used["setting"] == "tsam(t=5.0, rho=0.7, s=2)"
    assert used["task"]["label_noise"] == 0.1
    assert used["task"]["width"] == 8
    assert used["optimizer"]["base"] == "adamw"
    [row] = rows_of(out)
    metrics, best = row["final"], row["best"]
    assert 1 <= metrics["step_effective_sample_size"] <= 2

    assert (out / "learning_curves.png").read_bytes().startswith(b"\x89PNG")

    code, shown, _ = run(capsys, "evaluate", str(out))
    assert code == 0
    assert "epoch 2\n" in shown
    assert f"test: accuracy {100 * metrics['test_accuracy']:.2f} %" in shown
    _, shown, _ = run(capsys, "evaluate", str(out / "best"), "--part", "validation")
    assert f"epoch {best['epoch']}\n" in shown
    assert f"validation: accuracy {100 * best['validation_accuracy']:.2f} %" in shown

    _, shown, _ = run(capsys, "recipes")
    assert "a recipe of the test" in shown
    assert "92.0 %" in shown


def test_a_data_set_of_ones_own_is_not_a_toy(tmp_path, capsys):
    """All examples, the labels as they are, defaults of the model family; flags win."""
    code, shown, _ = run(
        capsys, "train", "--dataset", "digits", "--epochs", "1", "--out", str(tmp_path / "a")
    )
    assert code == 0
    assert shown.startswith("Training mlp on digits.\n")
    used = json.loads((tmp_path / "a/config.json").read_text())
    assert (used["task"]["label_noise"], used["task"]["train_size"]) == (0, None)
    assert used["setting"] == "tsam(t=5, rho=0.1, s=3, noise=sphere(rms=0.006))"
    assert (used["optimizer"]["base"], used["optimizer"]["lr"]) == ("adam", 1e-3)
    for line in ("lr               0.001     MLP, from scratch", "Kingma and Ba 2015"):
        assert " ".join(line.split()) in " ".join(shown.split())
    flags = ["--lr", "5e-5", "--weight-decay", "0", "--rho", "0.3", "--epochs", "1"]
    code, _, _ = run(
        capsys, "train", "digits", "--method", "sam", *flags, "--out", str(tmp_path / "b")
    )
    assert code == 0
    used = json.loads((tmp_path / "b/config.json").read_text())
    assert used["setting"] == "sam(rho=0.3, lr=5e-05, weight_decay=0.0)"
    assert (used["optimizer"]["lr"], used["optimizer"]["weight_decay"]) == (5e-5, 0)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--method", "erm()", "--lr", "1e30", "--epochs", "3", "--out", str(out)]
    code, shown, _ = run(capsys, "train", *TINY, *options)
    assert code == 1
    assert "Diverged: erm(), seed 0, at step" in shown
    assert "epoch 1; last checkpoint: none.\nTry a lower learning rate" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "`trian` is not a known command: there are analyze, compare"),
        (["trian"], "Perhaps you meant `train`"),
        (["train", "digit"], "Perhaps you meant `digits`"),
        (["train", "npz:x", "--dataset", "digits"], "`--dataset` is given more than once"),
        (["train", "--method", "erm", "--rho", "1"], "`--rho` does not apply: `rho` is no arg"),
        (["train", "--s", "0"], "must be a positive integer, got 0"),
        (["train", "--base", "adamm", "--dataset", "folder:x"], "Perhaps you meant `adam`"),
        (["train", "--model", "resnet19", "--dataset", "folder:x"], "you meant `resnet18`"),
        (["train", "--metrics", "acuracy", "--dataset", "folder:x"], "you meant `accuracy`"),
        (["train", "--method", "tsamm", "--dataset", "folder:x"], "Perhaps you meant `tsam`"),
        (["train", "digits", "--loss", "mse"], "`--loss` must be mse for regression"),
        (["train", "--dataset", "folder:nowhere"], "`--dataset folder:nowhere`: "),
        (["train", "folder:nowhere"], "`--dataset folder:nowhere`: "),
        (["train", "--budget", "5", "--epochs", "5"], "give one, got 5 and 5"),
        (["train", "--model", "mlp", "--pretrained", "x"], "both name the network: give one"),
        (["train", "--dataset", "digits", "--pretrained", "x"], "`--pretrained`: "),
        (["train", "--distributed", "here"], "`--distributed` must be auto or HOST:PORT,COUNT"),
        (["evaluate", "nowhere"], "is not a directory"),
        (["evaluate", "."], "is not the directory of a training run"),
        (["report", "."], "is not the directory of a study"),
        (["compare", "--methods", "smm"], "Perhaps you meant `sam`"),
        (["compare", "--methods", "sam(rho=-1)"], "must be a finite number >= 0, got -1"),
        (["compare", "--methods", "erm()", "erm( )"], "`--methods` has erm() more than once"),
        (["compare", "--label-noise", "1.5"], "`--label-noise` must be a finite number >= 0 and"),
        (["compare", "--seeds", "0"], "`--seeds` must be a finite number >= 1 and <= 10000, got 0"),
        (["compare", "--budget", "0"], "`--budget` must be a finite number > 0, got 0"),
        (["compare", "--batch-size", "2000"], "`--batch-size` must be at most the 1000 training"),
        (["compare", "--methods", SPLIT.format(3)], "must be a multiple of s = 3 in `tsam(t=1, "),
        (["sweep", "--methods", SPLIT.format("[2, 4]")], "must be a multiple of s = 4 in `tsam(t"),
        (["train", "--method", SPLIT.format(2), "--batch-size", "5"], "multiple of s = 2 in"),
        (["compare", "--train-size", "5000"], "`subset` must be at most 1000 for"),
        (["compare", "--stream"], "`--stream` is for `tsam-jax train`"),
        (["compare", "--lr", "nan"], "`--lr` must be a finite number >= 0, got nan"),
        (["study", "--shard", "5/4"], "`--shard` must be I/N with I from 1 to N"),
        (["sweep", "--methods", "sam(rho=[])"], "empty list"),
        (["sweep", "--methods", "erm(lr=[1, 2])", "--lr", "3"], "`--lr` contradicts the grid in"),
        (["sweep", "--methods", "erm", "--grid", "lr=1,2", "--lr", "3"], "`--lr` contradicts `--g"),
        (["train", "--method", "sam(rho=[1,2])"], "`--method` takes one setting, got 2"),
        (["train", "--checkpoint-every", "0"], "`--checkpoint-every` must be a finite number >= 1"),
        (["train", "--keep-checkpoints", "0"], "`--keep-checkpoints` must be a finite number >="),
        (["train", "--seed", "-1"], "`--seed` must be a finite number >= 0 and <= 4294967295"),
        (["train", "--resume", "nowhere", "--epochs", "9"], "leave out the other options"),
        (["train", "--resume", "nowhere"], "is not the directory of a `tsam-jax train`"),
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
    [row] = rows_of(out)
    assert row["epochs"] == 6  # a budget of 12, and 2 gradients a step
    assert row["final"]["gradient_evaluations"] == 6 * 4 * 2


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
    first_words = re.findall(r"^ (\w+) ", shown, re.MULTILINE)
    assert first_words == ["method", *METHODS, *WRAPPERS]
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
    assert text.startswith("1/n sum_i ghat(B_i), micro-batches")
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


@pytest.mark.parametrize("command", commands())
def test_help_everywhere(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"tsam-jax {command}" in shown
    assert "None" not in shown
    assert "(default: )" not in shown


def test_help_of_all(capsys):
    for words in ([], ["--help"]):
        code, shown, _ = run(capsys, *words)
        assert code == 0
        assert all(f"  {name} " in shown for name in commands())


def test_help_does_not_load_the_networks():
    program = "import sys; from tsam_jax import cli; cli.main(['--help']); "
    program += "print([m for m in ('flax', 'orbax', 'matplotlib', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("module", ["tsam_jax.cli", "tsam_jax.nnx", "tsam_jax.analysis"])
def test_without_an_extra_the_error_says_what_to_install(module):
    program = "import sys\n"
    program += "for name in ('tyro', 'flax', 'matfree'): sys.modules[name] = None\n"
    program += (
        f"import {module}; sys.exit({module}.main())"
        if module.endswith("cli")
        else (f"import {module}")
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode
    assert "pip install 'tsam_jax[train]'" in done.stderr
    if module.endswith("cli"):
        assert "Traceback" not in done.stderr
