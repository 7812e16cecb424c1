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
from tsam_jax.train import record, restore
from tsam_jax.train.checkpoint import BEST, LAST
from tsam_jax.train.run import make_run
from tsam_jax.train.task import load_task

SMALL = ["--train-size", "100", "--width", "4", "--batch-size", "50", "--checkpoint-every", "2"]
TRAIN = ["train", "--method", "vasso(rho=0.1)", *SMALL]

LIMIT = 600  # seconds that a process may take to start and to train; 5 on two quiet cores

# Runs the command line, and is killed in the middle of the log's line of the third epoch.
KILLED_WHILE_LOGGING = """
import os, signal, sys
from tsam_jax import cli
from tsam_jax.train.record import Log

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


def final_states(directory: Path):
    """The newest state and the weights of the best epoch, as they are stored."""
    _, task, plan = restore.read_plan(directory, "checkpoint")
    loaded = load_task(task, [0])
    one = make_run(plan, task, loaded, 0, directory, evaluations=1)
    start = one.start()
    params, rest = one.weights(start)
    likes = {LAST: start._asdict(), BEST: {"params": params, "rest": rest}}
    states = {}
    for folder, like in likes.items():
        with one.checkpoints(folder) as checkpoints:
            tree = checkpoints.restore(like)
            states[folder] = checkpoints.newest, jax.tree.map(_plain, tree)
    return states


def _plain(x):
    key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if key else x)


def without_times(line):
    return {**json.loads(line), "timing": None}


def assert_ended_alike(directory: Path, whole: Path):
    logs = [(path / "metrics.jsonl").read_text().splitlines() for path in (directory, whole)]
    assert [without_times(line) for line in logs[0]] == [without_times(line) for line in logs[1]]
    results = [record.read_lines(path / "rows.jsonl") for path in (directory, whole)]
    assert [{**row, "seconds": 0} for row in results[0]] == [
        {**row, "seconds": 0} for row in results[1]
    ]
    assert len(results[0]) == 1
    jax.tree.map(np.testing.assert_array_equal, final_states(directory), final_states(whole))


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

    def killed(draft, path):
        raise SystemExit

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(SystemExit):
        cli.main(["train", "--resume", str(whole)])
    assert log.read_text() == before


def epoch_of(log):
    """The last epoch of a log that may have been cut off in the middle of a line."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return json.loads(lines[-1])["epoch"] if lines else 0


def killed_at_random(out, arguments, kills, rng):
    """Starts and resumes a run that is killed each time, some epochs after it began to train."""
    program, log = [sys.executable, "-m", "tsam_jax.cli"], out / "metrics.jsonl"
    for _ in range(kills):
        changed, target = log.stat().st_mtime_ns if log.exists() else None, None
        more = rng.randint(0, 5)
        with subprocess.Popen([*program, *arguments], stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + LIMIT
            while process.poll() is None:
                if log.exists() and log.stat().st_size and log.stat().st_mtime_ns != changed:
                    # It has cut back the log, or written a line.
                    target = epoch_of(log) + more if target is None else target
                    if epoch_of(log) >= target:
                        break
                if time.monotonic() > deadline:
                    process.kill()
                    pytest.fail("it does not get as far as the log")
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.05))
            process.kill()
        assert process.returncode == -signal.SIGKILL, "it ended first: give it more epochs"
        arguments = ["train", "--resume", str(out)]


NOISY = "tsam(t=5, rho=0.1, s=2, noise=sphere(rms=0.02))"
CONFIGURATIONS = {
    "memory": ["--method", "vasso(rho=0.1)"],
    "samples": ["--method", NOISY],
    "schedule": ["--method", "sam(rho=0.1)", "--schedule", "cosine", "--warmup", "3"],
    "average": ["--method", "erm", "--ema", "0.9"],
    "adamw": ["--method", "fsam(rho=0.1)", "--base", "adamw", "--lr", "0.001"],
    "parts": ["--method", "sam(rho=0.1)", "--accumulate", "5"],
    "half": ["--method", NOISY, "--precision", "bfloat16"],
    "every": ["--method", "looksam(rho=0.1, every=3)", "--checkpoint-every", "1"],
    "search": ["--method", "xsam(rho=0.1, rho_max=0.2, search_every=5)"],
    "clipped": ["--method", "gsam(rho=0.1, alpha=0.1)", "--clip", "0.5"],
    "chosen": ["--method", "tsam(t=AutoTilt(0.5), rho=0.1, s=2)", "--base", "sgd(nesterov=True)"],
}
"""What is killed: `pytest -m slow tests/faults/test_killed.py` makes 100 kills."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [(n, 9 + (n == "memory")) for n in CONFIGURATIONS])
def test_kills_at_random_moments(tmp_path, name, kills):
    """Each kill leaves epochs of different number; in the end the run is the uninterrupted one."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    command = ["train", *SMALL, *CONFIGURATIONS[name], "--epochs", str(30 + 12 * kills)]
    killed_at_random(out, [*command, "--out", str(out)], kills, random.Random(name))
    assert cli.main(["train", "--resume", str(out)]) == 0
    assert cli.main([*command, "--out", str(whole)]) == 0
    assert_ended_alike(out, whole)
