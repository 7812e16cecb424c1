"""Settings: a method and its numbers, written as the Python call that makes it.

`tsam(t=20, rho=0.8, s=3, noise=sphere(rms=0.02), lr=0.03)` names a function of
`tsam_jax.methods.METHODS` with its arguments; noise laws of `tsam_jax.noise` and schedules of
optax may stand inside. `lr`, `momentum`, `weight_decay` and `budget` are not the method's: they
replace the shared value for this method alone (the paper's ESAM1 is SAM with a larger budget). A
list is a grid: `sam(rho=[0.1, 0.2])` stands for two settings. Nothing is executed but these
named functions.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import optax

from tsam_jax import noise, tilting
from tsam_jax.estimator import GradientEstimator
from tsam_jax.methods import METHODS

OVERRIDES = ("lr", "momentum", "weight_decay", "budget")

_SCHEDULES = [
    "constant_schedule",
    "cosine_decay_schedule",
    "exponential_decay",
    "linear_schedule",
    "piecewise_constant_schedule",
    "polynomial_schedule",
    "warmup_cosine_decay_schedule",
]
_LAWS = [
    "antithetic",
    "ball",
    "filter_scaled",
    "gaussian",
    "leaf_scaled",
    "orthogonal",
    "sphere",
]
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(optax, name) for name in _SCHEDULES},
    **{name: getattr(noise, name) for name in _LAWS},
    "AutoTilt": tilting.AutoTilt,
}
_NAMES = {"inf": math.inf, "none": noise.none}


class SettingError(Exception):
    """A setting that cannot be read, or that its method refuses."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A method with its arguments, ready to be built.

    Attributes:
      text: how it is written, in canonical form.
      name: the method's name in `METHODS`.
      arguments: the method's own arguments.
      overrides: values of `OVERRIDES` for this method alone.
    """

    text: str
    name: str
    arguments: Mapping[str, Any]
    overrides: Mapping[str, float]

    def build(self, *, sample_axis: str | None = None) -> GradientEstimator:
        """Makes the estimator.

        Args:
          sample_axis: mesh axis over which its samples are spread.

        Returns:
          The `GradientEstimator`.

        Raises:
          SettingError: if the method refuses its arguments.
        """
        method = METHODS[self.name]
        given = {} if sample_axis is None else {"sample_axis": sample_axis}
        try:
            return method(**self.arguments, **given)
        except (TypeError, ValueError) as error:
            msg = f"in `{self.text}`: {error}"
            raise SettingError(msg) from error


def parse(text: str, defaults: Mapping[str, str] | None = None) -> list[Setting]:
    """Reads a setting, or the grid of settings that its lists stand for.

    Args:
      text: `name(argument=value, ...)`, or a bare name.
      defaults: name -> text, for bare names: the tuned setting of a method for a task, or a setting
        that has a name of its own there, such as the paper's ESAM1.

    Returns:
      The settings, in the order of the grid, the last list running fastest. Each was built once,
      so that what a method would refuse is refused here.

    Raises:
      SettingError: if the text is not of this form, or names something unknown.

    Example:
      >>> [setting.text for setting in parse("sam(rho=[0.05, 0.1], lr=0.03)")]
      ['sam(rho=0.05, lr=0.03)', 'sam(rho=0.1, lr=0.03)']
    """
    call = _as_call(text, METHODS, "method", "sam(rho=0.05)", dict(defaults or {}))
    choices = [
        [ast.keyword(keyword.arg, value) for value in _choices(keyword.value)]
        for keyword in call.keywords
    ]
    if any(not choice for choice in choices):
        msg = f"`{text}` has an empty list: a list is a grid and needs at least one value."
        raise SettingError(msg)
    settings = [
        _setting(ast.Call(call.func, [], list(keywords)))
        for keywords in itertools.product(*choices)
    ]
    for setting in settings:
        setting.build()
    return settings


def with_arguments(setting: Setting, arguments: Mapping[str, float]) -> Setting:
    """A setting with some of the method's numbers replaced, or added.

    Args:
      setting: the setting.
      arguments: the numbers by name; a name that the method does not take is refused.

    Returns:
      The setting with them.

    Raises:
      SettingError: if the method does not take one, or refuses its value.

    Example:
      >>> [setting] = parse("tsam(t=20, rho=0.7, s=3)")
      >>> with_arguments(setting, {"t": 5}).text
      'tsam(t=5, rho=0.7, s=3)'
    """
    call = _as_call(setting.text, METHODS, "method", "sam(rho=0.05)", {})
    kept = {str(keyword.arg): keyword.value for keyword in call.keywords}
    new = {name: ast.parse(repr(value), mode="eval").body for name, value in arguments.items()}
    keywords = [ast.keyword(name, value) for name, value in (kept | new).items()]
    replaced = _setting(ast.Call(call.func, [], keywords))
    replaced.build()
    return replaced


def parse_call(
    text: str, functions: Mapping[str, Any], what: str, example: str
) -> tuple[str, dict[str, Any]]:
    """Reads a call of one of some functions, in the grammar of settings.

    Args:
      text: `name(argument=value, ...)`, or a bare name.
      functions: the names that are known.
      what: what they name, for messages.
      example: such a text, for messages.

    Returns:
      The name and the arguments.

    Raises:
      SettingError: if the text is not of this form, or names something unknown.

    Example:
      >>> parse_call("adamw(b2=0.99)", {"adamw": None}, "optimizer", "adamw(b2=0.99)")
      ('adamw', {'b2': 0.99})
    """
    call = _as_call(text, functions, what, example, {})
    name = call.func.id  # type: ignore[attr-defined]
    return name, {str(keyword.arg): evaluated(keyword.value, text) for keyword in call.keywords}


def _as_call(
    text: str, names: Mapping[str, Any], what: str, example: str, defaults: dict[str, str]
) -> ast.Call:
    article = {"method": "a setting"}.get(what, f"an {what}")
    hint = f"Write {'an' if what[0] in 'aeiou' else 'a'} {what} with its arguments"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        msg = f"`{text}` is not {article}: {error.msg}. {hint}, for example `{example}`."
        raise SettingError(msg) from error
    if isinstance(node, ast.Name):
        known(node.id, [*names, *(name for name in defaults if name not in names)], what)
        if node.id in defaults:
            return _as_call(defaults[node.id], names, what, example, {})
        node = ast.Call(node, [], [])
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        msg = f"`{text}` is not {article}. {hint}, for example `{example}`."
        raise SettingError(msg)
    known(node.func.id, names, what)
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        msg = f"`{text}`: arguments must be given by name, for example `{example}`."
        raise SettingError(msg)
    return node


def _setting(call: ast.Call) -> Setting:
    text = ast.unparse(ast.fix_missing_locations(call))
    name = call.func.id  # type: ignore[attr-defined]
    values = {str(keyword.arg): evaluated(keyword.value, text) for keyword in call.keywords}
    overrides = {key: values.pop(key) for key in OVERRIDES if key in values}
    for key, value in overrides.items():
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            msg = f"in `{text}`: `{key}` must be a finite number >= 0, got {value!r}."
            raise SettingError(msg)
    elsewhere = {"key": "the seeds of a run are given by `--seeds`", "sample_axis": "see `--mesh`"}
    for key in elsewhere.keys() & values.keys():
        msg = f"in `{text}`: `{key}` is not a setting; {elsewhere[key]}."
        raise SettingError(msg)
    parameters = inspect.signature(METHODS[name]).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in values:
            known(
                key,
                [*(k for k in parameters if k not in elsewhere), *OVERRIDES],
                f"argument of `{name}`",
            )
    return Setting(text, name, values, overrides)


def _choices(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.List) else [node]


def evaluated(node: ast.expr, text: str) -> Any:
    """The value of an argument: a number, a name, a noise law or a schedule.

    Args:
      node: the argument, parsed.
      text: the setting, for messages.

    Returns:
      Its value.

    Raises:
      SettingError: if it is none of these, or a law refuses its own arguments.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        known(node.func.id, _FUNCTIONS, "noise law or schedule")
        args = [evaluated(arg, text) for arg in node.args]
        kwargs = {str(keyword.arg): evaluated(keyword.value, text) for keyword in node.keywords}
        try:
            return _FUNCTIONS[node.func.id](*args, **kwargs)
        except (TypeError, ValueError) as error:
            msg = f"in `{text}`: {error}"
            raise SettingError(msg) from error
    if isinstance(node, ast.Name):
        known(node.id, _NAMES, "value")
        return _NAMES[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        msg = f"in `{text}`: `{ast.unparse(node)}` is not a number, a name or a noise law."
        raise SettingError(msg) from error


def known(name: str, names: Any, what: str) -> None:
    """Refuses a name that is not among some.

    Raises:
      SettingError: if it is not; it lists them, and says which one is close.
    """
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Perhaps you meant `{close[0]}`." if close else ""
    msg = f"`{name}` is not a known {what}: there are {', '.join(sorted(names))}.{hint}"
    raise SettingError(msg)
