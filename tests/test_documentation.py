"""The documentation runs and is complete: Markdown examples, and the docstrings of public names.

The examples in docstrings run as doctests (`--doctest-modules` in pyproject.toml).
"""

import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("notebooks/guides/*.md")])
FENCE = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

PUBLIC = (
    "tsam_jax",
    "tsam_jax.methods",
    "tsam_jax.noise",
    "tsam_jax.tilting",
    "tsam_jax.nnx",
    "tsam_jax.convolution",
    "tsam_jax.analysis",
)


def program(page: str) -> str:
    """Returns the page's Python blocks, each line under its number in the page."""
    lines: list[str] = []
    for block in FENCE.finditer(page):
        first = page.count("\n", 0, block.start(2))
        lines += [""] * (first - len(lines)) + textwrap.dedent(block.group(2)).splitlines()
    return "\n".join(lines) + "\n"


def test_program_keeps_order_and_line_numbers():
    page = (
        "# Title\n```python\na = 1\n```\n\n- item\n\n  ```python\n  b = a\n  ```\n```sh\nc\n```\n"
    )
    assert program(page).splitlines() == ["", "", "a = 1", *[""] * 5, "b = a"]


# Some pages are about several devices; programs run once, so compiling is most of their time.
ENVIRONMENT = {
    "MPLBACKEND": "Agg",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
}


# A page's blocks are one program, in order, as for a reader who pastes them one after the other.
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_of_the_page_run(path, tmp_path):
    code = program(path.read_text())
    if not code.strip():
        pytest.skip("no Python on this page")
    script = tmp_path / f"page_{path.stem}.py"  # not a name that the page may import
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{path.name}, by its line numbers:\n{done.stderr}"


def missing_parts(thing: object) -> list[str]:
    """Returns what the docstring of a public class or function lacks."""
    text = inspect.getdoc(thing) or ""
    if inspect.isclass(thing):
        return [] if text else ["a docstring"]
    function = inspect.unwrap(thing)
    if not inspect.isfunction(function):
        return []
    wanted, signature = [">>>"], inspect.signature(function)
    if signature.return_annotation is not None:
        wanted.append("Returns:")
    if signature.parameters:
        wanted.append("Args:")
    return [part for part in wanted if part not in text]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_documented(module):
    public = importlib.import_module(module)
    missing = {name: missing_parts(getattr(public, name)) for name in public.__all__}
    assert {name: parts for name, parts in missing.items() if parts} == {}
