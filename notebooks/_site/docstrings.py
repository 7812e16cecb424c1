"""Docstrings are written as Markdown is: `code` and $formulas$. Sphinx reads reStructuredText.

Names of the public interface in backticks become links to it.
"""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

from _site.public import DOCUMENTED, full_name

DOCTEST = re.compile(r"((?:^ *>>> .*\n(?:(?! *\n).+\n)*)+)", re.MULTILINE)
TOKEN = re.compile(r"(\$[^$]+\$|``[^`]+``|`[^`]+`)", re.DOTALL)
PARAGRAPH = re.compile(r"(?<=\n\n)\$([^$]+)\$(?=\n(?:\n|\Z))")  # a formula and nothing else
MARKUP = re.compile(r"((?<!^)\*(?! )|[|\\]|(?<=\w)_(?!\w))")
SHORT_SECTION = re.compile(r"^(Cost|Source): ", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _rewrite, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _skip(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, which the class describes under Attributes."""
    is_field = (getattr(member, "__doc__", None) or "").startswith("Alias for field number")
    return True if is_field else None


def _rewrite(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turns a docstring into reStructuredText, all but its doctests, in place."""
    if what == "data" and "\n".join(lines).strip() == inspect.getdoc(type(thing)):
        lines.clear()  # a constant without a text of its own has that of its type
    within = max((module for module in DOCUMENTED if f"{name}.".startswith(f"{module}.")), key=len)
    chunks = DOCTEST.split("\n".join(lines) + "\n")
    text = "".join(chunk if i % 2 else _prose(chunk, within) for i, chunk in enumerate(chunks))
    lines[:] = text.splitlines()
    if what == "attribute":
        lines.insert(0, "")  # or napoleon takes what stands before a colon for a type


def _prose(text: str, within: str) -> str:
    pieces = PARAGRAPH.split(text)
    return "".join(
        f".. math::\n\n   {' '.join(piece.split())}\n" if i % 2 else _sentences(piece, within)
        for i, piece in enumerate(pieces)
    )


def _sentences(text: str, within: str) -> str:
    tokens = TOKEN.split(text)
    text = "".join(
        _token(token, within) + (r"\ " if i % 2 and after[:1].isalnum() else "")
        for i, (token, after) in enumerate(zip(tokens, [*tokens[1:], ""], strict=True))
    )
    return SHORT_SECTION.sub(r"**\1.** ", text)


def _token(token: str, within: str) -> str:
    if token.startswith("$"):
        return f":math:`{' '.join(token.strip('$').split())}`"
    if token.startswith("`"):
        code = " ".join(token.strip("`").split())
        name = full_name(re.sub(r"\(.*\)$", "", code), within)
        return f":py:obj:`{code} <{name}>`" if name else f"``{code}``"
    return MARKUP.sub(r"\\\1", token)
