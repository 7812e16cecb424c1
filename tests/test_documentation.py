"""The documentation runs and is complete: Markdown examples, and the docstrings of public names.

The examples in docstrings run as doctests (`--doctest-modules` in pyproject.toml).
"""

import dataclasses
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import browsing
import device_programs
import numpy as np
import pytest
from _site import formulas, generated, public  # notebooks/_site

from benchmarks import __main__ as benchmarks
from tsam_jax import cli, commands, data
from tsam_jax.methods import FORMULAS
from tsam_jax.models import pretrained
from tsam_jax.recipes import defaults
from tsam_jax.train import config, resolve, study

ROOT = Path(__file__).parent.parent
SITE = ROOT / "notebooks"
PAGES = sorted([*ROOT.glob("*.md"), *SITE.rglob("*.md")])
PROGRAMS = [path for path in PAGES if "```python\n" in path.read_text()]
PROGRAMS.remove(ROOT / "README.md")  # each of its blocks is a program
FENCE = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


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


# Some pages are about several devices.
ENVIRONMENT = device_programs.environment(8) | {"MPLBACKEND": "Agg"}


# A page's blocks are one program, in order, as for a reader who pastes them one after the other.
@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_of_the_page_run(path, tmp_path):
    code = program(path.read_text())
    script = tmp_path / f"page_{path.stem}.py"  # not a name that the page may import
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=device_programs.LIMIT,
    )
    assert done.returncode == 0, f"{path.name}, by its line numbers:\n{done.stderr}"


@pytest.mark.parametrize("block", FENCE.findall((ROOT / "README.md").read_text()))
def test_a_block_of_the_readme_runs_when_pasted(block, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", block[1]],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=device_programs.LIMIT,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_renders_on_a_package_index():
    page = (ROOT / "README.md").read_text()
    assert "$" not in page  # no formulas there
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page):
        assert (ROOT / link).is_file(), link


