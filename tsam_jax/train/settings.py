"""Settings: a method and its numbers, written as the Python call that makes it.

`tsam(t=20, rho=0.8, s=3, noise=sphere(rms=0.02), lr=0.03)` names a function of
`tsam_jax.methods.METHODS` with its arguments; noise laws of `tsam_jax.noise` and schedules of
optax may be nested. `lr`, `momentum`, `weight_decay` and `budget` override the shared value for
this method (the paper's ESAM1 is SAM with a larger budget). A list is a grid:
`sam(rho=[0.1, 0.2])` is two settings. Only these named functions are ever called.

A text has at most 2,000 characters and calls nested 10 deep; a grid, 1,000 settings. Numbers are at
most 1e12 in size, integers of a method 10,000, and infinity is `inf`. Schedules are finite and
>= 0 at the steps 0, 1, 10, ..., 1e6. `mask`, `adapt` and `split_batch` are True or False.
"""

import ast
import collections
import copy
import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tsam_jax import noise, tilting
from tsam_jax.estimator import Cost, GradientEstimator, known_cost
from tsam_jax.methods import METHODS
from tsam_jax.train._grammar import SettingError, check_grammar, expression, shown, wrong
from tsam_jax.train.config import (
    OVERRIDES,
    VALUE_COST,
    Budget,
    ConfigError,
    Optimizer,
    check,
    known,
)

__all__ = ["FLAGS", "Setting", "SettingError", "apply_grid", "parse", "parse_all", "parse_call"]

_SCHEDULES = (
    "constant_schedule",
    "cosine_decay_schedule",
    "exponential_decay",
    "linear_schedule",
    "piecewise_constant_schedule",
    "polynomial_schedule",
    "warmup_cosine_decay_schedule",
)
_LAWS = ("antithetic", "ball", "filter_scaled", "gaussian", "leaf_scaled", "orthogonal", "sphere")
_TRACEABLE: dict[str, Any] = {name: getattr(noise, name) for name in _LAWS}
_TRACEABLE |= {"AutoTilt": tilting.AutoTilt}
_FUNCTIONS = {**{name: getattr(optax, name) for name in _SCHEDULES}, **_TRACEABLE}
_NAMES = {"inf": math.inf, "none": noise.none}
_BOUNDS = {field.name: field.metadata for field in dataclasses.fields(Optimizer)}
_BOUNDS |= {field.name: field.metadata for field in dataclasses.fields(Budget)}
_SWITCHES = ("adapt", "mask", "split_batch")
_SETTINGS, _INTEGER = 1000, 10_000
_STEPS = (0, *(10**k for k in range(7)))
_ELSEWHERE = {"key": "`--seeds` sets the seeds", "sample_axis": "`--mesh` sets the axis"}
_SIZES = ("radius", "rms")
_EXAMPLE = "sam(rho=0.05)"
FLAGS = ("t", "rho", "s")
"""Arguments of methods that are flags as well."""

