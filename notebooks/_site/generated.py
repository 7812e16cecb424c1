"""Parts of pages that are made from the code, or are in other files: a comment names the part.

| comment | part |
|---|---|
| `<!-- methods -->`, `<!-- wrappers -->` | a table of them, and a section for each |
| `<!-- metrics -->` | a table of the metrics of all methods |
| `<!-- types -->` | a table of the types in signatures |
| `<!-- commands -->` | a section for each command |
| `<!-- options -->` | a table of the options of a run |
| `<!-- families -->` | a table of the defaults of model families |
| `<!-- module: tsam_jax.noise -->` | the interface of a module |
| `<!-- modules: tsam_jax.data -->` | that of all public modules of a package |
| `<!-- include: FILE -->` | a file of the repository |
"""

import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import io
import itertools
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import jax
import jax.numpy as jnp

from _site.formulas import COSTS, LATEX
from _site.public import modules_of, names_of
from tsam_jax.methods import METHODS, METRICS, WRAPPERS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGES = Path(__file__).parent.parent
ROOT = PAGES.parent

COMMENT = re.compile(
    r"^<!-- (methods|wrappers|metrics|types|commands|options|families|modules?|include)"
    r"(?:: (.+))? -->$",
    re.MULTILINE,
)
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")
SHARED_ARGUMENTS = ("mask", "aux", "strategy", "sample_axis")

# Lengths that no other axis has, so that the shape of a metric tells which axis it is.
LENGTHS = {"s": 3, "len(rhos)": 5, "len(alpha_grid)": 7}
ARGUMENTS = {"t": 1.0, "rho": 0.1, "alpha": 0.5, "gamma": 0.5, "radius": 1.0, "beta": 0.1}
ARGUMENTS |= {"s": LENGTHS["s"], "rhos": (0.1,) * LENGTHS["len(rhos)"]}
ARGUMENTS |= {"alpha_grid": (0.5,) * LENGTHS["len(alpha_grid)"]}
"""Of a valid call of every method."""


