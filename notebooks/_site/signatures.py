"""Signatures with the types as the source spells them: `rho: ScalarOrSchedule`, not its union.

A name links to the object that it stands for in its module. Sphinx would take any of that name.
"""

import ast
import builtins
import functools
import inspect
import sys
import textwrap
from typing import Any

from sphinx.application import Sphinx

from _site import public


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", _as_written)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _as_written(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, args: str | None, result: str
) -> tuple[str, str | None] | None:
    if what == "class":
        return _of_class(thing)
    function = inspect.unwrap(thing)
    if not inspect.isfunction(function):
        return None
    node = _parsed(function)
    if not isinstance(node, ast.FunctionDef):
        return None  # a lambda
    return _of_function(node, bound=what == "method")


def _of_class(thing: type) -> tuple[str, None] | None:
    """Of `__init__` if the class has one, else of its annotated fields."""
    body = _parsed(thing).body
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return _of_function(node, bound=True)[0], None
    if not (issubclass(thing, tuple) or hasattr(thing, "__dataclass_fields__")):
        return None
    fields = [node for node in body if isinstance(node, ast.AnnAssign)]
    return f"({', '.join(ast.unparse(field) for field in fields)})", None


def _of_function(node: ast.FunctionDef, *, bound: bool) -> tuple[str, str | None]:
    arguments = node.args
    first = arguments.posonlyargs or arguments.args
    if bound and first and first[0].arg in {"self", "cls"}:
        first.pop(0)
    result = ast.unparse(node.returns) if node.returns else None
    return f"({ast.unparse(arguments)})", result


def _parsed(thing: Any) -> Any:
    """The source of a function or class, whose annotations have whole names."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    whole = _WholeNames(sys.modules[thing.__module__])
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, whole.visit(getattr(node, field)))
    return tree


class _WholeNames(ast.NodeTransformer):
    """Writes names of this package as `~tsam_jax.module.Name`, of which Sphinx shows the end."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def visit_Name(self, node: ast.Name) -> ast.expr:
        thing = getattr(self.module, node.id, None)
        name = _documented().get(id(thing)) if inspect.isclass(thing) else None
        elsewhere = inspect.isclass(thing) and not thing.__module__.startswith("tsam_jax")
        if elsewhere or inspect.ismodule(thing) or hasattr(builtins, node.id):
            return node
        return ast.parse(f"~{name or f'{self.module.__name__}.{node.id}'}", mode="eval").body


@functools.cache
def _documented() -> dict[int, str]:
    """Object -> the name under which it is documented."""
    modules = [x for package in public.LISTED for x in public.modules_of(package)]
    found: dict[int, str] = {}
    for module in (*public.DOCUMENTED, *modules):
        for name, thing in public.names_of(module).items():
            found.setdefault(id(thing), f"{module}.{name}")
    return found