def commands_of(page: str) -> list[str]:
    """Returns the lines of the page's shell blocks, without comments."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [shlex.join(line) for line in words if line]


SHELL = [*PAGES, *(ROOT / "benchmarks").rglob("*.md")]
COMMANDS = sorted({line for path in SHELL for line in commands_of(path.read_text())})


def test_commands_are_read_as_a_shell_does():
    page = "```sh\ntsam-jax toy 'fig 1'  # a picture\n\nmake \\\n  docs\n```\n```python\nx\n```\n"
    assert commands_of(page) == ["tsam-jax toy 'fig 1'", "make docs"]
    assert len(COMMANDS) > 30


@pytest.fixture
def as_written(monkeypatch):
    """(words) -> the command, resolved as far as that is possible without its files."""
    seen = []
    monkeypatch.setattr(resolve, "open_data", _opened)
    monkeypatch.setattr(pretrained, "architecture_of", lambda _: "vit")
    monkeypatch.setattr(cli, "_resumed", lambda command, *_: command)
    for kind in commands.commands().values():
        monkeypatch.setattr(kind, "run", lambda self, console: seen.append(self) or 0)

    def read(words):
        code = cli.main(words)
        command = seen[-1] if seen else None
        if code or not hasattr(command, "chosen") or command.resume:
            return code
        try:
            resolve.resolve(command)
        except config.ConfigError as error:
            if "devices; this machine has" not in str(error):  # it has one
                raise
        study.parse_shard(command.shard)
        return code

    return read


def _opened(task):
    """A data set of the kind of that of a task, without its inputs."""
    kinds = {"digits": "vector", "glue": "text", "table": "text"}
    kind = kinds.get(task.dataset.partition(":")[0], "image")
    part = data.Records(np.zeros(1000, np.int32), None)
    return data.OpenSplits(part, part, part, 10, kind=kind)


@pytest.mark.parametrize("command", [x for x in COMMANDS if x.startswith("tsam-jax ")])
def test_commands_of_the_pages_have_the_options_and_settings_that_they_use(
    command, as_written, capsys
):
    words = [word for word in shlex.split(command)[1:] if word != "..."]
    try:
        code = as_written(words)
    except SystemExit as stopped:  # --help, or a mistake
        code = stopped.code
    assert code == 0, capsys.readouterr()


def test_a_command_that_does_not_run_is_noticed(as_written, capsys):
    for words in (["train", "--lrr", "1"], ["train", "--method", "smm"], ["study", "--shard", "3"]):
        with pytest.raises((SystemExit, config.ConfigError)):
            as_written(words)
    assert as_written(["trian"]) == 2
    assert "Perhaps you meant `train`" in capsys.readouterr().err


@pytest.mark.parametrize("command", [x for x in COMMANDS if x.startswith(("make ", "python -m "))])
def test_other_commands_of_the_pages_are_there(command):
    program, *words = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[0] in targets
    elif words[1] == "benchmarks" and "--help" not in words:
        benchmarks.parse(words[2:])


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


@pytest.mark.parametrize("module", public.DOCUMENTED)
def test_public_names_are_documented(module):
    missing = {name: missing_parts(thing) for name, thing in public.names_of(module).items()}
    assert {name: parts for name, parts in missing.items() if parts} == {}


def written_out() -> dict[str, str]:
    """Returns the pages of the site by their path, with the parts that are generated."""
    pages = {path.relative_to(SITE).as_posix(): path for path in SITE.rglob("*.md")}
    return {name: generated.filled_in(path.read_text(), path) for name, path in pages.items()}


def test_every_public_module_is_in_the_documentation():
    pages = "\n".join(written_out().values())
    documented = re.findall(r"^.. automodule:: (\S+)$", pages, re.MULTILINE)
    assert len(documented) == len(set(documented))
    there = {id(thing) for module in documented for thing in public.names_of(module).values()}
    absent = [
        f"{module}.{name}"
        for module in public.modules_of("tsam_jax")
        if module not in public.COMMANDS
        for name, thing in public.names_of(module).items()
        if module not in documented and id(thing) not in there
    ]
    assert not absent, "write a page in notebooks/api, or give the name an underscore"


def test_every_method_is_on_the_page_of_methods():
    page = written_out()["methods.md"]
    names = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    assert names == [*generated.METHODS, *generated.WRAPPERS]
    assert [*formulas.LATEX] == [*FORMULAS]
    for part in ("Cost", "Source"):
        assert len(re.findall(rf"^- \*\*{part}:\*\* \S", page, re.MULTILINE)) == len(names)


def test_every_metric_is_on_the_page_of_metrics_with_its_shape_and_methods():
    rows = re.findall(
        r"^\| (?:`(\w+)`)? \| `(\(.*?\))` \| (.*?) \|", generated.metrics(), re.MULTILINE
    )
    assert [name for name, *_ in rows if name] == [*generated.METRICS]
    methods = {name for *_, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert methods == set(generated.METHODS)
    shapes = {(shape, names) for _, shape, names in rows}
    assert {("(len(rhos),)", "`esam2`"), ("(s,)", "`tsam_hmc`")} <= shapes
    assert generated.metrics() in written_out()["guides/metrics.md"]


def test_every_command_option_and_family_is_in_the_documentation():
    pages = written_out()
    assert re.findall(r"^## (\S+)$", pages["commands.md"], re.MULTILINE) == [*commands.commands()]
    assert pages["commands.md"].count("usage: tsam-jax ") == len(commands.commands())
    page = pages["guides/training.md"]
    kinds = (config.Task, config.Optimizer, config.Budget)
    for field in (field for kind in kinds for field in dataclasses.fields(kind)):
        assert f"| `--{field.name.replace('_', '-')}` |" in page
        assert field.metadata["help"].replace("|", r"\|") in page
    for family in defaults.FAMILIES.values():
        assert f"| {family.name} |" in page
        assert family.source in page


def test_every_page_is_in_a_table_of_contents():
    pages = written_out()
    listed = {"index"}
    for name, page in pages.items():
        for block in re.findall(r"^```{toctree}\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            entries = [line for line in block.split("\n") if line and not line.startswith(":")]
            listed |= {os.path.normpath(Path(name).parent / entry) for entry in entries}
    tutorials = {f"tutorials/{path.stem}" for path in (SITE / "tutorials").glob("*.py")}
    assert listed == {name.removesuffix(".md") for name in pages} | tutorials


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; the build may not warn."""
    for package in (
        "sphinx",
        "furo",
        "myst_nb",
        "latex2mathml",
        "sphinx_copybutton",
        "sphinx_design",
    ):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += ["-d", folder / "doctrees", SITE, folder / "html"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=device_programs.LIMIT
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_public_name_has_an_entry(site):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    documented = {
        id(thing)
        for module in public.modules_of("tsam_jax")
        for name, thing in public.names_of(module).items()
        if f"{module}.{name}" in entries
    }
    names = {
        f"{module}.{name}": thing
        for module in public.DOCUMENTED
        for name, thing in public.names_of(module).items()
    }
    assert not [name for name, thing in names.items() if id(thing) not in documented]


def test_the_reference_has_types_sources_and_a_summary(site):
    page = (site / "api/methods.html").read_text()
    signature = re.search(r'<dt [^>]*id="tsam_jax.methods.tsam".*?</dt>', page, re.DOTALL)[0]
    shown = re.sub(r"<[^>]+>", "", signature)
    assert "rho: ScalarOrSchedule" in shown.replace("\n", "")
    assert "core.html#tsam_jax.GradientEstimator" in signature
    assert "_modules/tsam_jax/methods/tilted.html#tsam" in signature
    assert page.index(">summary<") < page.index('id="tsam_jax.methods.tsam"')
    assert "copybutton" in page


def test_the_site_needs_no_network(site):
    loads = r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?https?:"""
    pages = {path: path.read_text() for path in site.rglob("*.html")}
    assert len(pages) > 20
    assert not [str(path) for path, text in pages.items() if re.search(loads, text)]


@pytest.fixture(scope="module")
def seen(site):
    """What a browser found on every page, at three widths: page -> check -> list of faults."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"needs a browser: one of {', '.join(names)}")
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    pages = [page for page in pages if not page.startswith("_modules/")]
    return browsing.visit(browser, site, pages)


def test_every_page_loads_in_a_browser(seen):
    assert len(seen) > 20
    assert not {page: found["errors"] for page, found in seen.items() if found["errors"]}


def test_no_link_is_dead(seen):
    assert not {page: found["links"] for page, found in seen.items() if found["links"]}


def test_every_formula_is_rendered(seen):
    assert sum(found["formulas"] for found in seen.values()) > 200
    assert not {page: found["raw"] for page, found in seen.items() if found["raw"]}


def test_pages_and_their_code_fit_the_screen(seen):
    assert not {page: found["wide"] for page, found in seen.items() if found["wide"]}
