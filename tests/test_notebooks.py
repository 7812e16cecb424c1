"""The tutorials run, and their notebooks are what was run last.

A tutorial is a program with `# %%` cells; the tests run it for one epoch. `make notebooks` runs it
in full and writes the .ipynb, which holds the outputs.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "notebooks" / "tutorials"
SOURCES = sorted(TUTORIALS.glob("*.py"))
CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)

ENVIRONMENT = {"MPLBACKEND": "Agg", "EPOCHS": "1"}
LIMIT = 2400  # seconds; the slowest takes 50 on two quiet cores
MEASURES = {"3_flat_or_sharp"}  # it runs for long; of the others, compiling is most of their time


def cells(source: str) -> list[tuple[str, str]]:
    """Returns the type and the text of each cell of a program, as jupytext has them."""
    _, *parts = CELL.split(source)
    found = []
    for options, text in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in options:
            lines = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines()]
            found.append(("markdown", "\n".join(lines).strip()))
        else:
            found.append(("code", text.strip()))
    return found


def test_cells_of_a_program():
    source = '# %% [markdown]\n# # Title\n#\n# $x$\n\n# %% tags=["a"]\nx = 1\n\n# %%\ny = 2\n'
    assert cells(source) == [("markdown", "# Title\n\n$x$"), ("code", "x = 1"), ("code", "y = 2")]


def test_there_are_six():
    assert [source.stem[0] for source in SOURCES] == list("123456")


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_tutorial_runs(source):
    optimized = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"} if source.stem in MEASURES else {}
    done = subprocess.run(
        [sys.executable, source],
        cwd=TUTORIALS,
        env=os.environ | ENVIRONMENT | optimized,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_notebook_is_that_of_its_program(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text())
    written = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert written == cells(source.read_text()), "run `make notebooks`"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_notebook_has_outputs_and_no_error(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    kinds = {(output["output_type"], output.get("name")) for output in outputs}
    assert kinds <= {("stream", "stdout"), ("display_data", None), ("execute_result", None)}


def test_notebooks_are_small():
    assert sum(path.stat().st_size for path in TUTORIALS.glob("*.ipynb")) < 1_500_000
