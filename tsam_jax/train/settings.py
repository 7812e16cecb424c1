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
import contextlib
import functools
import inspect
import itertools
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from tsam_jax import noise, tilting
from tsam_jax.estimator import Cost, GradientEstimator, known_cost
from tsam_jax.methods import METHODS
from tsam_jax.train import config
from tsam_jax.train.config import OVERRIDES, ConfigError, flag, shown

_SCHEDULES = (
    *("constant_schedule", "cosine_decay_schedule", "exponential_decay", "linear_schedule"),
    *("piecewise_constant_schedule", "polynomial_schedule", "warmup_cosine_decay_schedule"),
)
_LAWS = ("antithetic", "ball", "filter_scaled", "gaussian", "leaf_scaled", "orthogonal", "sphere")
_FUNCTIONS: dict[str, Any] = {name: getattr(optax, name) for name in _SCHEDULES}
_FUNCTIONS |= {name: getattr(noise, name) for name in _LAWS} | {"AutoTilt": tilting.AutoTilt}
_NAMES = {"inf": math.inf, "none": noise.none}
_CHARACTERS, _DEPTH, _SETTINGS, _NUMBER, _INTEGER = 2000, 10, 1000, 1e12, 10_000
_SIZES, _SIZE = ("radius", "rms"), re.compile(r"\b(radius|rms)=(?:[^,()]|\([^()]*\))+")
_BOUNDS = {x.name: x.metadata for x in (*fields(config.Optimizer), *fields(config.Budget))}
_ELSEWHERE = {"key": "--seed` or `--seeds", "sample_axis": "--mesh", "learning_rate": "--lr"}
_FORMS = {"method": "a setting: write a method", "optimizer": "an optimizer: write an optimizer"}
_EXAMPLES = {"method": "sam(rho=0.05)", "optimizer": "adamw(b2=0.99)"}
_require = functools.partial(config.require, error=ValueError)  # in a text, see `quoted`

_Map: TypeAlias = Mapping[str, Any]
_Texts: TypeAlias = Sequence[str]
_NONE: _Map = {}
FLAGS = ("t", "rho", "s")
"""Arguments of methods that are flags as well."""


@dataclass(frozen=True)
class Setting:
    """A method of `METHODS` with its arguments and `OVERRIDES`, parsed once.

    `text` is its canonical spelling, `cost` that of one step.
    """

    text: str
    name: str
    arguments: Mapping[str, Any] = field(repr=False, compare=False)
    overrides: Mapping[str, float]
    cost: Cost

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
        return {name: float(number.value) for name, number in _free(self._call())}

    @functools.cached_property
    def shape(self) -> str:
        """The method with `numbers` left open: equal for settings that share a program.

        Example:
          >>> [setting.shape for setting in parse("sam(rho=[0, 0.1, 0.2], lr=0.3)")]
          ['sam(rho=0)', 'sam(rho=...)', 'sam(rho=...)']
        """
        return ast.unparse(self._call(dict.fromkeys(self.numbers, ...)))

    @property
    def written(self) -> dict[str, str]:
        """The arguments and overrides as they are written, name -> text."""
        return {key: ast.unparse(node) for key, node in _words(_parsed(self.text)).items()}

    def build(self, numbers: _Map = _NONE, **axis: str) -> GradientEstimator:
        """Makes the estimator, with `numbers`, which may be traced, in place of its own.

        `axis` is the `sample_axis` of the method, if its samples are spread. Raises ConfigError if
        the method rejects its arguments.
        """
        with quoted(self.text, TypeError, ValueError):
            arguments = _values(_words(self._call(numbers)), self.text)
            return METHODS[self.name](**arguments, **axis)

    def _call(self, numbers: _Map = _NONE) -> Any:
        """The parsed text without overrides, with `numbers` in place of its own."""
        call = _parsed(self.text)
        call.keywords = [word for word in call.keywords if word.arg in self.arguments]
        for name, node in _free(call):
            node.value = numbers.get(name, node.value)
        return call


