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
import contextlib
import copy
import dataclasses
import functools
import inspect
import itertools
import math
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tsam_jax import noise, tilting
from tsam_jax.estimator import Cost, GradientEstimator, known_cost
from tsam_jax.methods import METHODS
from tsam_jax.train import config
from tsam_jax.train.config import OVERRIDES, shown

_SCHEDULES: tuple[str, ...] = ("constant_schedule", "cosine_decay_schedule", "exponential_decay")
_SCHEDULES += ("linear_schedule", "piecewise_constant_schedule", "polynomial_schedule")
_SCHEDULES += ("warmup_cosine_decay_schedule",)
_LAWS = ("antithetic", "ball", "filter_scaled", "gaussian", "leaf_scaled", "orthogonal", "sphere")
_TRACEABLE: dict[str, Any] = {name: getattr(noise, name) for name in _LAWS}
_TRACEABLE |= {"AutoTilt": tilting.AutoTilt}
_FUNCTIONS = {**{name: getattr(optax, name) for name in _SCHEDULES}, **_TRACEABLE}
_NAMES = {"inf": math.inf, "none": noise.none}
_BOUNDS = {
    x.name: x.metadata
    for kind in (config.Optimizer, config.Budget)
    for x in dataclasses.fields(kind)
}
_SWITCHES = ("adapt", "mask", "split_batch")
_CHARACTERS, _DEPTH, _SETTINGS, _NUMBER, _INTEGER = 2000, 10, 1000, 1e12, 10_000
_STEPS = (0, *(10**k for k in range(7)))
_ELSEWHERE = {"key": "`--seed` or `--seeds`", "sample_axis": "`--mesh`"}
_SIZES = ("radius", "rms")
_NO_VALUES = (bytes, complex, types.EllipsisType)
_FORMS = {
    "method": ("a setting: write a method", "sam(rho=0.05)"),
    "optimizer": ("an optimizer: write an optimizer", "adamw(b2=0.99)"),
}
FLAGS = ("t", "rho", "s")
"""Arguments of methods that are flags as well."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A method of `METHODS` with its arguments and `OVERRIDES`, parsed once.

    `text` is its canonical spelling, `nodes` has the parsed values of both, `arguments` and
    `overrides` the evaluated ones.
    """

    text: str
    name: str
    nodes: Mapping[str, ast.expr] = dataclasses.field(repr=False, compare=False)
    arguments: Mapping[str, Any] = dataclasses.field(repr=False, compare=False)
    overrides: Mapping[str, float]

    @functools.cached_property
    def cost(self) -> Cost:
        """Cost of one step; building the estimator checks all arguments."""
        return known_cost(self.build().cost)

    @property
    def price(self) -> float:
        """Cost of one step in gradient evaluations, a loss evaluation as a third of one."""
        return self.cost.gradients + config.VALUE_COST * self.cost.values

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
        found: dict[str, float] = {}
        self._changed(lambda name, value: found.setdefault(name, float(value)))
        return found

    @functools.cached_property
    def shape(self) -> str:
        """The setting with `numbers` left open: equal for settings that share a program.

        Example:
          >>> [setting.shape for setting in parse("sam(rho=[0, 0.1, 0.2])")]
          ['sam(rho=0)', 'sam(rho=...)', 'sam(rho=...)']
        """
        return _text(self.name, self._changed(lambda *_: ...))

    @property
    def written(self) -> dict[str, str]:
        """The arguments and overrides as they are written, name -> text."""
        return {name: ast.unparse(node) for name, node in self.nodes.items()}

    def build(
        self, numbers: Mapping[str, Any] | None = None, *, sample_axis: str | None = None
    ) -> GradientEstimator:
        """Makes the estimator, with `numbers`, which may be traced, in place of its own.

        `sample_axis` is the mesh axis over which the samples are spread. Raises ConfigError if the
        method rejects its arguments.
        """
        arguments = dict(self.arguments)
        if numbers:
            nodes = self._changed(lambda name, value: numbers.get(name, value))
            arguments = {key: _value(x, self.text, law=key == "noise") for key, x in nodes.items()}
        if sample_axis is not None:
            arguments["sample_axis"] = sample_axis
        try:
            return METHODS[self.name](**arguments)
        except (TypeError, ValueError) as error:
            raise wrong(self.text, error) from error

    def takes(self, name: str) -> bool:
        """Whether the method has an argument of this name."""
        return name in _parameters(self.name)

    def _changed(self, change: Callable[[str, Any], Any]) -> dict[str, ast.expr]:
        """A copy of the arguments with (name, value) -> another value for each of `numbers`."""
        nodes = {key: copy.deepcopy(self.nodes[key]) for key in self.arguments}
        for key, node in nodes.items():
            for name, free in _free(key, node, _parameters(self.name)[key]):
                free.value = change(name, free.value)
        return nodes


