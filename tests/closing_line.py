"""A pytest plugin whose last line names the tests that failed and the command that runs them alone.

It also names the workers of pytest-xdist that died, and the memory that the workers took.
"""

import os
import resource
import shlex
import signal
import sys
from pathlib import Path

import pytest

MOST = 10  # failed tests in the command; for more it is `--last-failed`
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss

peaks: dict[str, float] = {}  # worker -> GB, by its last test
deaths: list[str] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    report.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e9
    return report


def pytest_runtest_logreport(report):
    if hasattr(report, "node") and hasattr(report, "peak"):
        peaks[report.node.gateway.id] = report.peak


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    worker = node.gateway.id
    if error is not None and error != "keyboard-interrupt":
        code = node.gateway._io.wait()  # execnet has no public name for the exit status
        deaths.append(f"worker {worker} {cause(code)}, last at {peaks.get(worker, 0.0):.1f} GB")


def cause(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "was killed (probably out of memory)"
    if code is not None and code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    return f"ended with {code}"


def pytest_sessionfinish(session, exitstatus):
    session.config.stash[STATUS] = exitstatus


STATUS = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or STATUS not in config.stash:
        return
    stats = reporter.stats
    failed = [report.nodeid for name in ("failed", "error") for report in stats.get(name, [])]
    failed = [config.cwd_relative_nodeid(name) for name in dict.fromkeys(failed)]
    passed = len(stats.get("passed", []))
    if not (failed or peaks or config.stash[STATUS]):
        return  # pytest's own line says as much
    reporter.write_line(closing_line(config.stash[STATUS], passed, failed))


def closing_line(status: int, passed: int, failed: list[str]) -> str:
    parts = [f"{len(failed)} failed" if failed else f"{passed} passed"]
    if status == pytest.ExitCode.INTERRUPTED:
        parts.append("interrupted")
    elif not failed and status != pytest.ExitCode.OK:
        parts.append(f"exit status {int(status)}")
    parts += deaths
    if peaks and not deaths:
        parts.append("workers took " + ", ".join(f"{x:.1f}" for x in peaks.values()) + " GB")
    if failed:
        parts.append(f"to run alone: {command(failed)}")
    return "; ".join(parts)


def command(failed: list[str]) -> str:
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    names = failed if len(failed) <= MOST else ["--last-failed"]
    return shlex.join([os.fspath(python), "-m", "pytest", *names])
