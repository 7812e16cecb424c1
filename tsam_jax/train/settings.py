"""Settings: a method and its numbers, written as the Python call that makes it.

`tsam(t=20, rho=0.8, s=3, noise=sphere(rms=0.02), lr=0.03)` names a function of
`tsam_jax.methods.METHODS` with its arguments; noise laws of `tsam_jax.noise` and schedules of
optax may be nested. `lr`, `momentum`, `weight_decay` and `budget` override the shared value for
this method (the paper's ESAM1 is SAM with a larger budget). A list is a grid:
`sam(rho=[0.1, 0.2])` is two settings. Only these named functions are ever called.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optax

from tsam_jax import noise, tilting
from tsam_jax.estimator import Cost, GradientEstimator, known_cost
from tsam_jax.methods import METHODS
from tsam_jax.train.config import OVERRIDES, VALUE_COST, ConfigError, known

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
_ELSEWHERE = {"key": "`--seeds` sets the seeds", "sample_axis": "`--mesh` sets the axis"}
_SIZES = ("radius", "rms")
_EXAMPLE = "sam(rho=0.05)"
FLAGS = ("t", "rho", "s")
"""Arguments of methods that are flags as well."""


class SettingError(ConfigError):
    """A setting that cannot be read, or that its method refuses."""


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
        return {name: float(node.value) for name, node in self._free()}  # type: ignore[arg-type]

    @functools.cached_property
    def shape(self) -> str:
        """The setting with `numbers` left open: equal for settings that share a program.

        Example:
          >>> [setting.shape for setting in parse("sam(rho=[0, 0.1, 0.2])")]
          ['sam(rho=0)', 'sam(rho=_)', 'sam(rho=_)']
        """
        free = {id(node) for _, node in self._free()}
        return ast.unparse(_opened(self.call, free))

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
            msg = f"in `{self.text}`: {error}"
            raise SettingError(msg) from error

    def takes(self, name: str) -> bool:
        """Whether the method has an argument of this name."""
        return name in _parameters(self.name)

    def _evaluated(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        replaced = {id(node): numbers[name] for name, node in self._free() if name in numbers}
        return {
            str(word.arg): _value(word.value, self.text, replaced) for word in self.call.keywords
        }

    def _free(self) -> Iterator[tuple[str, ast.Constant]]:
        parameters = _parameters(self.name)
        for word in self.call.keywords:
            if _is_scalar(parameters.get(str(word.arg))):
                yield from _constants(str(word.arg), word.value)


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
            msg = f"`--{_dashed(flag)}` contradicts the grid in `{text}`: give one of the two."
            raise SettingError(msg)
        if flag in keywords or (flag in FLAGS and flag in _parameters(name)):
            keywords[flag] = _literal(value)
    choices = [
        [(key, value) for value in (node.elts if isinstance(node, ast.List) else [node])]
        for key, node in keywords.items()
    ]
    if not all(choices):
        msg = f"`{text}` has an empty list: a list is a grid and needs at least one value."
        raise SettingError(msg)
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
        msg = f"`--{_dashed(flag)}` contradicts `--grid {clash[0]}`: give one of the two."
        raise SettingError(msg)
    settings = apply_grid(settings, grid)
    labels = [setting.text for setting in settings]
    repeated = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if repeated:
        msg = f"`--methods` has {', '.join(repeated)} more than once."
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
    found = list(settings)
    for text in grid:
        name, _, values = text.replace(" ", "").partition("=")
        if not name.isidentifier() or not all(map(_is_number, values.split(","))):
            msg = f"`--grid`: {text!r} is not a name with numbers, for example `--grid t=1,20`."
            raise SettingError(msg)
        changed = [[_replaced(old, name, value) for value in values.split(",")] for old in found]
        if not any(all(new) for new in changed):
            msg = f"`--grid {text}`: none of the methods takes `{name}`."
            raise SettingError(msg)
        pairs = zip(found, changed, strict=True)
        several = [[x for x in new if x is not None] or [old] for old, new in pairs]
        found = list({x.text: x for x in itertools.chain(*several)}.values())
    return found


def parse_call(
    text: str, functions: Mapping[str, Any], what: str, example: str
) -> tuple[str, dict[str, Any]]:
    """Reads a call of one of some functions, in the grammar of settings.

    Args:
      text: `name(argument=value, ...)`, or a bare name.
      functions: the known names.
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
    return _name(call), {str(word.arg): _value(word.value, text, {}) for word in call.keywords}


