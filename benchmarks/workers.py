"""Processes of their own: a worker module is told JSON in its argument, and answers in JSON."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def command(module: str, told: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{module}", json.dumps(told)]


def ask(
    module: str, told: dict[str, Any], *, timeout: float, env: dict[str, str] | None = None
) -> dict[str, Any]:
    """Runs a worker to its end; returns its answer, or {"failed": why}."""
    try:
        done = subprocess.run(
            command(module, told),
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {timeout:.0f} s"}
    if done.returncode:
        return {"failed": reason(done.returncode, done.stderr)}
    return json.loads(done.stdout.splitlines()[-1])


def reason(code: int, stderr: str) -> str:
    lines = stderr.strip().splitlines() or ["no message"]
    return f"ended with {code}: {lines[-1][:300]}"


class Dialogue:
    """A worker that is asked line by line, and rests in between."""

    def __init__(
        self, module: str, told: dict[str, Any], env: dict[str, str], *, timeout: float
    ) -> None:
        self._timeout = timeout  # of one answer
        self._process = subprocess.Popen(
            command(module, told),
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> dict[str, Any]:
        """Waits for the next answer."""
        if not select.select([self._process.stdout], [], [], self._timeout)[0]:
            msg = f"no answer within {self._timeout:.0f} s"
            raise RuntimeError(msg)
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(reason(self._process.wait(), self._process.stderr.read()))

    def ask(self, told: Any) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def told() -> dict[str, Any]:
    return json.loads(sys.argv[1])


def answer(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)
