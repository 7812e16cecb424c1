"""`tsam-jax train` that is killed goes on, and ends, bit for bit, as if it had not been."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tsam_jax import cli
from tsam_jax.train.job import open_folders
from tsam_jax.train.single import load_command, make_job

SMALL = ["--train-size", "100", "--width", "4", "--batch-size", "50", "--checkpoint-every", "2"]
TRAIN = ["train", "--method", "vasso(rho=0.1)", *SMALL]

LIMIT = 600  # seconds that a process may take to start and to train; 5 on two quiet cores

# Runs the command line, and is killed in the middle of the log's line of the third epoch.
KILLED_WHILE_LOGGING = """
import os, signal, sys
from tsam_jax import cli
from tsam_jax.train.log import Log

write = Log.write

def killed(log, this, *rest):
    if this.epoch < 3:
        return write(log, this, *rest)
    with log._path.open("a") as file:
        file.write('{"epoch": 3, "gradi')
    os.kill(os.getpid(), signal.SIGKILL)

Log.write = killed
cli.main(sys.argv[1:])
"""


def final_states(*directories: Path):
    job = make_job(load_command(directories[0]))
    like, states = job.program.init([job.seed]), []
    for directory in directories:
        with open_folders(directory, job) as folders:
            for checkpoints in folders:
                state = checkpoints.restore(like)
                states.append(state._replace(key=jax.random.key_data(state.key)))
    return states


def without_times(line):
    return {**json.loads(line), "timing": None}


def assert_ended_alike(directory: Path, whole: Path):
    logs = [(path / "metrics.jsonl").read_text().splitlines() for path in (directory, whole)]
    assert [without_times(line) for line in logs[0]] == [without_times(line) for line in logs[1]]
    results = [json.loads((path / "result.json").read_text()) for path in (directory, whole)]
    assert results[0] == results[1]
    assert results[0]["complete"]
    last, best, whole_last, whole_best = final_states(directory, whole)
    jax.tree.map(np.testing.assert_array_equal, last, whole_last)
    jax.tree.map(np.testing.assert_array_equal, best, whole_best)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main([*TRAIN, "--epochs", "5", "--out", str(out)]) == 0
    return out


def test_a_kill_in_the_middle_of_a_line_of_the_log(tmp_path, whole):
    out = tmp_path / "run"
    command = [sys.executable, "-c", KILLED_WHILE_LOGGING, *TRAIN]
    command += ["--epochs", "5", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (out / "metrics.jsonl").read_text().endswith('{"epoch": 3, "gradi')
    assert cli.main(["train", "--resume", str(out)]) == 0
    assert_ended_alike(out, whole)


def test_a_kill_while_the_log_is_cut_back(whole, monkeypatch):
    """The log is written anew before training goes on: it is then the old one, or the new one."""
    log = whole / "metrics.jsonl"
    before = log.read_text()
    write_text = Path.write_text

    def half(path, text):
        write_text(path, text[: len(text) // 2])
        raise SystemExit

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(SystemExit):
        cli.main(["train", "--resume", str(whole)])
    assert log.read_text() == before


def killed_at_random(out, arguments, kills, rng):
    """Starts and resumes a run that is killed each time, at a moment within its training."""
    program, log, done = [sys.executable, "-m", "tsam_jax.cli"], out / "metrics.jsonl", 0
    while done < kills:
        changed = log.stat().st_mtime_ns if log.exists() else None
        with subprocess.Popen([*program, *arguments], stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + LIMIT
            while process.poll() is None:  # until it has cut back the log, or written a line
                if log.exists() and log.stat().st_size and log.stat().st_mtime_ns != changed:
                    break
                if time.monotonic() > deadline:
                    process.kill()
                    pytest.fail("it does not get as far as the log")
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 1.0))
            process.kill()
        assert process.returncode == -signal.SIGKILL, "it ended first: give it more epochs"
        done += 1
        arguments = ["train", "--resume", str(out)]


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_kills_at_random_moments(tmp_path, kills):
    """Each kill leaves epochs of different number; in the end the run is the uninterrupted one."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    killed_at_random(
        out, [*TRAIN, "--epochs", "100000", "--out", str(out)], kills, random.Random(0)
    )
    # On a busy machine there may be a single line, or none but the one that the kill cut.
    *lines, _ = (out / "metrics.jsonl").read_text().split("\n")
    epochs = str((json.loads(lines[-1])["epoch"] if lines else 0) + 4)
    used = json.loads((out / "config.json").read_text())
    used["budget"]["epochs"] = int(epochs)
    (out / "config.json").write_text(json.dumps(used))
    assert cli.main(["train", "--resume", str(out)]) == 0
    assert cli.main([*TRAIN, "--epochs", epochs, "--out", str(whole)]) == 0
    assert_ended_alike(out, whole)