def _setting(name: str, nodes: Mapping[str, ast.expr]) -> Setting:
    parameters = _parameters(name)
    call = _made(name, {key: node for key, node in nodes.items() if key not in OVERRIDES})
    text = ast.unparse(_made(name, nodes))
    overrides = {key: _value(nodes[key], text, {}) for key in OVERRIDES if key in nodes}
    for key, value in overrides.items():
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            msg = f"in `{text}`: `{key}` must be a finite number >= 0, got {value!r}."
            raise SettingError(msg)
    for key in _ELSEWHERE.keys() & nodes.keys():
        msg = f"in `{text}`: `{key}` is not a setting; {_ELSEWHERE[key]}."
        raise SettingError(msg)
    for key in nodes:
        names = [*(k for k in parameters if k not in _ELSEWHERE), *OVERRIDES]
        known(key, names, f"argument of `{name}`", SettingError)
    setting = Setting(text, name, overrides, call)
    _ = setting.cost  # what the method would refuse is refused here
    return setting


def _replaced(setting: Setting, name: str, value: str) -> Setting | None:
    """The setting with a number replaced; None if its method does not take the name."""
    nodes = {str(word.arg): word.value for word in setting.call.keywords}
    nodes |= {key: _literal(x) for key, x in setting.overrides.items()}
    law = nodes.get("noise")
    if name in _SIZES and law is not None:
        law = ast.parse(ast.unparse(law), mode="eval").body
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
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        msg = f"`{text}` is not {article}: {error.msg}. {hint}, for example `{example}`."
        raise SettingError(msg) from error
    if isinstance(node, ast.Name):
        every = [*names, *(name for name in defaults if name not in names)]
        known(node.id, every, what, SettingError)
        if node.id in defaults:
            return _as_call(defaults[node.id], names, what, example, {})
        node = ast.Call(node, [], [])
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        msg = f"`{text}` is not {article}. {hint}, for example `{example}`."
        raise SettingError(msg)
    known(node.func.id, names, what, SettingError)
    if node.args or any(word.arg is None for word in node.keywords):
        msg = f"`{text}`: arguments must be given by name, for example `{example}`."
        raise SettingError(msg)
    return node


def _value(node: ast.expr, text: str, replaced: Mapping[int, Any]) -> Any:
    """Evaluates a number, a name, a tuple, a noise law or a schedule; `replaced`, by id."""
    if id(node) in replaced:
        return replaced[id(node)]
    if isinstance(node, ast.Tuple):
        return tuple(_value(element, text, replaced) for element in node.elts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        known(node.func.id, _FUNCTIONS, "noise law or schedule", SettingError)
        args = [_value(arg, text, replaced) for arg in node.args]
        kwargs = {str(word.arg): _value(word.value, text, replaced) for word in node.keywords}
        try:
            return _FUNCTIONS[node.func.id](*args, **kwargs)
        except (TypeError, ValueError) as error:
            msg = f"in `{text}`: {error}"
            raise SettingError(msg) from error
    if isinstance(node, ast.Name):
        known(node.id, _NAMES, "value", SettingError)
        return _NAMES[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        msg = f"in `{text}`: `{ast.unparse(node)}` is not a number, a name or a noise law."
        raise SettingError(msg) from error


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


def _opened(node: ast.expr, free: set[int]) -> ast.expr:
    """A copy of a tree with some constants left open."""
    if id(node) in free:
        return ast.Name("_", ast.Load())
    if isinstance(node, ast.Tuple):
        return ast.Tuple([_opened(x, free) for x in node.elts], ast.Load())
    if isinstance(node, ast.Call):
        words = [ast.keyword(word.arg, _opened(word.value, free)) for word in node.keywords]
        return ast.Call(node.func, [_opened(x, free) for x in node.args], words)
    return node


def _name(call: ast.Call) -> str:
    return call.func.id  # type: ignore[attr-defined, no-any-return]


def _literal(value: Any) -> ast.expr:
    text = value if isinstance(value, str) else repr(value)
    return ast.parse(text, mode="eval").body


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False
