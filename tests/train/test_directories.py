"""Directories of runs: one owner, one history, and clear words for whatever is wrong with them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tsam_jax import cli
from tsam_jax.commands import default_directory
from tsam_jax.train import loop, record
from tsam_jax.train.config import ConfigError

TRAIN = ["train", "--method", "erm(lr=0.05)", "--train-size", "100", "--width", "4"]
TRAIN += ["--batch-size", "50", "--epochs", "6", "--checkpoint-every", "2"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "done"
    assert cli.main([*TRAIN, "--out", str(out)]) == 0
    return out


@pytest.fixture
def copy(done, tmp_path):
    """A run that was killed before it wrote its row."""
    run = shutil.copytree(done, tmp_path / "run")
    (run / "rows.jsonl").unlink()
    return run


def refused(capsys, *arguments):
    """What the command line says, in a sentence or two, after it changed nothing."""
    code = cli.main(list(arguments))
    said = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in said
    assert len(said) < 600
    return said


def contents(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_directory_belongs_to_one_process(copy, capsys):
    with record.owned(copy, "rows"):
        said = refused(capsys, "train", "--resume", str(copy))
    assert "another process writes to" in said
    assert cli.main(["train", "--resume", str(copy)]) == 0  # the lock went with its owner


def test_two_processes_do_not_mix(tmp_path, capsys):
    out = tmp_path / "run"
    words = [*(word if word != "6" else "2000" for word in TRAIN), "--out", str(out)]
    command = [sys.executable, "-m", "tsam_jax.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 600
        while not (out / "metrics.jsonl").exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        said = refused(capsys, *words)
        first.kill()
    assert "another process writes to" in said


def test_default_names_do_not_meet():
    names = {default_directory("train") for _ in range(20)}
    assert len(names) == 20


@pytest.mark.parametrize("damage", ["missing", "twice", "torn", "nan", "list"])
def test_a_damaged_log_is_refused_and_nothing_is_lost(copy, capsys, damage):
    log = copy / "metrics.jsonl"
    lines = log.read_text().splitlines()
    changed = {
        "missing": lines[:2] + lines[3:],
        "twice": [*lines[:3], *lines[2:]],
        "torn": [lines[0], lines[1][:20], *lines[2:]],
        "nan": [lines[0].replace('"epoch": 1', '"epoch": NaN'), *lines[1:]],
        "list": ["[1]", *lines[1:]],
    }
    log.write_text("\n".join(changed[damage]) + "\n")
    before = contents(copy)
    said = refused(capsys, "train", "--resume", str(copy))
    assert "metrics.jsonl" in said
    assert "Nothing was changed" in said
    assert contents(copy) == before


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"{",
        b"[1, 2]",
        b'{"words": NaN}',
        b"[" * 100_000,
        b'{"words": ["train"], "seed": 0}',
        b'{"words": 3}',
    ],
)
def test_a_config_edited_by_hand_is_refused(copy, capsys, text):
    saved = (copy / "study.json").read_bytes()
    for name in ("study.json", "config.json"):
        (copy / "study.json").write_bytes(saved)
        (copy / name).write_bytes(text)
        before = contents(copy)
        refused(capsys, "train", "--resume", str(copy))
        assert contents(copy) == before
    refused(capsys, "evaluate", str(copy))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("optimizer", "lr", "0.1"),
        ("optimizer", "batch_size", 2.5),
        ("optimizer", "schedule", "cosin"),
        ("task", "model", "resnet81"),
        ("task", "loss", "cross-entrpy"),
        ("task", "augmentation", "crop-flp"),
        ("task", "stream", 1),
        ("task", "train_size", True),
        ("task", "metrics", [3]),
        ("task", "nothing", 1),
    ],
)
def test_unknown_values_and_those_of_another_type_are_refused(copy, capsys, part, name, value):
    saved = json.loads((copy / "config.json").read_text())
    saved[part][name] = value
    (copy / "config.json").write_text(json.dumps(saved))
    assert name.replace("_", "-") in refused(capsys, "evaluate", str(copy)).replace("_", "-")


def test_a_run_knows_its_data(tmp_path, capsys):

    def write(seed):
        inputs = np.random.default_rng(seed).normal(size=(60, 5)).astype(np.float32)
        np.savez(tmp_path / "mine.npz", train_inputs=inputs, train_labels=np.arange(60) % 2)

    write(0)
    words = ["train", f"npz:{tmp_path / 'mine.npz'}", "--method", "erm", "--epochs", "2"]
    words += ["--width", "4", "--batch-size", "10", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    write(1)
    assert "data differ" in refused(capsys, *words)
    assert "other data" in refused(capsys, "evaluate", str(tmp_path / "run"))


def test_missing_checkpoints_are_said(copy, capsys):
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "best")
    assert cli.main(["train", "--resume", str(copy)]) == 0
    assert "no checkpoint yet: starting from the beginning" in capsys.readouterr().out


def test_an_older_step_under_a_newer_name_is_noticed(copy, capsys):
    steps = sorted(int(path.name) for path in (copy / "checkpoints").iterdir())
    assert steps == [8, 12]
    shutil.rmtree(copy / "checkpoints" / "12")
    (copy / "checkpoints" / "8").rename(copy / "checkpoints" / "12")
    said = refused(capsys, "train", "--resume", str(copy))
    assert "it is of step 8, under another name" in said


def run_in_child(code, *arguments, **options):
    program = f"import sys\nfrom tsam_jax import cli\n{code}\nsys.exit(cli.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        **options,
    )


@pytest.mark.parametrize("where", ["log", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_loses_nothing(tmp_path, where):
    out = tmp_path / "run"
    target = {"log": "record.Log.write", "checkpoint": "checkpoint.ocp.CheckpointManager.save"}
    module = target[where].partition(".")[0]
    code = f"from tsam_jax.train import {module}; import errno; n = []\n"
    code += f"old = {target[where]}\n"
    code += "def full(*a, **k):\n"
    code += "    n.append(1)\n"
    code += "    if len(n) > 3: raise OSError(errno.ENOSPC, 'No space left on device', 'disk')\n"
    code += "    return old(*a, **k)\n"
    code += f"{target[where]} = full\n"
    done = run_in_child(code, *TRAIN, "--out", str(out))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr.replace("\n", " ")
    assert cli.main(["train", "--resume", str(out)]) == 0


@pytest.mark.slow
def test_a_file_size_limit_is_one_sentence(tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    uncached = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}  # its files are large
    done = run_in_child(code, *TRAIN, "--out", str(tmp_path / "run"), env=uncached)
    assert done.returncode == 1
    assert "File too large" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_directory_removed_under_a_run_is_an_error(tmp_path):
    out = tmp_path / "run"
    code = "import shutil; from tsam_jax.train import record; old = record.Log.write; "
    code += f"record.Log.write = lambda *a: (shutil.rmtree({str(out)!r}), old(*a))[1]"
    done = run_in_child(code, *TRAIN, "--out", str(out))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No such file or directory" in done.stderr


def test_an_ascii_terminal_and_a_closed_pipe(done):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    shown = run_in_child("0", "methods", env=environment)
    assert shown.returncode == 0, shown.stderr
    program = [sys.executable, "-m", "tsam_jax.cli", "methods"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(timeout=600) in {1, 120}
    assert "Traceback" not in said


def test_a_second_interrupt_stops_at_once(tmp_path, capsys, monkeypatch):
    out, train = tmp_path / "run", loop.train

    def interrupted_twice(*arguments, **options):
        for this in train(*arguments, **options):
            yield this
            for _ in (1, 2) if this.epoch == 3 else ():
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", interrupted_twice)
        assert cli.main([*TRAIN, "--out", str(out)]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert [line["epoch"] for line in record.read_lines(out / "metrics.jsonl")] == [1, 2]
    assert cli.main(["train", "--resume", str(out)]) == 0


def test_an_interrupt_at_the_end_of_a_checkpoint_loses_nothing(tmp_path, monkeypatch):
    """It is there, but orbax does not know yet: the log must have its epochs."""
    out, rename = tmp_path / "run", os.rename

    def interrupted(source, target, **options):
        rename(source, target, **options)
        if str(target).endswith("checkpoints/8"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        assert cli.main([*TRAIN, "--out", str(out)]) == 130
    assert max(int(path.name) for path in (out / "checkpoints").iterdir()) == 8
    assert record.read_lines(out / "metrics.jsonl")[-1]["epoch"] == 4
    assert cli.main(["train", "--resume", str(out)]) == 0


def test_lines_are_read_whole_or_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    record.add_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2')
    assert record.read_lines(path) == [{"a": 1}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        record.read_lines(path)
