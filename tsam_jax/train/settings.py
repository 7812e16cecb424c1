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
import copy
import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
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


@dataclasses.dataclass(frozen=True)
class Setting:
    """A method with its arguments, parsed once.

    Attributes:
      text: canonical spelling.
      name: name of the method in `METHODS`.
      overrides: values of `OVERRIDES` for this method.
      call: the parsed tree, without the overrides.
    """

    text: str
    name: str
    overrides: Mapping[str, float]
    call: ast.Call = dataclasses.field(repr=False, compare=False)

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """The method's arguments, evaluated."""
        return self._evaluated({})

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
        free = _free(self.name, self.call)
        return {name: float(node.value) for name, node in free}  # type: ignore[arg-type]

    @functools.cached_property
    def shape(self) -> str:
        """The setting with `numbers` left open: equal for settings that share a program.

        Example:
          >>> [setting.shape for setting in parse("sam(rho=[0, 0.1, 0.2])")]
          ['sam(rho=0)', 'sam(rho=...)', 'sam(rho=...)']
        """
        call = copy.deepcopy(self.call)
        for _, node in [*_free(self.name, call)]:
            node.value = ...
        return ast.unparse(call)

    @property
    def written(self) -> dict[str, str]:
        """The arguments and overrides as they are written, name -> text."""
        own = {str(word.arg): ast.unparse(word.value) for word in self.call.keywords}
        return own | {name: f"{value:g}" for name, value in self.overrides.items()}

    def build(
        self, numbers: Mapping[str, Any] | None = None, *, sample_axis: str | None = None
    ) -> GradientEstimator:
        """Makes the estimator.

        Args:
          numbers: values in place of those of `self.numbers`; they may be traced.
          sample_axis: mesh axis over which the samples are spread.

        Raises:
          SettingError: if the method refuses its arguments.
        """
        given = {} if sample_axis is None else {"sample_axis": sample_axis}
        try:
            arguments = self._evaluated(numbers) if numbers else self.arguments
            return METHODS[self.name](**arguments, **given)
        except (TypeError, ValueError) as error:
            raise wrong(self.text, error) from error

    def takes(self, name: str) -> bool:
        """Whether the method has an argument of this name."""
        return name in _parameters(self.name)

    def _evaluated(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        free = _free(self.name, self.call)
        replaced = {id(node): numbers[name] for name, node in free if name in numbers}
        return _keywords(self.call, self.text, replaced)


def parse(
    text: str,
    defaults: Mapping[str, str] | None = None,
    fixed: Mapping[str, float | None] | None = None,
) -> list[Setting]:
    """Reads a setting, or the grid of settings that its lists stand for.

    Args:
      text: `name(argument=value, ...)`, or a bare name.
      defaults: bare name -> setting: the tuned one of a method, or one that has a name of its own,
        such as the paper's ESAM1.
      fixed: values of flags, which replace those of the setting: of `FLAGS`, where the method has
        the argument, and of `OVERRIDES`, where the setting has it; None drops it.

    Returns:
      The settings, in the order of the grid, the last list running fastest.

    Raises:
      SettingError: if the text is not of this form, names something unknown, its method refuses a
        value, or a flag contradicts a grid.

    Example:
      >>> [setting.text for setting in parse("sam(rho=[0.05, 0.1], lr=0.03)", fixed={"lr": 0.1})]
      ['sam(rho=0.05, lr=0.1)', 'sam(rho=0.1, lr=0.1)']
    """
    call = _as_call(text, METHODS, "method", _EXAMPLE, dict(defaults or {}))
    name = _name(call)
    keywords = {str(word.arg): word.value for word in call.keywords}
    for flag, value in (fixed or {}).items():
        if value is None:
            keywords.pop(flag, None)
            continue
        if isinstance(keywords.get(flag), ast.List):
            msg = (
                f"`--{_dashed(flag)}` contradicts the grid in `{shown(text)}`: give one of the two."
            )
            raise SettingError(msg)
        if flag in keywords or (flag in FLAGS and flag in _parameters(name)):
            keywords[flag] = _literal(value)
    choices = [
        [(key, value) for value in (node.elts if isinstance(node, ast.List) else [node])]
        for key, node in keywords.items()
    ]
    if not all(choices):
        raise wrong(text, "an empty list: a list is a grid and needs at least one value.")
    _check_count(math.prod(map(len, choices)), text)
    return [_setting(name, dict(chosen)) for chosen in itertools.product(*choices)]


def parse_all(
    texts: Sequence[str],
    defaults: Mapping[str, str],
    everything: Sequence[str] = (),
    fixed: Mapping[str, float | None] | None = None,
    grid: Sequence[str] = (),
) -> list[Setting]:
    """Reads the settings of a study.

    Args:
      texts: settings or grids of settings; "all" stands for `everything`.
      defaults: bare name -> setting.
      everything: settings that "all" stands for.
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
    clash = [text for text in grid if text.partition("=")[0].strip() in fixed]
    if clash:
        flag = clash[0].partition("=")[0].strip()
        msg = f"`--{_dashed(flag)}` contradicts `--grid {shown(clash[0])}`: give one of the two."
        raise SettingError(msg)
    settings = apply_grid(settings, grid)
    labels = [setting.text for setting in settings]
    repeated = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if repeated:
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
    call = _as_call(text, functions, what, example, {})
    return _name(call), _keywords(call, text, {})


def _setting(name: str, nodes: Mapping[str, ast.expr]) -> Setting:
    parameters = _parameters(name)
    call = _made(name, {key: node for key, node in nodes.items() if key not in OVERRIDES})
    text = ast.unparse(_made(name, nodes))
    overrides = {key: _value(nodes[key], text, {}) for key in OVERRIDES if key in nodes}
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
        known(shown(key, 50), names, f"argument of `{name}`", SettingError)
        value = getattr(node, "value", None)
        if key in _SWITCHES and not isinstance(value, bool):
            raise wrong(text, f"`{key}` must be True or False.")
        if isinstance(value, int) and "int" in str(parameters.get(key)) and value > _INTEGER:
            raise wrong(text, f"`{key}` must be at most {_INTEGER}, got {value}.")
    setting = Setting(text, name, overrides, call)
    _ = setting.cost  # what the method would refuse is refused here
    return setting


def _replaced(setting: Setting, name: str, value: str) -> Setting | None:
    """The setting with a number replaced; None if its method does not take the name."""
    nodes = {str(word.arg): word.value for word in setting.call.keywords}
    nodes |= {key: _literal(x) for key, x in setting.overrides.items()}
    law = nodes.get("noise")
    if name in _SIZES and law is not None:
        law = copy.deepcopy(law)
        calls = [node for node in ast.walk(law) if isinstance(node, ast.Call)]
        words = [word for node in calls for word in node.keywords if word.arg in _SIZES]
        if words:
            words[0].arg, words[0].value = name, _literal(value)
            return _setting(setting.name, nodes | {"noise": law})
    if name not in OVERRIDES and not setting.takes(name):
        return None
    return _setting(setting.name, nodes | {name: _literal(value)})


def _as_call(
    text: str, names: Mapping[str, Any], what: str, example: str, defaults: dict[str, str]
) -> ast.Call:
    article = {"method": "a setting"}.get(what, f"an {what}")
    hint = f"Write {'an' if what[0] in 'aeiou' else 'a'} {what} with its arguments"
    node = expression(text, f"{article}: {hint[0].lower()}{hint[1:]}, for example `{example}`")
    if isinstance(node, ast.Name):
        every = [*names, *(name for name in defaults if name not in names)]
        known(shown(node.id, 50), every, what, SettingError)
        if node.id in defaults:
            return _as_call(defaults[node.id], names, what, example, {})
        node = ast.Call(node, [], [])
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        msg = f"`{shown(text)}` is not {article}. {hint}, for example `{example}`."
        raise SettingError(msg)
    known(shown(node.func.id, 50), names, what, SettingError)
    check_grammar(node, text)
    if node.args:
        raise wrong(text, f"arguments must be given by name, for example `{example}`.")
    if what != "method" and any(isinstance(word.value, ast.List) for word in node.keywords):
        raise wrong(text, f"a list is a grid, which an {what} has not.")
    return node


def _check_count(count: int, text: str) -> None:
    if count > _SETTINGS:
        raise wrong(text, f"a grid of {count} settings, of at most {_SETTINGS}.")


def _keywords(call: ast.Call, text: str, replaced: Mapping[int, Any]) -> dict[str, Any]:
    return {
        str(word.arg): _value(word.value, text, replaced, law=word.arg == "noise")
        for word in call.keywords
    }


def _value(node: ast.expr, text: str, replaced: Mapping[int, Any], *, law: bool = False) -> Any:
    """Evaluates a number, a name, a tuple or a schedule, or a noise law; `replaced`, by id."""
    if id(node) in replaced:
        return replaced[id(node)]
    if isinstance(node, ast.Tuple):
        return tuple(_value(element, text, replaced) for element in node.elts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        known(shown(name, 50), _FUNCTIONS, "noise law or schedule", SettingError)
        if (name in _LAWS) != law:
            raise wrong(text, f"`{name}` is {'no' if law else 'a'} noise law.")
        inner = name in {"antithetic", "orthogonal"}
        args = [_value(arg, text, replaced, law=inner) for arg in node.args]
        words = {str(w.arg): _value(w.value, text, replaced, law=inner) for w in node.keywords}
        try:
            made = _FUNCTIONS[name](*args, **words)
            return _checked_schedule(made) if name in _SCHEDULES else made
        except Exception as error:  # of optax, which checks little
            raise wrong(text, error) from error
    if isinstance(node, ast.Name):
        known(shown(node.id, 50), _NAMES, "value", SettingError)
        if node.id == "none" and not law:
            raise wrong(text, "`none` is a noise law.")
        return _NAMES[node.id]
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


def _free(method: str, call: ast.Call) -> Iterator[tuple[str, ast.Constant]]:
    """The constants of a method's call that may be traced, each with its name."""
    for word in call.keywords:
        if _is_scalar(_parameters(method).get(str(word.arg))):
            yield from _constants(str(word.arg), word.value)


def _constants(name: str, node: ast.expr) -> Iterator[tuple[str, ast.Constant]]:
    """The finite numbers other than 0 in an argument, each with its name."""
    if isinstance(node, ast.Constant):
        number = type(node.value) in {int, float} and node.value != 0
        if number and math.isfinite(node.value):  # type: ignore[arg-type]
            yield name, node
    elif isinstance(node, ast.Tuple):
        for place, element in enumerate(node.elts):
            yield from _constants(f"{name}.{place}", element)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        function = _TRACEABLE.get(node.func.id)
        if function is None:  # a schedule, which may use its numbers in Python
            return
        names = list(inspect.signature(function).parameters)
        arguments = dict(zip(names, node.args, strict=False))
        arguments |= {str(word.arg): word.value for word in node.keywords}
        for key, argument in arguments.items():
            if _is_scalar(inspect.signature(function).parameters.get(key)):
                yield from _constants(f"{name}.{key}", argument)


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


def _made(name: str, nodes: Mapping[str, ast.expr]) -> ast.Call:
    words = [ast.keyword(key, node) for key, node in nodes.items()]
    return ast.fix_missing_locations(ast.Call(ast.Name(name, ast.Load()), [], words))


def _name(call: ast.Call) -> str:
    return call.func.id  # type: ignore[attr-defined, no-any-return]


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
