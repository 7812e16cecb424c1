"""The error and the warning of data, and their words."""

import difflib
import warnings
from collections.abc import Iterable


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the row or image."""


class DataWarning(UserWarning):
    """Data that are used in part; the message counts what is left out."""


def warn(message: str) -> None:
    """Warns of data that are left out, in one line."""
    warnings.warn(message, DataWarning, stacklevel=3)


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: the nearest known one, or nothing."""
    near = difflib.get_close_matches(word.lower(), known, n=1)
    return f" Perhaps you meant `{near[0]}`." if near else ""


def brief(value: object, most: int = 60) -> str:
    """The value in at most `most` characters and one line, for a message."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def reason(error: BaseException) -> str:
    """What another library's error says, in one short line without a full stop."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return brief(said or type(error).__name__, 100).rstrip(".")


def list_some(values: Iterable[object], most: int = 5) -> str:
    """The first few values, and how many more there are, for a message."""
    shown = [brief(value, 24) for value in values]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