def setup(app: "Sphinx") -> dict[str, bool]:
    def read(_: Any, page: str, source: list[str]) -> None:
        path = PAGES / f"{page}.md"
        if path.is_file():
            for kind, name in COMMENT.findall(source[0]):
                if kind == "include":
                    app.env.note_dependency(str(ROOT / name))
            source[0] = filled_in(source[0], path)

    app.connect("source-read", read)
    app.connect("doctree-resolved", _keep_numbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _keep_numbers(app: "Sphinx", doctree: Any, page: str) -> None:
    """Keeps a number, its interval and its "%" in one line."""
    from docutils import nodes

    for text in list(doctree.findall(nodes.Text)):
        kept = re.sub(r"(?<=\d) (?=[%±])|(?<=±) ", "\u00a0", text)
        if kept != text and not isinstance(text.parent, (nodes.literal, nodes.literal_block)):
            text.parent.replace(text, nodes.Text(kept))


def filled_in(text: str, path: Path) -> str:
    """Returns the text of the page at a path with its generated parts."""

    def part(comment: re.Match[str]) -> str:
        kind, argument = comment.groups()
        if kind == "module":
            return interface(argument)
        if kind == "modules":
            return interfaces(argument)
        if kind == "include":
            return included(argument, path.parent)
        tables = {"commands": commands, "metrics": metrics, "options": options}
        tables |= {"families": families, "types": types}
        if kind in tables:
            return tables[kind]()
        return sections_of_methods({"methods": METHODS, "wrappers": WRAPPERS}[kind])

    return COMMENT.sub(part, text)


def included(name: str, folder: Path) -> str:
    """Returns a file of the repository, with its links as they are from a folder."""
    back = os.path.relpath((ROOT / name).parent, folder)
    return LINK.sub(rf"]({back}/\1)", (ROOT / name).read_text())


def sections_of_methods(methods: dict[str, Callable[..., Any]]) -> str:
    """Returns a table of the methods, and a section for each: formula, arguments, cost, source."""
    table = ["| method | cost | estimate |", "|---|---|---|"]
    for name in methods:
        formula = ", ".join(f"${part}$" for part in LATEX[name].split(r", \ "))  # lines may break
        table.append(f"| [{name}](#{name}) | {COSTS.get(name, '2')} | {formula} |")
    sections = [_section(name, method) for name, method in methods.items()]
    return "\n\n".join(["\n".join(table), *sections])


def _section(name: str, method: Callable[..., Any]) -> str:
    text = inspect.getdoc(method) or ""
    parts = [
        f"### {name}",
        f"{text.partition(chr(10))[0]} {{py:obj}}`All arguments <tsam_jax.methods.{name}>`.",
        f"$${LATEX[name]}$$",
        f"- **Arguments:** {f'`{_knobs(method)}`' if _knobs(method) else 'none'}\n"
        f"- **Cost:** {_found('Cost', text)}\n"
        f"- **Source:** {_found('Source', text)}",
    ]
    return "\n\n".join(parts)


def _found(section: str, text: str) -> str:
    """What a docstring says under a name: one paragraph."""
    match = re.search(rf"^{section}: (.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(match.group(1).split()) if match else ""


def metrics() -> str:
    """Returns a table of all metrics: name, shape, methods and meaning, a row for each shape."""
    found: dict[str, dict[str, list[str]]] = {name: {} for name in METRICS}
    for name, method in METHODS.items():
        _, declared = jax.eval_shape(_called(method).init, jax.ShapeDtypeStruct((2,), jnp.float32))
        for metric, value in declared.items():
            found[metric].setdefault(_axes(value.shape), []).append(name)
    lines = ["| metric | shape | methods | meaning |", "|---|---|---|---|"]
    for metric, shapes in found.items():
        cells = [f"`{metric}`", METRICS[metric].replace("|", r"\|")]
        for shape, methods in shapes.items():
            names = ", ".join(f"`{method}`" for method in methods)
            lines.append(f"| {cells[0]} | `{shape}` | {names} | {cells[1]} |")
            cells = ["", ""]
    return "\n".join(lines)


def types() -> str:
    """Returns a table of the names of types that signatures use: name and meaning."""
    found = _texts_below("tsam_jax._checks")
    rows = [f"| `{name}` | {' '.join(text.split())} |" for name, text in found.items()]
    return "\n".join(["| type | meaning |", "|---|---|", *rows])


def _called(method: Callable[..., Any]) -> Any:
    """The estimator of a method, at small numbers."""
    parameters = inspect.signature(method).parameters
    wanted = [x for x in ARGUMENTS if x in parameters and _is_needed(parameters[x])]
    return method(**{name: ARGUMENTS[name] for name in wanted})


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty or parameter.name == "alpha_grid"


def _axes(shape: tuple[int, ...]) -> str:
    names = {length: name for name, length in LENGTHS.items()}
    return f"({', '.join(names[length] for length in shape)}{',' * (len(shape) == 1)})"


def _knobs(method: Callable[..., Any]) -> str:
    parameters = inspect.signature(method).parameters.values()
    return ", ".join(
        p.name if p.default is p.empty else f"{p.name}={_shown(p.default)}"
        for p in parameters
        if p.name not in SHARED_ARGUMENTS
    )


def _shown(default: object) -> str:
    return getattr(default, "__name__", "…") if callable(default) else repr(default)


@functools.cache
def commands() -> str:
    """Returns a section for each command: what `--help` prints."""
    from tsam_jax import cli
    from tsam_jax.commands import commands as known

    sections = []
    for name in known():
        shown = io.StringIO()
        environment = {"COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb"}
        with (
            mock.patch.dict(os.environ, environment),
            contextlib.redirect_stdout(shown),
            contextlib.suppress(SystemExit),
        ):
            cli.main([name, "--help"])
        sections.append(f"## {name}\n\n```text\n{_trimmed(shown.getvalue())}\n```")
    return "\n\n".join(sections)


def options() -> str:
    """Returns a table of the options of data, network, optimizer and length of training."""
    from tsam_jax.train.config import Budget, Optimizer, Task

    lines = ["| option | plain default | meaning |", "|---|---|---|"]
    for field in (
        field for kind in (Task, Optimizer, Budget) for field in dataclasses.fields(kind)
    ):
        default = "" if field.default in {None, ()} else f"`{field.default}`"
        help_ = field.metadata["help"].replace("|", r"\|")
        lines.append(f"| `--{field.name.replace('_', '-')}` | {default} | {help_} |")
    return "\n".join(lines)


def families() -> str:
    """Returns a table of the defaults of model families, with their sources."""
    from tsam_jax.recipes.defaults import FAMILIES

    lines = ["| family | optimizer | epochs | `rho` | `t` | `rms` | source |", "|" + "---|" * 7]
    for family in FAMILIES.values():
        shown = ", ".join(f"{name} {value}" for name, value in family.optimizer.items())
        numbers = (family.epochs, family.rho, family.t, family.rms)
        cells = [family.name, shown.replace("_", " "), *(f"{x:g}" for x in numbers), family.source]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _trimmed(text: str) -> str:
    """Without spaces at the ends of lines, and with long lines of prose broken."""
    lines = [part for line in text.strip().splitlines() for part in textwrap.wrap(line, 96) or [""]]
    return "\n".join(line.rstrip() for line in lines)


def interface(module: str) -> str:
    """Returns the text and all public names of a module: functions, classes, then the rest."""
    return _interface(module, names_of(module))


def interfaces(package: str) -> str:
    """Returns a section for each public module of a package, with names that no other has."""
    sections, seen = [], set()
    for module in modules_of(package):
        names = {name: thing for name, thing in names_of(module).items() if id(thing) not in seen}
        seen |= set(map(id, names.values()))
        if names:
            sections.append(f"## {module}\n\n{_interface(module, names)}")
    return "\n\n".join(sections)


def _interface(module: str, names: dict[str, object]) -> str:
    elsewhere = names_of("tsam_jax").values() if module != "tsam_jax" else ()
    directives = sorted(
        (_KINDS.index(_kind(thing)), name)
        for name, thing in names.items()
        if not any(thing is other for other in elsewhere)
    )
    about = ["```{eval-rst}", f".. automodule:: {module}", "   :no-members:", "```", ""]
    table = ["| name | summary |", "|---|---|"]
    lines = ["", "```{eval-rst}"]
    for kind, name in directives:
        summary = _summary(module, name, names[name])
        table += [f"| {{py:obj}}`{name} <{module}.{name}>` | {summary} |"]
        lines += [f".. auto{_KINDS[kind]}:: {module}.{name}"]
        lines += ["   :no-value:"] if _KINDS[kind] == "data" else []
        lines += [""]
    return "\n".join([*about, *(table if len(directives) > 1 else []), *lines, "```"])


def _summary(module: str, name: str, thing: object) -> str:
    """The first line of a docstring; a constant's is the text below it."""
    if _kind(thing) == "data":
        lines = _texts_below(module).get(name, "").split("\n")
    else:
        lines = (inspect.getdoc(thing) or "").split("\n")
    return lines[0].replace("|", r"\|")


def _texts_below(module: str) -> dict[str, str]:
    """Returns name -> text of the constants of a module that have a string below them."""
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    return {
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0]): (
            inspect.cleandoc(below.value.value)
        )
        for node, below in itertools.pairwise(body)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


_KINDS = ("function", "class", "exception", "data")


def _kind(thing: object) -> str:
    if inspect.isclass(thing):
        return "exception" if issubclass(thing, BaseException) else "class"
    return "function" if inspect.isfunction(inspect.unwrap(thing)) else "data"
