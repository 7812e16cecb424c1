"""Signatures with the types as the source spells them: `rho: ScalarOrSchedule`, not its union."""

import ast
import inspect
import textwrap
from typing import Any

from sphinx.application import Sphinx


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
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
