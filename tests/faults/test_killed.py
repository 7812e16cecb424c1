"""`tsam-jax train` that is killed goes on, and ends, bit for bit, as if it had not been."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import cli
from tsam_jax.train import loop
from tsam_jax.train.checkpoint import open_checkpoints
from tsam_jax.train.single import load_command
from tsam_jax.train.task import load_data, make_network

SMALL = ["--train-size", "100", "--width", "4", "--batch-size", "50", "--checkpoint-every", "2"]
TRAIN = ["train", "--method", "vasso(rho=0.1)", *SMALL]

# Runs the command line, and is killed in the middle of the log's line of the third epoch.
KILLED_WHILE_LOGGING = """
import os, signal, sys
from tsam_jax import cli
from tsam_jax.train import single

write = single._Log.write

def killed(log, this, gradients):
    if this.epoch < 3:
        return write(log, this, gradients)
    with log._path.open("a") as file:
        file.write('{"epoch": 3, "gradi')
    os.kill(os.getpid(), signal.SIGKILL)

single._Log.write = killed
cli.main(sys.argv[1:])
"""


def final_states(*directories: Path):
    command = load_command(directories[0])
    data = load_data(command.task, [command.seed])
    network = make_network(command.task, data.train)
    program = loop.make_program(
        network, command.setting(), command.optimizer, command.task.train_size
    )
    like, states = program.init(jnp.asarray([command.seed])), []
    for directory in directories:
        with open_checkpoints(directory) as checkpoints:
            state = checkpoints.restore(like)
        states.append(state._replace(key=jax.random.key_data(state.key)))
    return states


def assert_ended_alike(directory: Path, whole: Path):
    assert (directory / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    results = [json.loads((path / "result.json").read_text()) for path in (directory, whole)]
    assert results[0] == results[1]
    assert results[0]["complete"]
    jax.tree.map(np.testing.assert_array_equal, *final_states(directory, whole))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main([*TRAIN, "--epochs", "5", "--out", str(out)]) == 0
    return out


def test_a_kill_in_the_middle_of_a_line_of_the_log(tmp_path, whole):
    out = tmp_path / "run"
    command = [sys.executable, "-c", KILLED_WHILE_LOGGING, *TRAIN]
    command += ["--epochs", "5", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, check=False)
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


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    many = [*TRAIN, "--epochs", "40"]
    program = [sys.executable, "-m", "tsam_jax.cli"]
    subprocess.run([*program, *many, "--out", str(whole)], check=True, capture_output=True)
    log, rng, kills = out / "metrics.jsonl", random.Random(0), 0
    arguments = [*many, "--out", str(out)]
    for _ in range(3):
        changed = log.stat().st_mtime_ns if log.exists() else None
        with subprocess.Popen([*program, *arguments], stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:  # until it has cut back the log, or written a line
                if log.exists() and log.stat().st_size and log.stat().st_mtime_ns != changed:
                    break
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 1.0))
            process.kill()
        kills += process.returncode == -signal.SIGKILL
        arguments = ["train", "--resume", str(out)]
    assert kills >= 1
    subprocess.run([*program, *arguments], check=True, capture_output=True)
    assert_ended_alike(out, whole)