def parse(
    text: str,
    defaults: Mapping[str, str] | None = None,
    fixed: Mapping[str, float | None] | None = None,
    grid: Mapping[str, list[ast.expr]] | None = None,
) -> list[Setting]:
    """Reads a setting, or a grid of settings if it has lists, whose last one runs fastest.

    Args:
      text: `name(argument=value, ...)`, or a bare name.
      defaults: bare name -> setting: of a method, or of a name of its own, as the paper's ESAM1.
      fixed: values of flags, which replace those of the setting: of `FLAGS`, where the method has
        the argument, and of `OVERRIDES`, where the setting has it; None drops it.
      grid: of `read_grid`; its values replace those of a setting that takes the name.

    Raises:
      ConfigError: if the text is wrong, its method rejects it, or a flag contradicts a grid.

    Example:
      >>> [setting.text for setting in parse("sam(rho=[0.05, 0.1], lr=0.03)", fixed={"lr": 0.1})]
      ['sam(rho=0.05, lr=0.1)', 'sam(rho=0.1, lr=0.1)']
    """
    name, nodes = _read(text, METHODS, "method", defaults or {})
    for key, value in (fixed or {}).items():
        if value is None:
            nodes.pop(key, None)
        elif isinstance(nodes.get(key), ast.List):
            raise _contradiction(key, f"the grid in `{shown(text)}`")
        elif key in nodes or (key in FLAGS and key in _parameters(name)):
            nodes[key] = _expression(repr(value))
    sized = _SIZES if "noise" in nodes else ()
    names = {*_parameters(name), *OVERRIDES, *sized}
    own = {key: numbers for key, numbers in (grid or {}).items() if key in names}
    for key, numbers in own.items():
        if key in sized:
            laws = _elements(nodes["noise"])
            nodes["noise"] = ast.List([_resized(law, key, x) for law in laws for x in numbers])
        else:
            nodes[key] = ast.List(numbers)
    grids = [_elements(node) for node in nodes.values()]
    if not all(grids):
        raise wrong(text, "an empty list: a list is a grid and needs at least one value.")
    with config.refused("--grid", config.ConfigError) if own else contextlib.nullcontext():
        _check_count(math.prod(map(len, grids)), text)
        rows = (dict(zip(nodes, values, strict=True)) for values in itertools.product(*grids))
        return [_setting(name, row, text) for row in rows]


