"""The last line of a run of tests: what passed, or what failed and how to run it alone."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import os, signal, pytest

@pytest.mark.parametrize("name", ["a", "it's b"])
def test_good(name):
    pass

@pytest.mark.parametrize("name", ["a", "it's b"])
def test_bad(name):
    assert name == "a"

@pytest.fixture
def broken():
    raise RuntimeError

def test_without_its_fixture(broken):
    pass

@pytest.mark.parametrize("signal", [signal.SIGKILL, signal.SIGSEGV], ids=["KILL", "SEGV"])
def test_that_dies(signal):
    os.kill(os.getpid(), signal)

@pytest.mark.parametrize("n", range(20))
def test_many(n):
    assert n < 3
"""
BAD = "test_it.py::test_bad[it's b]"


@pytest.fixture
def last_lines(tmp_path):
    """Runs pytest with the plugin on the module; returns its status and last two lines."""
    (tmp_path / "test_it.py").write_text(MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "closing_line", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        return done.returncode, *done.stdout.splitlines()[-2:]

    return run


def failed(line):
    """The tests in the command that the line ends with."""
    program, *words = shlex.split(line.partition("; to run alone: ")[2])
    assert (program, words[:2]) == (sys.executable, ["-m", "pytest"])
    return words[2:]


def test_without_workers_and_failures_the_last_line_is_that_of_pytest(last_lines):
    code, _, line = last_lines("-k", "good")
    assert code == 0
    assert re.search(r"2 passed, .* in .*s", line)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_failures_have_a_command(last_lines, workers):
    code, summary, line = last_lines("-n", workers, "-k", "bad or fixture or good")
    assert code == 1
    assert re.search(r"1 failed, 3 passed, .*1 error in .*s", summary)
    assert line.startswith("2 failed; ")
    assert set(failed(line)) == {BAD, "test_it.py::test_without_its_fixture"}
    code, *_, line = last_lines(BAD)
    assert (code, failed(line)) == (1, [BAD])


def test_the_memory_of_workers_is_shown(last_lines):
    code, summary, line = last_lines("-n", "2", "-k", "good")
    assert code == 0
    assert re.search(r"2 passed in .*s", summary)
    assert re.fullmatch(r"2 passed; workers took (0\.\d, )?0\.\d GB", line)


@pytest.mark.parametrize(
    ("name", "cause"),
    [("KILL", "was killed (probably out of memory)"), ("SEGV", "crashed (SIGSEGV)")],
)
def test_a_worker_that_dies_is_named(last_lines, name, cause):
    died = f"test_it.py::test_that_dies[{name}]"
    code, _, line = last_lines("-n", "1", "test_it.py::test_good", died)
    assert code == 1
    assert line.startswith(f"1 failed; worker gw0 {cause}, last at 0.")
    assert failed(line) == [died]


def test_many_failures_are_those_of_the_last_run(last_lines):
    code, _, line = last_lines("-n", "2", "-k", "many")
    assert (code, failed(line)) == (1, ["--last-failed"])
    code, summary, _ = last_lines("--last-failed")
    assert "17 failed" in summary


def test_a_module_that_cannot_be_imported(last_lines, tmp_path):
    (tmp_path / "test_it.py").write_text("import nothing_of_this_name")
    code, _, line = last_lines()
    assert code == 2
    assert line.startswith("1 failed; interrupted; ")
    assert failed(line) == ["test_it.py"]
