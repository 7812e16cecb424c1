"""Records on disk, where their numbers come from, and the processes that measure them."""

import json
import os
import platform
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "torch")

Row = dict[str, Any]


class Records:
    """The rows of one part on one machine: a JSON file, written anew with every row."""

    def __init__(self, part: str, machine: Row, results: Path) -> None:
        kind = machine["device_kind"] if machine["backend"] != "cpu" else "cpu"
        self.path = results / f"{part}-{re.sub('[^a-z0-9]+', '-', kind.lower())}.json"
        self._head = {"part": part, "machine": machine}
        found = json.loads(self.path.read_text()) if self.path.exists() else {}
        same = found.get("machine") == machine  # figures of two machines are never in one file
        self.rows: list[Row] = found["rows"] if same else []

    def done(self, labels: Row, here: Row) -> bool:
        """Whether there is a row with these labels; one that failed counts at its commit."""
        return any(
            row["labels"] == labels
            and row["versions"]["jax"] == here["versions"]["jax"]
            and (row["outcome"] == "measured" or row["commit"] == here["commit"])
            and row["outcome"] != "unfinished"
            for row in self.rows
        )

    def add(self, row: Row) -> None:
        """Writes a row in the place of one with the same labels."""
        self.rows = [x for x in self.rows if x["labels"] != row["labels"]] + [row]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps({**self._head, "rows": self.rows}, indent=1) + "\n")
        draft.replace(self.path)


def machine() -> Row:
    """Describes this machine; JAX starts, so that on a GPU a process of its own calls it."""
    import jax

    lines = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)$", lines, re.MULTILINE)
    return {
        "backend": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": model.group(1) if model else platform.machine(),
    }


def provenance() -> Row:
    """Date, command, versions and commit, and whether the code is that commit's."""

    def git(words: str) -> str:
        command = ["git", *words.split()]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        return done.stdout.strip()

    versions = {d.name: d.version for d in metadata.distributions() if d.name in PACKAGES}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "versions": {name: versions[name] for name in PACKAGES if name in versions},
        "commit": git("rev-parse HEAD") or "unknown",
        "clean_tree": not git("status --porcelain -- benchmarks/*.py tsam_jax"),
    }


def cpu_seconds() -> tuple[float, float]:
    """Seconds of all CPUs so far, and those in which others than we and ended workers had them."""
    if not Path("/proc/stat").exists():
        return 0.0, 0.0
    words = Path("/proc/stat").read_text().split()[1:9]
    times = [int(x) / os.sysconf("SC_CLK_TCK") for x in words]
    return sum(times), sum(times) - times[3] - times[4] - sum(os.times()[:4])


class Worker(subprocess.Popen):
    """A process `python -m benchmarks.MODULE JSON`, which answers in lines of JSON."""

    def __init__(self, module: str, told: Row, **env: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # until the worker ends
        command = [sys.executable, "-m", f"benchmarks.{module}", json.dumps(told)]
        env = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", **env}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        # unbuffered: what is read is what `select` knows of
        super().__init__(command, cwd=ROOT, env=env, bufsize=0, **pipes)

    def __exit__(self, *error: object) -> None:
        self.kill()
        super().__exit__(*error)
        self._errors.close()

    def hear(self, timeout: float) -> Row:
        """Waits for the next answer."""
        if not select.select([self.stdout], [], [], timeout)[0]:
            msg = "failed: took too long"
            raise RuntimeError(msg)
        if line := self.stdout.readline():
            return json.loads(line, parse_float=lambda x: float(f"{float(x):.4e}"))
        code = self.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
        why = next((x for x in reversed(lines) if "Error" in x), lines[-1])
        msg = f"failed: ended with {code}: {why[:300]}"
        raise RuntimeError(msg)

    def ask(self, what: Row, timeout: float) -> Row:
        self.stdin.write(json.dumps(what).encode() + b"\n")
        return self.hear(timeout)


def ask(module: str, told: Row, timeout: float, **env: str) -> Row:
    """Runs a worker until it says that it has measured; else its last answer, and why it ended."""
    end, found = time.monotonic() + timeout, {}
    with Worker(module, told, **env) as worker:
        while found.get("outcome") != "measured":
            try:
                found = worker.hear(max(end - time.monotonic(), 0))
            except RuntimeError as error:
                return {**found, "outcome": str(error)}
    return found


def timed(run: Callable[[], Any], wait: Callable[[Any], Any], calls: int) -> float:
    """Returns the seconds of a call, of several after one that finds others' data in the caches."""
    if calls > 1:
        wait(run())
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
    wait(result)
    return (time.perf_counter() - start) / calls


def answer(what: Row) -> None:
    print(json.dumps(what, default=float), flush=True)


if __name__ == "__main__":
    answer({**machine(), "outcome": "measured"})
