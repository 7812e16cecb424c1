"""All parts, each in a process of its own: `python -m benchmarks`; see README.md."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks import record, render, workers
from benchmarks.budget import Budget

ONLY_ON_A_CPU = {"devices", "convolution"}
ON_ACCELERATORS = {"torch": ["--batches", "64", "512", "--dtypes", "float32", "bfloat16"]}
LEAST = 5.0  # seconds of a part, also when the others took more than their share


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything: each part writes its JSON when it is done; a part that fails stops no other."""

    quick: bool = False
    """A small version of everything, in less than five minutes, written into runs/benchmarks/."""
    minutes: float = 15.0
    """Time to spend, roughly; parts share it as their defaults are."""
    parts: tuple[str, ...] = ()
    """Which parts; by default all."""
    results: Path | None = None
    """Folder to write into; by default benchmarks/results, or runs/benchmarks if quick."""


def run(seconds_of: dict[str, int], settings: Settings) -> None:
    """Runs the parts one after the other, and prints the tables."""
    if unknown := set(settings.parts) - set(seconds_of):
        msg = f"`--parts` must be of {', '.join(seconds_of)}, got {', '.join(sorted(unknown))}."
        raise ValueError(msg)
    results = settings.results or record.folder(quick=settings.quick)
    backend = backend_in_a_process()
    budget = Budget(60 * min(settings.minutes, 4.0 if settings.quick else settings.minutes))
    cpu = backend == "cpu"
    todo = settings.parts or tuple(x for x in seconds_of if cpu or x not in ONLY_ON_A_CPU)
    for i, part in enumerate(todo):
        share = budget.share(seconds_of[part] / sum(seconds_of[x] for x in todo[i:])).seconds
        share = max(share, LEAST)
        output = record.path_of(part, backend, results)
        record.say(f"{part}: {share:.0f} s")
        command = [sys.executable, "-m", "benchmarks", part, "--seconds", str(share)]
        command += ["--output", str(output.absolute()), *(["--quick"] if settings.quick else [])]
        command += [] if cpu else ON_ACCELERATORS.get(part, [])
        output.unlink(missing_ok=True)
        why = run_one(command, timeout=3 * share + 120)
        if why is not None:
            record.say(f"{part}: {why}")
            record.cut_off(output, part, why)
    record.say(render.all_tables(results, backend))


def run_one(command: list[str], timeout: float) -> str | None:
    """Returns why it failed, None if it did not."""
    process = subprocess.Popen(command, cwd=workers.ROOT, start_new_session=True)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"stopped after {timeout:.0f} s"
    finally:  # an interrupt, too, ends the part and its workers
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"ended with {code}" if code else None


def backend_in_a_process() -> str:
    """Returns JAX's backend, without starting JAX here."""
    program = "import jax; print(jax.default_backend())"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