def parse_all(
    texts: Sequence[str],
    defaults: Mapping[str, str],
    everything: Sequence[str] = (),
    fixed: Mapping[str, float | None] | None = None,
    grid: Sequence[str] = (),
) -> list[Setting]:
    """Reads the settings of a study, in order.

    Args:
      texts: settings or grids of settings; "all" means `everything`.
      defaults: as of `parse`.
      everything: the settings of "all".
      fixed: as of `parse`.
      grid: as of `read_grid`. A setting whose method does not take a name keeps its own values.

    Raises:
      ConfigError: also if there is no setting, one is repeated, or no method takes a flag or a name
        of the grid.

    Example:
      >>> laws = ["tilted_sampling(t=1, s=2, noise=ball(rms=0.1))"]
      >>> [setting.text for setting in parse_all(laws, {}, grid=["radius=5,9"])]
      ['tilted_sampling(t=1, s=2, noise=ball(radius=5))',
       'tilted_sampling(t=1, s=2, noise=ball(radius=9))']
    """
    fixed, numbers = fixed or {}, read_grid(grid)
    if both := [key for key in numbers if key in fixed]:
        raise _contradiction(both[0], f"`--grid` with `{both[0]}`")
    texts = list(itertools.chain(*(everything if text == "all" else [text] for text in texts)))
    settings = [one for text in texts for one in parse(text, defaults, fixed, numbers)]
    config.require(settings, "`--methods` needs at least one method: erm, sam, ...")
    names = ", ".join(dict.fromkeys(setting.name for setting in settings))
    for key in (key for key in FLAGS if key in fixed):
        why = f"`--{key}` does not apply: `{key}` is no argument of {names}."
        config.require(any(setting.takes(key) for setting in settings), why)
    for key in numbers:
        why = f"`--grid`: none of the methods takes `{shown(key, 50)}`."
        sized = key in _SIZES and any(f"{key}=" in x.text for x in settings)
        config.require(sized or any(key in x.nodes for x in settings), why)
    if grid:  # settings may differ in nothing else
        settings = list({setting.text: setting for setting in settings}.values())
    with config.refused("--grid", config.ConfigError) if grid else contextlib.nullcontext():
        _check_count(len(settings), ", ".join(texts))
    times = collections.Counter(setting.text for setting in settings)
    repeated = ", ".join(text for text, count in times.items() if count > 1)
    config.require(not repeated, f"`--methods` has {shown(repeated)} more than once.")
    return settings


def read_grid(texts: Sequence[str]) -> dict[str, list[ast.expr]]:
    """Reads `--grid`: name -> numbers.

    A text is "name=number,number" with an argument of methods, "radius" or "rms" for the size of
    their noise, or one of `OVERRIDES`.

    Raises:
      ConfigError: if a text is not of this form, or a name is there twice.
    """
    grid: dict[str, list[ast.expr]] = {}
    for text in texts:
        with config.refused("--grid", config.ConfigError):
            name, _, values = (part.strip() for part in text.partition("="))
            why = f"`{shown(text)}` is not a name with numbers, as in `--grid t=1,20`."
            config.require(name.isidentifier() and values, why)
            numbers = [_expression(value) for value in values.split(",")]
            plain = all(type(_value(number, text)) in {int, float} for number in numbers)
            config.require(plain, why)
            twice = grid.keys() & ({*_SIZES} if name in _SIZES else {name})
            config.require(not twice, f"the values of `{name}` are given more than once.")
            grid[name] = numbers
    return grid


def parse_call(text: str, functions: Mapping[str, Any], what: str) -> tuple[str, dict[str, Any]]:
    """Reads a call of one of `functions`, called `what`, in the grammar of settings.

    Example:
      >>> parse_call("adamw(b2=0.99)", {"adamw": None}, "optimizer")
      ('adamw', {'b2': 0.99})
    """
    name, nodes = _read(text, functions, what, {})
    if any(isinstance(node, ast.List) for node in nodes.values()):
        raise wrong(text, f"a list is a grid, which an {what} has not.")
    return name, {key: _value(node, text) for key, node in nodes.items()}


def wrong(text: str, why: object) -> config.ConfigError:
    """Makes the error of a text, in one line."""
    return config.ConfigError(f"in `{shown(text)}`: {shown(str(why), 240)}")