Visit = Callable[[str, ast.Constant], Any]
"""(name in `Setting.numbers`, constant) -> the value to use."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A method with its arguments, parsed once.

    Attributes:
      text: canonical spelling.
      name: name of the method in `METHODS`.
      nodes: argument or override -> its parsed value.
      overrides: values of `OVERRIDES` for this method.
    """

    text: str
    name: str
    nodes: Mapping[str, ast.expr] = dataclasses.field(repr=False, compare=False)
    overrides: Mapping[str, float]

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """The method's arguments, evaluated."""
        return self._evaluated()

    @functools.cached_property
    def cost(self) -> Cost:
        """Cost of one step; building the estimator checks all arguments."""
        return known_cost(self.build().cost)

    @property
    def price(self) -> float:
        """Cost of one step in gradient evaluations, a loss evaluation as a third of one."""
        return self.cost.gradients + VALUE_COST * self.cost.values

    @functools.cached_property
    def numbers(self) -> dict[str, float]:
        """The numbers that a compiled program takes as arguments, by name.

        "rho"; "noise.rms" for an argument of a noise law; "rhos.0" for an element of a tuple. 0
        and infinity are no arguments: for them a method may compute something else. Neither are
        integers that shape the computation (s, steps) and the numbers of schedules.

        Example:
          >>> [setting] = parse("tsam(t=20, rho=0, s=3, noise=sphere(rms=0.02), lr=0.03)")
          >>> setting.numbers
          {'t': 20.0, 'noise.rms': 0.02}
        """
        return {name: float(node.value) for name, node in self._free().items()}  # type: ignore[arg-type]

    @functools.cached_property
    def shape(self) -> str:
        """The setting with `numbers` left open: equal for settings that share a program.

        Example:
          >>> [setting.shape for setting in parse("sam(rho=[0, 0.1, 0.2])")]
          ['sam(rho=0)', 'sam(rho=...)', 'sam(rho=...)']
        """
        own = {key: node for key, node in self.nodes.items() if key not in OVERRIDES}
        free = copy.deepcopy(dataclasses.replace(self, nodes=own))
        for node in free._free().values():
            node.value = ...
        return _text(self.name, free.nodes)

    @property
    def written(self) -> dict[str, str]:
        """The arguments and overrides as they are written, name -> text."""
        return {name: ast.unparse(node) for name, node in self.nodes.items()}

    def build(
        self, numbers: Mapping[str, Any] | None = None, *, sample_axis: str | None = None
    ) -> GradientEstimator:
        """Makes the estimator.

        Args:
          numbers: values in place of those of `self.numbers`; they may be traced.
          sample_axis: mesh axis over which the samples are spread.

        Raises:
          SettingError: if the method rejects its arguments.
        """
        given = {} if sample_axis is None else {"sample_axis": sample_axis}
        replace = lambda name, node: (numbers or {}).get(name, node.value)  # noqa: E731
        try:
            arguments = self._evaluated(replace) if numbers else self.arguments
            return METHODS[self.name](**arguments, **given)
        except (TypeError, ValueError) as error:
            raise wrong(self.text, error) from error

    def takes(self, name: str) -> bool:
        """Whether the method has an argument of this name."""
        return name in _parameters(self.name)

    def _evaluated(self, visit: Visit | None = None) -> dict[str, Any]:
        found = {}
        for key in (key for key in self.nodes if key not in OVERRIDES):
            path = key if _is_scalar(_parameters(self.name)[key]) else ""
            found[key] = _value(self.nodes[key], self.text, path, visit, law=key == "noise")
        return found

    def _free(self) -> dict[str, ast.Constant]:
        """The constants that may be traced, by name."""
        found: dict[str, ast.Constant] = {}
        self._evaluated(lambda name, node: found.setdefault(name, node).value)
        return found


def parse(
    text: str,
    defaults: Mapping[str, str] | None = None,
    fixed: Mapping[str, float | None] | None = None,
) -> list[Setting]:
    """Reads a setting, or a grid of settings if it has lists.

    Args:
      text: `name(argument=value, ...)`, or a bare name.
      defaults: bare name -> setting: the tuned one of a method, or one that has a name of its own,
        such as the paper's ESAM1.
      fixed: values of flags, which replace those of the setting: of `FLAGS`, where the method has
        the argument, and of `OVERRIDES`, where the setting has it; None drops it.

    Returns:
      The settings, in the order of the grid, the last list running fastest.

    Raises:
      SettingError: if the text is not of this form, names something unknown, its method rejects a
        value, or a flag contradicts a grid.

    Example:
      >>> [setting.text for setting in parse("sam(rho=[0.05, 0.1], lr=0.03)", fixed={"lr": 0.1})]
      ['sam(rho=0.05, lr=0.1)', 'sam(rho=0.1, lr=0.1)']
    """
    name, nodes = _read(text, METHODS, "method", _EXAMPLE, defaults or {})
    for flag, value in (fixed or {}).items():
        if value is None:
            nodes.pop(flag, None)
        elif isinstance(nodes.get(flag), ast.List):
            raise _contradiction(flag, f"the grid in `{shown(text)}`")
        elif flag in nodes or (flag in FLAGS and flag in _parameters(name)):
            nodes[flag] = _literal(value)
    grids = [node.elts if isinstance(node, ast.List) else [node] for node in nodes.values()]
    if not all(grids):
        raise wrong(text, "an empty list: a list is a grid and needs at least one value.")
    _check_count(math.prod(map(len, grids)), text)
    return [_setting(name, dict(zip(nodes, own, strict=True))) for own in itertools.product(*grids)]