def parse(text: str, defaults: _Map = _NONE, fixed: _Map = _NONE) -> list[Setting]:
    """Reads a setting, or a grid of settings if it has lists, whose last one runs fastest.

    Args:
      text: `name(argument=value, ...)`, or a bare name.
      defaults: bare name -> setting: of a method, or of a name of its own, as the paper's ESAM1.
      fixed: values that replace those of the setting: numbers of `FLAGS`, where the method has the
        argument, and of `OVERRIDES`, where the setting has it, and None to drop it; lists of a
        grid, where either has the name.

    Raises:
      ConfigError: if the text is wrong, its method rejects it, or a flag contradicts a grid.

    Example:
      >>> [setting.text for setting in parse("sam(rho=[0.05, 0.1], lr=0.03)", fixed={"lr": 0.1})]
      ['sam(rho=0.05, lr=0.1)', 'sam(rho=0.1, lr=0.1)']
    """
    name, nodes = _read(text, METHODS, "method", defaults)
    sizes = _SIZES if "noise" in nodes else ()
    taken = {*_parameters(name), *OVERRIDES, *sizes}
    grid = [key for key, value in fixed.items() if isinstance(value, list) and key in taken]
    for key, value in fixed.items():
        if value is None:
            nodes.pop(key, None)
        elif key in grid and key in sizes:
            with quoted(text, RecursionError):
                laws = [ast.unparse(law) for law in _elements(nodes["noise"])]
            sized = [_SIZE.sub(f"{key}={number!r}", law) for law in laws for number in value]
            nodes["noise"] = _parsed(f"[{', '.join(sized)}]")
        elif key in {*grid, *nodes} or (key in FLAGS and key in taken):
            why = f"`{flag(key)}` contradicts the grid in `{shown(text)}`: give one of the two."
            config.require(key in grid or not isinstance(nodes.get(key), ast.List), why)
            nodes[key] = _parsed(repr(value))
    grids = [_elements(node) for node in nodes.values()]
    rows = (dict(zip(nodes, row, strict=True)) for row in itertools.product(*grids))
    with config.refused("--grid", *[ConfigError] * bool(grid)):  # only of what it has changed
        _check_count(text, math.prod(map(len, grids)))
        return [_setting(name, row, text) for row in rows]


def parse_all(
    texts: _Texts, defaults: _Map, everything: _Texts = (), fixed: _Map = _NONE, grid: _Texts = ()
) -> list[Setting]:
    """Reads the settings of a study, in order.

    Args:
      texts: settings or grids of settings; "all" means `everything`.
      defaults: as of `parse`.
      everything: the settings of "all".
      fixed: as of `parse`.
      grid: of `--grid`, "name=number,number": an argument of methods, "radius" or "rms" for the
        size of their noise, or one of `OVERRIDES`. Methods that do not take it keep their values.

    Raises:
      ConfigError: also if there is no setting, one is repeated, or no method takes a flag or a name
        of the grid.

    Example:
      >>> laws = ["tilted_sampling(t=1, s=2, noise=ball(rms=0.1))"]
      >>> [setting.text for setting in parse_all(laws, {}, grid=["radius=5,9"])]
      ['tilted_sampling(t=1, s=2, noise=ball(radius=5))',
       'tilted_sampling(t=1, s=2, noise=ball(radius=9))']
    """
    numbers = _read_grid(grid)
    texts = [one for text in texts for one in (everything if text == "all" else [text])]
    settings = [one for text in texts for one in parse(text, defaults, {**fixed, **numbers})]
    config.require(settings, "`--methods` needs at least one method: erm, sam, ...")
    names = ", ".join(dict.fromkeys(setting.name for setting in settings))
    taken = {key for one in settings for key in [*one.written, *_SIZE.findall(one.text)]}
    for key in FLAGS:
        why = f"`--{key}` does not apply: `{key}` is no argument of {names}."
        config.require(key in taken or key not in fixed, why)
    for key in numbers:
        why = f"`{flag(key)}` contradicts `--grid` with `{key}`: give one of the two."
        config.require(key not in fixed, why)
        config.require(key in taken, f"`--grid`: none of the methods takes `{shown(key, 50)}`.")
    times = Counter(setting.text for setting in settings)
    repeated = shown(", ".join(text for text, count in times.items() if count > 1))
    # Settings may differ in nothing but the grid.
    config.require(grid or not repeated, f"`--methods` has {repeated} more than once.")
    with config.refused("--grid", *[ConfigError] * bool(grid)):
        _check_count(", ".join(texts), len(times))
    return list({setting.text: setting for setting in settings}.values())


