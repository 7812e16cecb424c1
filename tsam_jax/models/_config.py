"""Reads config.json, refusing what the models here cannot do."""

import re
from collections.abc import Iterable
from typing import Any

_MISSING = object()
_LARGEST = 2**31 - 1


def integer(config: dict[str, Any], key: str, *, default: Any = _MISSING) -> int:
    """A size: an integer >= 1, of 32 bits."""
    value = _get(config, key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        msg = f"Its config.json must have a positive integer as `{key}`, got {_short(value)}."
        raise ValueError(msg)
    return value


def layers(config: dict[str, Any], key: str, tensors: Iterable[str], pattern: str) -> int:
    """The number of layers, if there are tensors of as many; `pattern` finds a layer's index."""
    depth = integer(config, key)
    found = len({match[1] for match in map(re.compile(pattern).match, tensors) if match})
    if found != depth:
        msg = f"Its config.json has `{key}` = {depth}, but there are tensors of {found} layers."
        raise ValueError(msg)
    return depth


def number(config: dict[str, Any], key: str, *, default: float | None) -> float | None:
    """A rate or an epsilon: >= 0 and < 1; None only if that is the default."""
    value = _get(config, key, default)
    if value is None and default is None:
        return None
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not 0 <= value < 1:
        msg = f"Its config.json must have a number >= 0 and < 1 as `{key}`, got {_short(value)}."
        raise ValueError(msg)
    return float(value)


def only(config: dict[str, Any], key: str, value: str, *, default: Any = _MISSING) -> None:
    """Refuses all values but one."""
    given = _get(config, key, default)
    if given != value:
        msg = f"Its config.json has `{key}` = {_short(given)}; only {value!r} is supported."
        raise ValueError(msg)


def flag(config: dict[str, Any], key: str, *, required: bool) -> None:
    """Refuses the other value of a switch, which has the required one where it is not given."""
    given = _get(config, key, required)
    if given is not required:
        msg = f"Its config.json has `{key}` = {_short(given)}; only {required!r} is supported."
        raise ValueError(msg)


def _short(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _get(config: dict[str, Any], key: str, default: Any) -> Any:
    value = config.get(key, default)
    if value is _MISSING:
        msg = f"Its config.json lacks `{key}`."
        raise ValueError(msg)
    return value
