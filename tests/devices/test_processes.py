"""Two processes on this machine train to the same parameters as one."""

import socket
import subprocess
import sys
from pathlib import Path

import device_programs
import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "process_program.py"
DEVICES = 4


def start(count: int, port: int, out: Path) -> list[subprocess.Popen]:
    return [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(port), str(count), str(index), out / f"{count}-{index}"],
            env=device_programs.environment(DEVICES // count),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as held:  # until the end, so that no other program gets the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # gRPC shares it in this way
        held.bind(("localhost", 0))
        port = held.getsockname()[1]
        processes = [*start(1, port, tmp_path), *start(2, port, tmp_path)]
        try:
            for process in processes:
                said, _ = process.communicate(timeout=device_programs.LIMIT)
                assert process.returncode == 0, said
        finally:
            for process in processes:
                process.kill()
    alone, *together = [np.load(tmp_path / f"{name}.npz") for name in ("1-0", "2-0", "2-1")]
    for result in together:
        for name in ("w", "v", "losses"):
            np.testing.assert_allclose(result[name], alone[name], rtol=1e-5, atol=1e-6)
    assert len(set(alone["losses"].tolist())) == 4  # of four different samples
