"""The grammar of settings, of `--grid` and of `--base`: calls by name, within limits.

A call has arguments of numbers, texts, names, tuples, lists and calls. Its limits are those of
`tsam_jax.train.settings`.
"""

import ast
import warnings
from collections.abc import Sequence

from tsam_jax.train.config import ConfigError

_CHARACTERS, _DEPTH, _NUMBER = 2000, 10, 1e12


class SettingError(ConfigError):
    """A setting that cannot be read, or that its method rejects."""


def wrong(text: str, why: object) -> SettingError:
    """Makes the error of a text, in one line."""
    return SettingError(f"in `{shown(text)}`: {shown(str(why), 240)}")


def shown(text: str, most: int = 100) -> str:
    """Shortens a text for a message: one printable line."""
    text = " ".join(text[: 2 * most].split())
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= most else f"{text[: most - 3]}..."


def expression(text: str, form: str = "a number") -> ast.expr:
    """Parses a text; raises SettingError if it is too long or not an expression."""
    if len(text) > _CHARACTERS:
        raise wrong(text, f"there are {len(text)} characters, of at most {_CHARACTERS}.")
    try:
        with warnings.catch_warnings(action="error", category=SyntaxWarning):
            node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = shown(getattr(error, "msg", str(error)), 100)
        msg = f"`{shown(text)}` is not {form} ({reason})."
        raise SettingError(msg) from error
    return node


def check_grammar(node: ast.expr, text: str, depth: int = 0) -> None:
    """Raises SettingError unless all is a number, text, name, tuple or call, within the limits."""
    children: Sequence[ast.expr | None] = ()
    right = depth <= _DEPTH
    if isinstance(node, ast.Call):
        children = [*node.args, *(word.value for word in node.keywords)]
        names = [str(word.arg) for word in node.keywords]
        if len(set(names)) < len(names):
            raise wrong(text, "an argument is given twice.")
        right = right and isinstance(node.func, ast.Name) and "None" not in names
    elif isinstance(node, ast.Tuple) or (isinstance(node, ast.List) and depth == 1):
        children = node.elts
    elif isinstance(node, ast.Dict) and depth > 1:  # of a piecewise constant schedule
        children = [*node.keys, *node.values]
    elif isinstance(node, ast.UnaryOp):
        children, operand = [node.operand], getattr(node.operand, "value", None)
        right = isinstance(node.op, (ast.UAdd, ast.USub)) and type(operand) in {int, float}
    elif isinstance(node, ast.Constant):
        right = isinstance(node.value, (str, int, float)) or node.value is None
        if isinstance(node.value, (int, float)) and not abs(node.value) <= _NUMBER:
            raise wrong(text, f"a number is beyond {_NUMBER:g}; infinity is `inf`.")
    else:
        right = right and isinstance(node, ast.Name)
    if not right:
        part = shown(ast.get_source_segment(text.strip(), node) or "", 60)
        raise wrong(text, f"`{part}` is not a number, a name or a noise law.")
    for child in children:
        check_grammar(child or ast.Slice(), text, depth + 1)