def parse_all(
    texts: Sequence[str],
    defaults: Mapping[str, str],
    everything: Sequence[str] = (),
    fixed: Mapping[str, float | None] | None = None,
    grid: Sequence[str] = (),
) -> list[Setting]:
    """Reads the settings of a study.

    Args:
      texts: settings or grids of settings; "all" means `everything`.
      defaults: bare name -> setting.
      everything: the settings of "all".
      fixed: values of flags, as of `parse`.
      grid: numbers for all methods that take them, as of `apply_grid`.

    Returns:
      The settings, in order.

    Raises:
      SettingError: as of `parse`; if there is no setting, one is repeated, or no method takes a
        flag.
    """
    fixed = fixed or {}
    texts = list(itertools.chain(*(everything if text == "all" else [text] for text in texts)))
    settings = [setting for text in texts for setting in parse(text, defaults, fixed)]
    if not settings:
        msg = "`--methods` needs at least one method, for example `--methods erm sam tsam`."
        raise SettingError(msg)
    for flag in FLAGS:
        if flag in fixed and not any(setting.takes(flag) for setting in settings):
            names = ", ".join(dict.fromkeys(setting.name for setting in settings))
            msg = f"`--{flag}` does not apply: `{flag}` is no argument of {names}."
            raise SettingError(msg)
    for text in grid:
        if (flag := text.partition("=")[0].strip()) in fixed:
            raise _contradiction(flag, f"`--grid {shown(text)}`")
    settings = apply_grid(settings, grid)
    times = collections.Counter(setting.text for setting in settings)
    if repeated := [text for text, count in times.items() if count > 1]:
        msg = f"`--methods` has {shown(', '.join(repeated))} more than once."
        raise SettingError(msg)
    return settings


def apply_grid(settings: Sequence[Setting], grid: Sequence[str]) -> list[Setting]:
    """Replaces numbers of settings by those of a grid.

    Args:
      settings: the settings.
      grid: "name=value,value": a number of the method, "radius" or "rms" for the size of its
        noise, or one of `OVERRIDES`. A setting whose method does not take a name keeps its own.

    Returns:
      All combinations, without repetitions.

    Raises:
      SettingError: if a text is not of this form, or no method takes its name.

    Example:
      >>> settings = parse("tilted_sampling(t=1, s=2, noise=ball(rms=0.1))")
      >>> [setting.text for setting in apply_grid(settings, ["radius=5,9"])]
      ['tilted_sampling(t=1, s=2, noise=ball(radius=5))',
       'tilted_sampling(t=1, s=2, noise=ball(radius=9))']
    """
    found, names = list(settings), [text.partition("=")[0].strip() for text in grid]
    if len({_SIZES[0] if name in _SIZES else name for name in names}) < len(names):
        msg = "`--grid` has the values of a number more than once."
        raise SettingError(msg)
    for text in grid:
        name, _, words = text.partition("=")
        name, values = name.strip(), words.split(",")
        if not name.isidentifier() or not all(map(_is_number, values)):
            msg = f"`--grid {shown(text)}` is not a name with numbers, as in `--grid t=1,20`."
            raise SettingError(msg)
        _check_count(len(found) * len(values), f"--grid {text}")
        changed = [[_replaced(old, name, value) for value in values] for old in found]
        if not any(all(new) for new in changed):
            msg = f"`--grid {shown(text)}`: none of the methods takes `{shown(name, 50)}`."
            raise SettingError(msg)
        pairs = zip(found, changed, strict=True)
        several = [[x for x in new if x is not None] or [old] for old, new in pairs]
        found = list({x.text: x for x in itertools.chain(*several)}.values())
    return found