def _setting(name: str, nodes: Mapping[str, ast.expr], source: str) -> Setting:
    """Makes a setting, whose errors quote the source, and checks it."""
    parameters, values = _parameters(name), {}
    for key, node in nodes.items():
        if key in _ELSEWHERE:
            raise wrong(source, f"give `{key}` as {_ELSEWHERE[key]}.")
        _check_known(key, [*parameters, *OVERRIDES], f"argument of `{name}`")
        values[key] = value = _value(node, source, law=key == "noise")
        rule = config.broken_rule(value, _BOUNDS[key]) if key in OVERRIDES else ""
        if key in _SWITCHES and not isinstance(value, bool):
            rule = "True or False"
        elif isinstance(value, int) and "int" in str(parameters.get(key)) and value > _INTEGER:
            rule = f"at most {_INTEGER}"
        if rule:
            raise wrong(source, f"`{key}` must be {rule}, got {value!r}.")
    overrides = {key: values.pop(key) for key in OVERRIDES if key in values}
    setting = Setting(_text(name, nodes), name, nodes, values, overrides)
    _ = setting.cost  # raises the errors of the method
    return setting


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.List) else [node]


def _resized(law: ast.expr, name: str, number: ast.expr) -> ast.expr:
    """The noise law with another size; as it is, if it has none."""
    law = copy.deepcopy(law)
    for word in ast.walk(law):
        if isinstance(word, ast.keyword) and word.arg in _SIZES:
            word.arg, word.value = name, number
    return law


