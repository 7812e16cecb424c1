"""Reading of config.json, with errors for settings that the models do not support."""

import re
from collections.abc import Iterable
from typing import Any

_MISSING = object()
_LARGEST = 2**31 - 1


def integer(config: dict[str, Any], key: str, *, default: Any = _MISSING) -> int:
    """Reads a size: an integer from 1 to 2^31 - 1."""
    value = _get(config, key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        msg = f"`{key}` in config.json must be a positive 32-bit integer, got {_short(value)}."
        raise ValueError(msg)
    return value


def layers(config: dict[str, Any], key: str, tensors: Iterable[str], pattern: str) -> int:
    """Reads the number of layers and checks it against the tensors.

    Args:
      config: the content of config.json.
      key: the key of the number of layers.
      tensors: names of the checkpoint's tensors.
      pattern: regular expression whose first group is the index of a tensor's layer.

    Returns:
      The number of layers.

    Raises:
      ValueError: if the tensors are those of another number of layers.
    """
    depth = integer(config, key)
    found = len({match[1] for match in map(re.compile(pattern).match, tensors) if match})
    if found != depth:
        msg = f"`{key}` in config.json is {depth}, but there are tensors for {found} layers."
        raise ValueError(msg)
    return depth


def number(config: dict[str, Any], key: str, *, default: float | None) -> float | None:
    """Reads a rate or an epsilon, >= 0 and < 1; None is allowed only if it is the default."""
    value = _get(config, key, default)
    if value is None and default is None:
        return None
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not 0 <= value < 1:
        msg = f"`{key}` in config.json must be a number >= 0 and < 1, got {_short(value)}."
        raise ValueError(msg)
    return float(value)


def only(config: dict[str, Any], key: str, value: str, *, default: Any = _MISSING) -> None:
    """Raises ValueError unless a setting has the only supported value."""
    given = _get(config, key, default)
    if given != value:
        msg = f"`{key}` in config.json must be {value!r}, got {_short(given)}."
        raise ValueError(msg)


def flag(config: dict[str, Any], key: str, *, required: bool) -> None:
    """Raises ValueError unless a switch has the required value, which is also its default."""
    given = _get(config, key, required)
    if given is not required:
        msg = f"`{key}` in config.json must be {required!r}, got {_short(given)}."
        raise ValueError(msg)


def _short(value: Any) -> str:
    """Formats a value for a message, in at most 63 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _get(config: dict[str, Any], key: str, default: Any) -> Any:
    value = config.get(key, default)
    if value is _MISSING:
        msg = f"`{key}` is missing from config.json."
        raise ValueError(msg)
    return value