def parse_call(
    text: str, functions: Mapping[str, Any], what: str, example: str
) -> tuple[str, dict[str, Any]]:
    """Reads a call of one of `functions`, in the grammar of settings: its name and arguments.

    Messages call a function `what`, and show `example`.

    Example:
      >>> parse_call("adamw(b2=0.99)", {"adamw": None}, "optimizer", "adamw(b2=0.99)")
      ('adamw', {'b2': 0.99})
    """
    name, nodes = _read(text, functions, what, example, {})
    return name, {key: _value(node, text) for key, node in nodes.items()}


def _setting(name: str, nodes: Mapping[str, ast.expr]) -> Setting:
    text, parameters = _text(name, nodes), _parameters(name)
    overrides = {key: _value(nodes[key], text) for key in OVERRIDES if key in nodes}
    for key, value in overrides.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong(text, f"`{key}` must be a number, got {value!r}.")
        try:
            check(key, value, _BOUNDS[key])
        except ConfigError as error:
            raise wrong(text, str(error).replace(f"`--{_dashed(key)}`", f"`{key}`")) from error
    for key, node in nodes.items():
        if key in _ELSEWHERE:
            raise wrong(text, f"`{key}` is not a setting; {_ELSEWHERE[key]}.")
        names = [*(k for k in parameters if k not in _ELSEWHERE), *OVERRIDES]
        _check_known(key, names, f"argument of `{name}`")
        value = getattr(node, "value", None)
        if key in _SWITCHES and not isinstance(value, bool):
            raise wrong(text, f"`{key}` must be True or False.")
        if isinstance(value, int) and "int" in str(parameters.get(key)) and value > _INTEGER:
            raise wrong(text, f"`{key}` must be at most {_INTEGER}, got {value}.")
    setting = Setting(text, name, nodes, overrides)
    _ = setting.cost  # raises the errors of the method
    return setting


def _replaced(setting: Setting, name: str, value: str) -> Setting | None:
    """The setting with a number replaced; None if its method does not take the name."""
    nodes = dict(setting.nodes)
    if name in _SIZES and "noise" in nodes:
        nodes["noise"] = copy.deepcopy(nodes["noise"])
        calls = [node for node in ast.walk(nodes["noise"]) if isinstance(node, ast.Call)]
        for word in (word for node in calls for word in node.keywords if word.arg in _SIZES):
            word.arg, word.value = name, _literal(value)
            return _setting(setting.name, nodes)
    if name not in OVERRIDES and not setting.takes(name):
        return None
    return _setting(setting.name, nodes | {name: _literal(value)})


