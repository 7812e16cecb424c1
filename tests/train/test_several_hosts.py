"""A study, as `tsam-jax train` is one, gives on two processes the parameters of one process."""

import json
import socket
import subprocess
import sys

import device_programs
import jax
import numpy as np
import pytest

from tsam_jax.train import record
from tsam_jax.train.restore import restore

METHOD = "tsam(t=5, rho=0.1, s=2, noise=sphere(rms=0.02))"
SMALL = ["--width", "8", "--batch-size", "40", "--epochs", "2", "--checkpoint-every", "1"]
SMALL += ["--seeds", "1", "--flatness-examples", "40"]


def start(out, dataset, devices, *options):
    """The command line in a process of its own, which patiently waits for the others."""
    program = "import jax, sys; from functools import partial; from tsam_jax import cli; "
    program += "limits = dict(initialization_timeout=600, heartbeat_timeout_seconds=600); "
    program += "jax.distributed.initialize = partial(jax.distributed.initialize, **limits); "
    program += "from tsam_jax.train.mesh import Devices; share = Devices.share; "
    program += "shown = lambda *x: (rows := share(*x), print('rows', *rows[0], flush=True))[0]; "
    program += "Devices.share = shown; sys.exit(cli.main(sys.argv[1:]))"
    words = ["compare", dataset, "--model", "mlp", "--methods", METHOD, *SMALL, "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-c", program, *words, *options],
        env=device_programs.environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (205, 4, 4, 1), np.uint8)  # not the same number for each
    np.savez(tmp_path / "mine.npz", train_images=images, train_labels=np.arange(205) % 3)
    dataset = f"npz:{tmp_path / 'mine.npz'}"
    with socket.socket() as held:  # until the end, so that no other program gets the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # gRPC shares it in this way
        held.bind(("localhost", 0))
        address = f"localhost:{held.getsockname()[1]}"
        processes = [start(tmp_path / "alone", dataset, 4, "--mesh", "data=4")]
        processes += [
            start(tmp_path / "both", dataset, 2, "--distributed", f"{address},2,{index}")
            for index in (0, 1)
        ]
        shares = []
        try:
            for process in processes:
                said, _ = process.communicate(timeout=device_programs.LIMIT)
                assert process.returncode == 0, said
                shares += [x.split()[1:] for x in said.splitlines() if x.startswith("rows ")][:1]
        finally:
            for process in processes:
                process.kill()
    # 165 training examples on four devices are 42 each; the last row repeats, but is never drawn.
    assert [int(x) for x in shares[0]] == [*range(165)]
    assert [int(x) for own in shares[1:] for x in own] == [*range(165), *[164] * 3]
    assert [len(own) for own in shares[1:]] == [84, 84]
    runs = [tmp_path / name / "cells/000-tsam-seed0" for name in ("alone", "both")]
    configs = [json.loads((run / "config.json").read_text()) for run in runs]
    assert configs[0]["data"] == configs[1]["data"] != ""
    found = [restore(run, ("test",))[2] for run in runs]
    for one, two in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=1e-5)
    logs = [(run / "metrics.jsonl").read_text().splitlines() for run in runs]
    assert [len(log) for log in logs] == [2, 2]  # one process writes
    losses = [json.loads(log[-1])["test_loss"] for log in logs]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    rows = [record.read_lines(tmp_path / name / "rows.jsonl") for name in ("alone", "both")]
    assert [len(own) for own in rows] == [1, 1]
    flat = [own[0]["flatness"]["top_eigenvalue"] for own in rows]
    np.testing.assert_allclose(*flat, rtol=1e-3)
