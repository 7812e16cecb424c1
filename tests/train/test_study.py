"""Studies: they survive what stops them, in any number of shards, and share programs."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from rich.console import Console

from tsam_jax import cli
from tsam_jax.commands.study import Compare
from tsam_jax.train import config, loop, record, restore, study
from tsam_jax.train.progress import Progress
from tsam_jax.train.resolve import Plan, resolve
from tsam_jax.train.settings import parse
from tsam_jax.train.task import load_task

TASK = config.Task(train_size=150, width=8, depth=1, model="mlp", label_noise=0.4)
SMALL = ["--train-size", "150", "--width", "8", "--depth", "1", "--batch-size", "50"]
TINY = [*SMALL, "--epochs", "2", "--seeds", "2"]
METHODS = ["--methods", "erm(lr=0.1)", "sam(rho=0.1)", "sam(rho=0.2)"]


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def rows_of(directory):
    """The rows of all shards, in the order of the study, without times."""
    rows = [row for file in directory.glob("rows*.jsonl") for row in record.read_lines(file)]
    return sorted(({**row, "seconds": None} for row in rows), key=lambda row: row["directory"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "whole"
    assert cli.main(["study", *METHODS, *TINY, "--out", str(out)]) == 0
    return out


def test_a_study_goes_on_with_the_runs_that_are_not_finished(tmp_path, capsys, monkeypatch, whole):
    out, train = tmp_path / "study", loop.train

    def killed(program, state, data, *, ends, **options):
        for this in train(program, state, data, ends=ends, **options):
            if len(record.read_lines(out / "rows.jsonl")) == 3 and this.epoch == 2:
                raise SystemExit
            yield this

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", killed)
        with pytest.raises(SystemExit):
            cli.main(["study", *METHODS, *TINY, "--out", str(out)])
    with (out / "rows.jsonl").open("a") as rows:
        rows.write('{"setting": "sam(rho=0.1)", "se')  # and the file was cut off
    trained = []

    def counted(one, progress, **options):
        trained.append((one.label, one.seed))
        return run_train(one, progress, **options)

    run_train = study.train
    monkeypatch.setattr(study, "train", counted)
    code, _, _ = run(capsys, "study", *METHODS, *TINY, "--out", str(out))
    assert code == 0
    assert trained == [("sam(rho=0.1)", 1), ("sam(rho=0.2)", 0), ("sam(rho=0.2)", 1)]
    assert rows_of(out) == rows_of(whole)


def test_shards_are_the_study(tmp_path, capsys, whole):
    out = tmp_path / "shards"
    command = ["study", *METHODS, *TINY, "--out", str(out)]
    for shard in ("2/2", "1/2"):
        assert run(capsys, *command, "--shard", shard)[0] == 0
    assert {path.name for path in out.glob("rows*")} == {"rows-1-of-2.jsonl", "rows-2-of-2.jsonl"}
    assert rows_of(out) == rows_of(whole)
    first = [json.loads(x) for x in (out / "rows-1-of-2.jsonl").read_text().splitlines()]
    assert [row["directory"][:9] for row in first] == ["cells/000", "cells/002", "cells/004"]
    code, shown, _ = run(capsys, "report", str(out))
    assert code == 0
    assert "over seeds (2)" in shown
    reports = [json.loads((path / "report.json").read_text()) for path in (out, whole)]
    for row in (*reports[0]["summary"], *reports[1]["summary"]):
        row["estimates"].pop("seconds")
    assert reports[0]["summary"] == reports[1]["summary"]
    code, _, _ = run(capsys, *command)  # all of it: there is nothing left to do
    assert code == 0
    assert not (out / "rows.jsonl").exists()


@pytest.mark.slow
def test_two_shards_at_once_do_not_disturb_each_other(tmp_path, whole):
    out = tmp_path / "shards"
    words = ["study", *METHODS, *TINY, "--out", str(out), "--shard"]
    with subprocess.Popen([sys.executable, "-m", "tsam_jax.cli", *words, "2/2"]) as process:
        while not (out / "study.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert cli.main([*words, "1/2"]) == 0
        assert process.wait(timeout=900) == 0
    for ours, theirs in zip(rows_of(out), rows_of(whole), strict=True):
        assert ours["setting"] == theirs["setting"]
        np.testing.assert_allclose(
            ours["final"]["test_loss"], theirs["final"]["test_loss"], rtol=1e-3
        )


@pytest.mark.slow
def test_a_kill_in_the_middle(tmp_path, capsys):
    out = tmp_path / "study"
    words = ["study", "--methods", "sam(rho=0.1)", *SMALL, "--seeds", "1", "--epochs", "400"]
    words += ["--evaluations", "400", "--out", str(out)]
    log = out / "cells/000-sam-seed0/metrics.jsonl"
    with subprocess.Popen([sys.executable, "-m", "tsam_jax.cli", *words]) as process:
        deadline = time.monotonic() + 600
        while not (log.parent / "checkpoints/240").exists():  # epoch 80 of 400, 3 steps each
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    code, _, _ = run(capsys, *words)
    assert code == 0
    assert [line["epoch"] for line in record.read_lines(log)] == list(range(1, 401))


def test_a_setting_that_diverges_does_not_stop_the_others(tmp_path, capsys):
    words, out = ["--methods", "erm(lr=1e10)", "erm(lr=0.1)", *TINY], tmp_path / "study"
    words += ["--flatness-examples", "50", "--out", str(out)]
    code, shown, _ = run(capsys, "compare", *words)
    assert code == 1
    assert "Diverged: erm(lr=10000000000.0), seed 0, at step" in shown
    assert "Try a lower learning rate" in shown
    rows = rows_of(out)
    assert [row["diverged"] is None for row in rows] == [False, False, True, True]
    assert [row["flatness"] is None for row in rows] == [True, True, False, False]
    assert "diverged" in (out / "report.html").read_text()


def test_flatness_that_fails_loses_no_report(tmp_path, capsys, monkeypatch):
    def too_large(*_):
        msg = "RESOURCE_EXHAUSTED: out of memory"
        raise RuntimeError(msg)

    monkeypatch.setattr(restore, "make_flatness", lambda network: too_large)
    out = tmp_path / "study"
    code, _, _ = run(capsys, "compare", "--methods", "erm(lr=0.1)", *TINY, "--out", str(out))
    assert code == 0
    assert {row["flatness_error"] for row in rows_of(out)} == {"RESOURCE_EXHAUSTED: out of memory"}
    assert "RESOURCE_EXHAUSTED" in (out / "report.html").read_text()


def test_flatness_is_the_same_in_batches_and_of_the_average(tmp_path):
    """That of 500 examples is computed 250 at a time: the mean of the two halves."""
    loaded = load_task(config.Task(model="mlp", width=8, depth=1), [0])
    params, rest = loaded.network.init(jax.random.key(0))
    train = loaded.of_seed(0).train
    measure = restore.make_flatness(loaded.network)
    found = measure((params, rest), restore.some_batches(train, 500))
    outputs = loaded.network.predict(params, train.inputs[:500], rest)
    loss = loaded.network.criterion(outputs, train.labels[:500])
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    halves = [
        measure((params, rest), restore.some_batches(part, 250))["mean"]
        for part in (train, loop.Batch(train.inputs[250:], train.labels[250:]))
    ]
    np.testing.assert_allclose(found["mean"], np.mean(halves, axis=0), rtol=1e-4)
    assert found["top_eigenvalue"] > 0


def test_sweep_chooses_by_validation_and_never_reports_the_test(tmp_path, capsys):
    out = tmp_path / "sweep"
    grids = ["erm(lr=[1e-6, 0.05])", "sam(rho=0.05, lr=[0.05, 1e-6])"]
    words = ["--train-size", "200", "--width", "8", "--batch-size", "50", "--budget", "12"]
    code, shown, _ = run(capsys, "sweep", "--methods", *grids, *words, "--out", str(out))
    assert code == 0
    assert "sam(rho=0.05, lr=0.05)" in shown
    for path in (*out.glob("rows*"), out / "report.json", *out.glob("cells/*/metrics.jsonl")):
        text = path.read_text()
        assert "validation_accuracy" in text
        assert "test_accuracy" not in text
        assert "test_loss" not in text
    assert (out / "heatmap.png").exists()
    assert "tsam-jax compare digits --methods 'erm(lr=0.05)' 'sam(rho=0.05, lr=0.05)'" in shown


def plans_of(*texts, **fields):
    optimizer = config.Optimizer(batch_size=50, **fields)
    plans = []
    for text in texts:
        for setting in parse(text):
            own = {k: v for k, v in setting.overrides.items() if k != "budget"}
            epochs = int(setting.overrides.get("budget", 3))
            values = {**vars(optimizer), **own}
            plans.append(Plan(setting, config.Optimizer(**values), epochs))
    return plans


def groups_of(*texts):
    """The settings that share a program."""
    groups = {}
    for plan in plans_of(*texts):
        groups.setdefault(study._shared(plan), []).append(plan.setting.text)
    return list(groups.values())


def test_what_shapes_the_computation_is_not_shared():
    found = groups_of(
        "tsam(t=[1, 5], rho=[0, 0.1], s=[2, 3])",
        "sam(rho=[0.1, 0.2], steps=[1, 2])",
        "erm(lr=[0.1, 0.2], momentum=[0, 0.9])",
    )
    assert sorted(map(len, found)) == [2, 2, 2, 2, 2, 2, 4]
    assert groups_of("sam(rho=0.1, budget=[4, 8])") == [
        ["sam(rho=0.1, budget=4)"],
        ["sam(rho=0.1, budget=8)"],
    ]


def test_methods_with_memory_share_a_program():
    for text in (
        "vasso(rho=0.1, theta=[0.4, 0.9])",
        "fsam(rho=0.1, lmbda=[0.6, 0.9])",
        "wsam(rho=0.1, gamma=[0.3, 0.6])",
    ):
        assert [len(group) for group in groups_of(text)] == [2]


@pytest.mark.slow
def test_settings_that_share_a_program_are_what_each_is_alone():
    loaded = load_task(TASK, [0])
    plans = plans_of(
        "tsam(t=[1, 20], rho=0.5, s=2, noise=sphere(rms=0.02), lr=0.1)",
        "tsam(t=20, rho=0.5, s=2, noise=sphere(rms=0.3), lr=0.1, weight_decay=0.3)",
        schedule="cosine",
        warmup=1,
    )
    assert len(set(map(study._shared, plans))) == 1
    shared = loop.make_program(loaded.network, loop.plan_for(*plans[0][:2], 150, 3), 150)
    found = []
    for setting, optimizer, _ in plans:  # with numbers as arguments, and as constants
        numbers = loop.numbers_for(setting, optimizer)
        own = loop.plan_for(setting, optimizer, 150, 3)
        base = own.base(numbers)
        fixed = own._replace(
            estimator=lambda _, setting=setting: setting.build(), base=lambda _, base=base: base
        )
        single = loop.make_program(loaded.network, fixed, 150)
        for program, start in (shared, shared.init(0, numbers)), (single, single.init(0)):
            *_, last = loop.train(program, start, loaded.of_seed(0), ends=[2, 3])
            found.append(last.metrics["train_loss"])
    np.testing.assert_allclose(found[::2], found[1::2], rtol=2e-4)
    assert np.ptp(found) > 1e-3  # the numbers matter


def test_the_directory_of_another_study_is_refused(whole, capsys):
    before = (whole / "rows.jsonl").read_text()
    for words, name in (["--seeds", "3"], "seeds"), (["--lr", "0.7"], "optimizers"):
        code, _, errors = run(capsys, "study", *METHODS, *TINY, "--out", str(whole), *words)
        assert code == 2
        assert name in errors
        assert "has another run" in errors
    assert (whole / "rows.jsonl").read_text() == before
    code, _, errors = run(capsys, "study", "--resume", str(whole), "--seeds", "2")
    assert code == 2
    assert "leave out the other options" in errors


def test_a_study_in_a_terminal_of_80_columns(whole, capsys):
    _, shown, _ = run(capsys, "report", str(whole))
    assert max(map(len, shown.splitlines()[:-1])) <= 80


def test_a_study_of_ones_own_data_compares_three_methods():
    command = Compare(task=config.TaskFlags(dataset="digits"))
    names = [plan.setting.name for plan in resolve(command).plans]
    assert names == ["erm", "sam", "tsam"]


def test_a_mesh_must_fit_every_setting(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [None] * 2)
    methods = ("tsam(t=1, rho=0.1, s=3)", "tsam(t=1, rho=0.1, s=2)")
    for some in (methods, methods[::-1]):
        monkeypatch.setattr(jax, "make_mesh", lambda *_, **__: None)
        with pytest.raises(config.ConfigError, match="s = 3 in `tsam"):
            resolve(Compare(recipe="digits", methods=some, mesh="sample=2"))


def test_a_checkpoint_is_due_when_its_epoch_is_passed(tmp_path):
    """Evaluated at the epochs 3, 6 and 10, with a checkpoint every 5: at 6 and at 10."""
    loaded = load_task(TASK, [0])
    [plan] = plans_of("erm(budget=10)")
    one = study.make_run(plan, TASK, loaded, 0, tmp_path, evaluations=3)
    with Progress(10 * one.price, Console(quiet=True)) as progress:
        study.train(one, progress, checkpoint_every=5, keep_checkpoints=9)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [18, 30]
