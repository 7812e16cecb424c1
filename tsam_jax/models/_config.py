"""Reads config.json, refusing what the models here cannot do."""

import math
from typing import Any

_MISSING = object()


def integer(config: dict[str, Any], key: str, *, default: Any = _MISSING) -> int:
    """A size: an integer >= 1."""
    value = _get(config, key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"Its config.json must have a positive integer as `{key}`, got {value!r}."
        raise ValueError(msg)
    return value


def number(config: dict[str, Any], key: str, *, default: float | None) -> float | None:
    """A rate or an epsilon: finite and >= 0; None only if that is the default."""
    value = _get(config, key, default)
    if value is None and default is None:
        return None
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or value < 0:
        msg = f"Its config.json must have a number >= 0 as `{key}`, got {value!r}."
        raise ValueError(msg)
    return float(value)


def only(config: dict[str, Any], key: str, value: str, *, default: Any = _MISSING) -> None:
    """Refuses all values but one."""
    given = _get(config, key, default)
    if given != value:
        msg = f"Its config.json has `{key}` = {given!r}; only {value!r} is supported."
        raise ValueError(msg)


def flag(config: dict[str, Any], key: str, *, required: bool) -> None:
    """Refuses the other value of a switch, which has the required one where it is not given."""
    given = _get(config, key, required)
    if given is not required:
        msg = f"Its config.json has `{key}` = {given!r}; only {required!r} is supported."
        raise ValueError(msg)


def _get(config: dict[str, Any], key: str, default: Any) -> Any:
    value = config.get(key, default)
    if value is _MISSING:
        msg = f"Its config.json lacks `{key}`."
        raise ValueError(msg)
    return value
