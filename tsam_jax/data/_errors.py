"""Data errors and warnings, and helpers for their messages."""

import difflib
import warnings
from collections.abc import Iterable


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the row or image."""


class DataWarning(UserWarning):
    """Part of the data is skipped; the message says how much."""


def warn(message: str) -> None:
    """Issues a `DataWarning` attributed to the caller of the caller."""
    warnings.warn(message, DataWarning, stacklevel=3)


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns a hint naming the closest known word, or "" if none is close."""
    near = difflib.get_close_matches(word.lower(), known, n=1)
    return f" Perhaps you meant `{near[0]}`." if near else ""


def brief(value: object, most: int = 60) -> str:
    """Formats a value for a message: one line of at most `most` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def reason(error: BaseException) -> str:
    """Shortens another library's error to one line without a full stop."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return brief(said or type(error).__name__, 100).rstrip(".")


def list_some(values: Iterable[object], most: int = 5) -> str:
    """Formats the first `most` values for a message, and counts the rest."""
    shown = [brief(value, 24) for value in values]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
