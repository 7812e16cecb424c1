"""The numbers in a setting by name, and the setting with others in their place, traced ones too."""

import ast
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tsam_jax.train.settings import OVERRIDES, Setting, SettingError, evaluated, parse

_SIZES = ("radius", "rms")


def numbers_of(setting: Setting) -> dict[str, float]:
    """The numbers that are written in a setting.

    Args:
      setting: the setting.

    Returns:
      Name -> number: "rho"; "noise.rms" for an argument of a noise law or a schedule; "rhos.0" for
      an element of a tuple.

    Example:
      >>> from tsam_jax.train.settings import parse
      >>> [setting] = parse("tsam(t=20, rho=0.7, s=3, noise=sphere(rms=0.02), lr=0.03)")
      >>> numbers_of(setting)
      {'t': 20, 'rho': 0.7, 's': 3, 'noise.rms': 0.02, 'lr': 0.03}
    """
    found: dict[str, Any] = {name: node.value for name, node in _constants(_keywords(setting.text))}
    return found


def arguments_of(text: str) -> dict[str, str]:
    """The arguments of a setting as they are written.

    Args:
      text: the setting.

    Returns:
      Name -> text.

    Example:
      >>> arguments_of("tsam(t=20, s=3, noise=sphere(rms=0.02))")
      {'t': '20', 's': '3', 'noise': 'sphere(rms=0.02)'}
    """
    return {str(word.arg): ast.unparse(word.value) for word in _keywords(text)}


def with_numbers(setting: Setting, numbers: Mapping[str, Any]) -> Setting:
    """A setting with numbers replaced, by traced ones for example; its text stays the same.

    Args:
      setting: the setting.
      numbers: name, as from `numbers_of`, -> scalar.

    Returns:
      The setting, not checked: build it to see whether its method takes them.
    """
    keywords = _keywords(setting.text)
    for name, node in _constants(keywords):
        node.value = numbers.get(name, node.value)
    values = {str(word.arg): evaluated(word.value, setting.text) for word in keywords}
    overrides = {name: values.pop(name) for name in OVERRIDES if name in values}
    return dataclasses.replace(setting, arguments=values, overrides=overrides)


def shape_of(setting: Setting, names: Sequence[str]) -> str:
    """The setting with some numbers left open: what settings that differ in these alone share.

    Args:
      setting: the setting.
      names: names of numbers.

    Returns:
      A text, the same for settings that differ in these numbers alone. Zero and infinity stay in
      it: for them a method may compute something else (no ascent, the worst sample).

    Example:
      >>> from tsam_jax.train.settings import parse
      >>> [shape_of(setting, ["rho"]) for setting in parse("sam(rho=[0, 0.1, 0.2], lr=0.1)")]
      ['sam(rho=0, lr=0.1)', 'sam(rho=_, lr=0.1)', 'sam(rho=_, lr=0.1)']
    """
    call = ast.parse(setting.text, mode="eval").body
    for name, node in _constants(call.keywords):  # type: ignore[attr-defined]
        number: Any = node.value
        free = name in OVERRIDES or (number != 0 and math.isfinite(number))
        if name in names and free:
            node.value = ...
    return ast.unparse(call).replace("...", "_")


def apply_grid(settings: Sequence[Setting], grid: Sequence[str]) -> list[Setting]:
    """Settings in which numbers are replaced by those of a grid.

    Args:
      settings: the settings.
      grid: "name=value,value", a number of the method, or "radius" or "rms" for the size of its
        noise, or "lr", "momentum", "weight_decay". A setting whose method does not take a name
        stays as it is in that respect.

    Returns:
      All combinations, without repetitions.

    Raises:
      SettingError: if a text is not of this form, or no method takes its name.

    Example:
      >>> from tsam_jax.train.settings import parse
      >>> settings = parse("tilted_sampling(t=1, s=2, noise=ball(rms=0.1))")
      >>> found = apply_grid(settings, ["radius=5,9"])
      >>> [setting.text for setting in found]
      ['tilted_sampling(t=1, s=2, noise=ball(radius=5))',
       'tilted_sampling(t=1, s=2, noise=ball(radius=9))']
    """
    for text in grid:
        name, _, values = text.replace(" ", "").partition("=")
        if not name.isidentifier() or not all(_is_number(value) for value in values.split(",")):
            msg = f"`--grid`: {text!r} is not a name with numbers, for example `--grid t=1,20`."
            raise SettingError(msg)
        changed = [_replaced(setting, name, values.split(",")) for setting in settings]
        if not any(changed):
            msg = f"`--grid {text}`: none of the methods takes `{name}`."
            raise SettingError(msg)
        settings = [new for old, own in zip(settings, changed, strict=True) for new in own or [old]]
        settings = list({setting.text: setting for setting in settings}.values())
    return list(settings)


def _replaced(setting: Setting, name: str, values: Sequence[str]) -> list[Setting]:
    """The setting with each of the values; none if its method does not take the name."""
    call = ast.parse(setting.text, mode="eval").body
    keywords: list[ast.keyword] = call.keywords  # type: ignore[attr-defined]
    if name in _SIZES:
        laws = [word.value for word in keywords if word.arg == "noise"]
        sized = [node for law in laws for node in ast.walk(law) if _has_size(node)]
        if sized:
            return _with_each(call, _size(sized[0]), name, values)
    own = [word for word in keywords if word.arg == name]
    if own:
        return _with_each(call, own[0], name, values)
    keywords.append(ast.keyword(name, ast.Constant(0)))
    try:
        return _with_each(call, keywords[-1], name, values)
    except SettingError as error:
        if "is not a known argument" in str(error):
            return []
        raise


def _with_each(
    call: ast.expr, word: ast.keyword, name: str, values: Sequence[str]
) -> list[Setting]:
    word.arg = name
    found = []
    for value in values:
        word.value = ast.parse(value, mode="eval").body
        found += parse(ast.unparse(ast.fix_missing_locations(call)))
    return found


def _has_size(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and any(word.arg in _SIZES for word in node.keywords)


def _size(node: Any) -> ast.keyword:
    sizes: list[ast.keyword] = [word for word in node.keywords if word.arg in _SIZES]
    return sizes[0]


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _keywords(text: str) -> list[ast.keyword]:
    return ast.parse(text, mode="eval").body.keywords  # type: ignore[attr-defined, no-any-return]


def _constants(keywords: Sequence[ast.keyword]) -> Iterator[tuple[str, ast.Constant]]:
    """The numbers, each with its name."""
    for word in keywords:
        yield from _inside(str(word.arg), word.value)


def _inside(name: str, node: ast.expr) -> Iterator[tuple[str, ast.Constant]]:
    if isinstance(node, ast.Constant) and type(node.value) in {int, float}:
        yield name, node
    elif isinstance(node, ast.Tuple):
        for place, element in enumerate(node.elts):
            yield from _inside(f"{name}.{place}", element)
    elif isinstance(node, ast.Call):
        for place, argument in enumerate(node.args):
            yield from _inside(f"{name}.{place}", argument)
        for word in node.keywords:
            yield from _inside(f"{name}.{word.arg}", word.value)