def _read_grid(texts: _Texts) -> dict[str, list[float]]:
    """Name -> numbers of `--grid`."""
    grid: dict[str, list[float]] = {}
    for text in texts:
        name, _, values = (part.strip() for part in text.partition("="))
        with quoted(f"--grid {text}", Exception):
            numbers = [_value(_expression(x), x) for x in values.split(",") if values]
            plain = name.isidentifier() and numbers and {*map(type, numbers)} <= {int, float}
            _require(plain, "it is not a name with numbers, as in `--grid t=1,20`.")
            twice = grid.keys() & ({*_SIZES} if name in _SIZES else {name})
            _require(not twice, "the values of a number are given more than once.")
        grid[name] = numbers
    return grid


def parse_call(text: str, functions: Mapping[str, Any], what: str) -> tuple[str, dict[str, Any]]:
    """Reads a call of one of `functions`, called `what`: its name and arguments."""
    name, nodes = _read(text, functions, what)
    with quoted(text, Exception):  # of optax, which checks little
        grid = any(isinstance(node, ast.List) for node in nodes.values())
        _require(not grid, f"a list is a grid, which an {what} has not.")
        return name, _values(nodes, text)


@contextlib.contextmanager
def quoted(text: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors into ConfigError, in one line after the text."""
    try:
        yield
    except errors as error:
        msg = f"in `{shown(text, 80)}`: {shown(str(error), 300)}"
        raise ConfigError(msg) from error


def _setting(name: str, nodes: _Map, source: str) -> Setting:
    """Makes a setting, whose errors quote the source, and checks it."""
    parameters = _parameters(name)
    with quoted(source, Exception):
        values = _values(nodes, source)
        for key, value in values.items():
            _known(key, [*parameters, *OVERRIDES], f"argument of `{name}`")
            rule = config.broken_rule(value, _BOUNDS[key]) if key in OVERRIDES else ""
            if key in {"adapt", "mask", "split_batch"} and not isinstance(value, bool):
                rule = "True or False"
            elif isinstance(value, int) and value > _INTEGER and "int" in str(parameters.get(key)):
                rule = f"at most {_INTEGER}"
            _require(not rule, f"`{key}` must be {rule}, got {value!r}.")
    overrides = {key: values.pop(key) for key in OVERRIDES if key in values}
    call = ast.Call(ast.Name(name), [], [ast.keyword(*word) for word in nodes.items()])
    text = ast.unparse(call)
    with quoted(text, TypeError, ValueError):
        return Setting(text, name, values, overrides, known_cost(METHODS[name](**values).cost))


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.List) else [node]


def _parsed(text: str) -> Any:
    return ast.parse(text, mode="eval").body


def _read(text: str, names: _Map, what: str, defaults: _Map = _NONE) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a call, a bare name being one without arguments."""
    example = _EXAMPLES[what]
    form = f"{_FORMS[what]} with its arguments, for example `{example}`"
    match _expression(text, form):
        case ast.Name(id=name):
            _known(name, {*names, *defaults}, what, ConfigError)
            return _read(defaults[name], names, what) if name in defaults else (name, {})
        case ast.Call(func=ast.Name(id=name), args=args) as call:
            _known(name, names, what, ConfigError)
            options = _ELSEWHERE | ({x: flag(x) for x in OVERRIDES} if names is not METHODS else {})
            with quoted(text, ValueError):
                _require(not args, f"arguments must be given by name, for example `{example}`.")
                nodes = _words(call)
                given = [f"`{key}` as `{options[key]}`" for key in nodes if key in options]
                _require(not given, f"give {' and '.join(given)}.")
            return name, nodes
    msg = f"`{shown(text)}` is not {form}."
    raise ConfigError(msg)


def _expression(text: str, form: str = "a number") -> Any:
    try:
        long = f"there are {len(text)} characters, of at most {_CHARACTERS}"
        _require(len(text) <= _CHARACTERS, long)
        with warnings.catch_warnings(action="error", category=SyntaxWarning):
            return _parsed(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = shown(getattr(error, "msg", str(error)), 100)
        msg = f"`{shown(text)}` is not {form} ({reason})."
        raise ConfigError(msg) from error


def _words(call: ast.Call) -> dict[str, Any]:
    """The arguments of a call that are given by name."""
    words = {word.arg or "**": word.value for word in call.keywords}
    _require(len(words) == len(call.keywords), "an argument is given twice.")
    return words


def _values(nodes: _Map, text: str) -> dict[str, Any]:
    return {key: _value(node, text, law=key == "noise") for key, node in nodes.items()}


def _value(node: Any, text: str, *, law: bool = False, depth: int = 1) -> Any:
    """Evaluates a number, text, name, tuple or call; a noise law only where one must be."""
    inner = functools.partial(_value, text=text, depth=depth + 1)
    match node if depth <= _DEPTH else None:
        case ast.Tuple(elts=elements):
            return tuple(map(inner, elements))
        case ast.Name(id=name):
            _known(name, _NAMES, "value")
            _require(law or name != "none", "`none` is a noise law.")
            return _NAMES[name]
        case ast.Call(func=ast.Name(id=name), args=args):
            _known(name, _FUNCTIONS, "noise law or schedule")
            _require((name in _LAWS) == law, f"`{name}` is {'no' if law else 'a'} noise law.")
            inner = functools.partial(inner, law=name in {"antithetic", "orthogonal"})
            words = {key: inner(one) for key, one in _words(node).items()}
            made = _FUNCTIONS[name](*map(inner, args), **words)
            return _checked_schedule(made) if name in _SCHEDULES else made
        case ast.Constant(value=value) if not isinstance(value, bytes | complex | type(...)):
            bounded = not isinstance(value, int | float) or abs(value) <= _NUMBER
            _require(bounded, f"a number is beyond {_NUMBER:g}; infinity is `inf`.")
            return value
        case ast.UnaryOp(ast.UAdd() | ast.USub(), ast.Constant(value=x)) if type(x) in {int, float}:
            return inner(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
        case ast.Dict(keys=keys) if depth > 1 and all(isinstance(x, ast.Constant) for x in keys):
            return dict(zip(map(inner, keys), map(inner, node.values), strict=True))
    part = shown(ast.get_source_segment(text.strip(), node) or "", 60)
    msg = f"`{part}` is not a number, a name or a noise law."
    raise ValueError(msg)


def _checked_schedule(schedule: Any) -> Any:
    """The schedule, if its values are finite and >= 0."""
    with jax.ensure_compile_time_eval():  # a program may be tracing the method
        values = [(step, schedule(jnp.int32(step))) for step in (0, *(10**k for k in range(7)))]
        odd = [f"{x} at step {i}" for i, x in values if jnp.shape(x) or not 0 <= x < math.inf]
    _require(not odd, f"a schedule must be a finite number >= 0, but is {' '.join(odd[:1])}.")
    return schedule


def _free(node: Any, name: str = "", hint: Any = None) -> Iterator[tuple[str, Any]]:
    """The numbers of a call that may be traced, by name; a schedule may use its own in Python."""
    parts: list[Any] = []
    match node:
        case ast.Constant(value=x) if x and type(x) in {int, float} and "Array" in str(hint):
            yield name, node
        case ast.Tuple(elts=elements):
            parts = [(place, one, hint) for place, one in enumerate(elements)]
        case ast.Call(func=ast.Name(id=function), args=args):
            own: _Map = {} if function in _SCHEDULES else _parameters(function)
            words = [*zip(own, args, strict=False), *((str(x.arg), x.value) for x in node.keywords)]
            parts = [(key, one, own.get(key)) for key, one in words]
    for key, one, hint in parts:
        yield from _free(one, f"{name}.{key}".lstrip("."), hint)


@functools.cache
def _parameters(function: str) -> dict[str, inspect.Parameter]:
    """The parameters of a function, those of `tsam` for its other spelling's `**options`."""
    own = dict(inspect.signature((METHODS | _FUNCTIONS)[function]).parameters)
    own = _parameters("tsam") | own if own.pop("options", None) else own
    return {name: own[name] for name in own if name not in _ELSEWHERE}


def _known(name: str, names: Iterable[str], what: str, error: type[Exception] = ValueError) -> None:
    config.known(shown(name, 50), names, what, error)


def _check_count(text: str, count: int) -> None:
    with quoted(text, ValueError):
        _require(count, "an empty list: a list is a grid and needs at least one value.")
        _require(count <= _SETTINGS, f"a grid of {count} settings, of at most {_SETTINGS}.")