def _read(
    text: str, names: Mapping[str, Any], what: str, example: str, defaults: Mapping[str, str]
) -> tuple[str, dict[str, ast.expr]]:
    """The name and the parsed arguments of a call, a bare name being one without arguments."""
    article = {"method": "a setting"}.get(what, f"an {what}")
    hint = f"Write {'an' if what[0] in 'aeiou' else 'a'} {what} with its arguments"
    node = expression(text, f"{article}: {hint[0].lower()}{hint[1:]}, for example `{example}`")
    if isinstance(node, ast.Name):
        _check_known(node.id, dict.fromkeys([*names, *defaults]), what)
        if node.id in defaults:
            return _read(defaults[node.id], names, what, example, {})
        return node.id, {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        msg = f"`{shown(text)}` is not {article}. {hint}, for example `{example}`."
        raise SettingError(msg)
    _check_known(node.func.id, names, what)
    check_grammar(node, text)
    if node.args:
        raise wrong(text, f"arguments must be given by name, for example `{example}`.")
    if what != "method" and any(isinstance(word.value, ast.List) for word in node.keywords):
        raise wrong(text, f"a list is a grid, which an {what} has not.")
    return node.func.id, {str(word.arg): word.value for word in node.keywords}


def _check_known(name: str, names: Iterable[str], what: str) -> None:
    known(shown(name, 50), names, what, SettingError)


def _check_count(count: int, text: str) -> None:
    if count > _SETTINGS:
        raise wrong(text, f"a grid of {count} settings, of at most {_SETTINGS}.")


def _contradiction(flag: str, other: str) -> SettingError:
    return SettingError(f"`--{_dashed(flag)}` contradicts {other}: give one of the two.")


def _value(
    node: ast.expr, text: str, path: str = "", visit: Visit | None = None, *, law: bool = False
) -> Any:
    """Evaluates a number, a name, a tuple or a schedule, or a noise law.

    Args:
      node: the parsed value.
      text: of the setting, for errors.
      path: the value's name in `Setting.numbers`; empty if it may not be traced.
      visit: (name, constant) -> the value of a number that may be traced; default: its own.
      law: whether a noise law must be here.
    """
    if isinstance(node, ast.Tuple):
        inside = [(f"{path}.{k}" if path else "", one) for k, one in enumerate(node.elts)]
        return tuple(_value(one, text, name, visit) for name, one in inside)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        _check_known(name, _FUNCTIONS, "noise law or schedule")
        if (name in _LAWS) != law:
            raise wrong(text, f"`{name}` is {'no' if law else 'a'} noise law.")
        parameters = inspect.signature(_FUNCTIONS[name]).parameters

        def argument(key: str, one: ast.expr) -> Any:
            # A schedule may use its numbers in Python.
            traced = path and name in _TRACEABLE and _is_scalar(parameters.get(key))
            inner = name in {"antithetic", "orthogonal"}
            return _value(one, text, f"{path}.{key}" if traced else "", visit, law=inner)

        keys = itertools.chain(parameters, itertools.repeat(""))
        args = [argument(key, one) for key, one in zip(keys, node.args, strict=False)]
        words = {str(word.arg): argument(str(word.arg), word.value) for word in node.keywords}
        try:
            made = _FUNCTIONS[name](*args, **words)
            return _checked_schedule(made) if name in _SCHEDULES else made
        except Exception as error:  # of optax, which checks little
            raise wrong(text, error) from error
    if isinstance(node, ast.Name):
        _check_known(node.id, _NAMES, "value")
        if node.id == "none" and not law:
            raise wrong(text, "`none` is a noise law.")
        return _NAMES[node.id]
    value = getattr(node, "value", None)
    if visit and path and type(value) in {int, float} and value and math.isfinite(value):
        return visit(path, node)  # type: ignore[arg-type]
    try:
        return ast.literal_eval(node)
    except (TypeError, ValueError) as error:
        raise wrong(text, "a dictionary must be of numbers.") from error


def _checked_schedule(schedule: Any) -> Any:
    """The schedule, if its values are finite and >= 0."""
    for step in _STEPS:
        with jax.ensure_compile_time_eval():  # a program may be tracing the method
            value = schedule(jnp.int32(step))
        if jnp.shape(value) or not 0 <= float(value) < math.inf:
            msg = f"a schedule must be a finite number >= 0, but is {value} at step {step}."
            raise ValueError(msg)
    return schedule


def _is_scalar(parameter: inspect.Parameter | None) -> bool:
    """Whether a parameter takes traced numbers, by its annotation."""
    return parameter is not None and ("Array" in str(parameter.annotation))


@functools.cache
def _parameters(method: str) -> dict[str, inspect.Parameter]:
    """The parameters of a method, those of `tsam` for its other spelling's `**options`."""
    own = dict(inspect.signature(METHODS[method]).parameters)
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        own |= {k: p for k, p in _parameters("tsam").items() if k not in own}
    return {name: p for name, p in own.items() if p.kind is not p.VAR_KEYWORD}


def _text(name: str, nodes: Mapping[str, ast.expr]) -> str:
    """The canonical spelling of a call."""
    words = ", ".join(f"{key}={ast.unparse(node)}" for key, node in nodes.items())
    return f"{name}({words})"


def _literal(value: Any) -> ast.expr:
    text = value if isinstance(value, str) else repr(value)
    check_grammar(node := expression(text), text)
    return node


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False