def _read(
    text: str, names: Mapping[str, Any], what: str, defaults: Mapping[str, str]
) -> tuple[str, dict[str, ast.expr]]:
    """The name and the parsed arguments of a call, a bare name being one without arguments."""
    start, example = _FORMS[what]
    form = f"{start} with its arguments, for example `{example}`"
    node = _expression(text, form)
    if isinstance(node, ast.Name):
        _check_known(node.id, dict.fromkeys([*names, *defaults]), what)
        if node.id in defaults:
            return _read(defaults[node.id], names, what, {})
        return node.id, {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        msg = f"`{shown(text)}` is not {form}."
        raise config.ConfigError(msg)
    _check_known(node.func.id, names, what)
    if node.args:
        raise wrong(text, f"arguments must be given by name, for example `{example}`.")
    return node.func.id, _words(node, text)


def _expression(text: str, form: str = "a number") -> ast.expr:
    if len(text) > _CHARACTERS:
        raise wrong(text, f"there are {len(text)} characters, of at most {_CHARACTERS}.")
    try:
        with warnings.catch_warnings(action="error", category=SyntaxWarning):
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = shown(getattr(error, "msg", str(error)), 100)
        msg = f"`{shown(text)}` is not {form} ({reason})."
        raise config.ConfigError(msg) from error


def _words(call: ast.Call, text: str) -> dict[str, ast.expr]:
    """The arguments of a call that are given by name."""
    words = {word.arg or "**": word.value for word in call.keywords}
    if len(words) < len(call.keywords):
        raise wrong(text, "an argument is given twice.")
    if "**" in words:
        raise wrong(text, "`**` is not a number, a name or a noise law.")
    return words


def _value(node: ast.expr, text: str, *, law: bool = False, depth: int = 1) -> Any:
    """Evaluates a number, text, name, tuple or call; a noise law only where one must be."""
    inner = functools.partial(_value, text=text, depth=depth + 1)
    match node:
        case _ if depth > _DEPTH:
            pass
        case ast.Tuple():
            return tuple(map(inner, node.elts))
        case ast.Call(func=ast.Name(id=name)):
            _check_known(name, _FUNCTIONS, "noise law or schedule")
            if (name in _LAWS) != law:
                raise wrong(text, f"`{name}` is {'no' if law else 'a'} noise law.")
            laws = name in {"antithetic", "orthogonal"}
            args = [inner(one, law=laws) for one in node.args]
            words = {key: inner(one, law=laws) for key, one in _words(node, text).items()}
            try:
                made = _FUNCTIONS[name](*args, **words)
                return _checked_schedule(made) if name in _SCHEDULES else made
            except Exception as error:  # of optax, which checks little
                raise wrong(text, error) from error
        case ast.Name(id=name):
            _check_known(name, _NAMES, "value")
            if name == "none" and not law:
                raise wrong(text, "`none` is a noise law.")
            return _NAMES[name]
        case ast.Constant(value=value) if not isinstance(value, _NO_VALUES):
            if isinstance(value, int | float) and not abs(value) <= _NUMBER:
                raise wrong(text, f"a number is beyond {_NUMBER:g}; infinity is `inf`.")
            return value
        case ast.UnaryOp(operand=ast.Constant() as one) if type(one.value) in {int, float}:
            if isinstance(node.op, ast.UAdd | ast.USub):
                return inner(one) * (-1 if isinstance(node.op, ast.USub) else 1)
        case ast.Dict(keys=keys, values=values) if depth > 1:  # of a piecewise constant schedule
            if all(isinstance(key, ast.Constant) for key in keys):
                return dict(zip(map(inner, keys), map(inner, values), strict=True))
    part = shown(ast.get_source_segment(text.strip(), node) or "", 60)
    raise wrong(text, f"`{part}` is not a number, a name or a noise law.")


def _checked_schedule(schedule: Any) -> Any:
    """The schedule, if its values are finite and >= 0."""
    for step in _STEPS:
        with jax.ensure_compile_time_eval():  # a program may be tracing the method
            value = schedule(jnp.int32(step))
        if jnp.shape(value) or not 0 <= float(value) < math.inf:
            msg = f"a schedule must be a finite number >= 0, but is {value} at step {step}."
            raise ValueError(msg)
    return schedule


def _free(
    name: str, node: ast.expr, parameter: inspect.Parameter | None
) -> Iterator[tuple[str, ast.Constant]]:
    """The constants of an argument that may be traced, as its annotation tells, by name."""
    if parameter is None or "Array" not in str(parameter.annotation):
        return
    if isinstance(node, ast.Tuple):
        for place, one in enumerate(node.elts):
            yield from _free(f"{name}.{place}", one, parameter)
    elif isinstance(node, ast.Call) and (function := _TRACEABLE.get(ast.unparse(node.func))):
        own = inspect.signature(function).parameters  # a schedule may use its numbers in Python
        words = [(str(word.arg), word.value) for word in node.keywords]
        for key, one in [*zip(own, node.args, strict=False), *words]:
            yield from _free(f"{name}.{key}", one, own.get(key))
    elif isinstance(node, ast.Constant) and type(x := node.value) in {int, float}:
        yield from [(name, node)] if x and math.isfinite(x) else []  # type: ignore[arg-type]


@functools.cache
def _parameters(method: str) -> dict[str, inspect.Parameter]:
    """What is written of a method: with those of `tsam` for its other spelling's `**options`."""
    own = dict(inspect.signature(METHODS[method]).parameters)
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        own = _parameters("tsam") | own
    own = {name: p for name, p in own.items() if p.kind is not p.VAR_KEYWORD}
    return {name: p for name, p in own.items() if name not in _ELSEWHERE}


def _text(name: str, nodes: Mapping[str, ast.expr]) -> str:
    """The canonical spelling of a call."""
    words = ", ".join(f"{key}={ast.unparse(node)}" for key, node in nodes.items())
    return f"{name}({words})"


def _check_known(name: str, names: Iterable[str], what: str) -> None:
    config.known(shown(name, 50), names, what)


def _check_count(count: int, text: str) -> None:
    if count > _SETTINGS:
        raise wrong(text, f"a grid of {count} settings, of at most {_SETTINGS}.")


def _contradiction(option: str, other: str) -> config.ConfigError:
    return config.ConfigError(f"`{config.flag(option)}` contradicts {other}: give one of the two.")
