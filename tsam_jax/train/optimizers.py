"""Base optimizers of optax by name, with schedule, clipping and weight decay.

Arguments in `--base` are numbers >= 0, those that `_BELOW_ONE` names less than 1, or of the type of
their default.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tsam_jax.train.config import Optimizer, require
from tsam_jax.train.settings import parse_call, quoted

_LEFT_OUT = {
    "lbfgs": "searches along a line: it evaluates the loss itself",
    "optimistic_adam": "deprecated for optimistic_adam_v2",
    "noisy_sgd": "draws from a key of its own, the same for all seeds",
}
_BELOW_ONE = ("b1", "b2", "b3", "beta", "decay", "decay_rate", "rho")
NUMBERS = ("lr", "weight_decay", "momentum")
"""Numbers of an `Optimizer` that a compiled program takes as arguments."""

OPTIMIZERS: Mapping[str, Callable[..., Any]] = {
    name: function
    for name, function in vars(optax).items()
    if inspect.isfunction(function) and name not in _LEFT_OUT
    if not name.startswith(("_", "scale_by_"))
    if "learning_rate" in inspect.signature(function).parameters
}
"""Name -> alias of optax that needs nothing but a gradient and the parameters."""


def _step(lr: Any, steps: int) -> optax.Schedule:
    drops = [round(fraction * steps) for fraction in (0.3, 0.6, 0.8)]  # equal in a short training
    return optax.piecewise_constant_schedule(lr, {at: 0.2 ** drops.count(at) for at in drops})


SCHEDULES: Mapping[str, Callable[[Any, int], Any]] = {
    "constant": lambda lr, steps: lr,  # noqa: ARG005
    "linear": lambda lr, steps: optax.linear_schedule(lr, 0.0, steps),
    "cosine": optax.cosine_decay_schedule,
    "step": _step,
}
"""Name -> (learning rate after the warm-up, steps left) -> a number, or a function of the step."""


@functools.cache
def parse_base(text: str) -> tuple[str, dict[str, Any]]:
    """Reads `--base`: the name of an optimizer of optax, or a call with arguments by name.

    Raises:
      ConfigError: if it is no optimizer of optax, with the nearest name; or if an argument is
        wrong, has an option of its own, or fails in a step of the optimizer.
    """
    name, arguments = parse_call(text, OPTIMIZERS, "optimizer")
    parameters = inspect.signature(OPTIMIZERS[name]).parameters
    with quoted(f"--base {text}", Exception):  # of optax, which checks little
        for key in (key for key in arguments if key in parameters):
            rule = _rule(parameters[key], arguments[key])
            require(not rule, f"`{key}` must be {rule}, got {arguments[key]!r}.", ValueError)
        base = OPTIMIZERS[name](learning_rate=0.1, **arguments)
        params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
        jax.eval_shape(lambda x: base.update(x, base.init(x), x), params)
    return name, arguments


def _rule(parameter: inspect.Parameter, value: Any) -> str:
    """The rule that an argument of an optimizer breaks, or ""."""
    name, default = parameter.name, parameter.default
    number = type(value) in {int, float} and 0 <= value < math.inf
    rules = (  # whether it applies, is kept, and is called: the first that applies
        (value is None and (default is None or "None" in str(parameter.annotation)), True, ""),
        ("dtype" in name, isinstance(value, str), "the name of a type"),
        ("mask" in name or isinstance(default, bool), isinstance(value, bool), "True or False"),
        (name in _BELOW_ONE and default != 1, number and value < 1, "a number >= 0 and < 1"),
        (isinstance(default, int), number and isinstance(value, int), "an integer >= 0"),
        (True, number, "a finite number >= 0"),
    )
    return next("" if kept else rule for applies, kept, rule in rules if applies)


def make_base(
    optimizer: Optimizer, *, steps: int, steps_per_epoch: int, numbers: Mapping[str, Any] = {}
) -> optax.GradientTransformation:
    """Makes the base optimizer.

    In this order: the gradient estimate is clipped to the global norm `clip`; weight decay is added
    to it, if the optimizer has none of its own (L2, coupled, as torch's SGD); then the optimizer,
    with its own decoupled weight decay, if it has one.

    `numbers` replace those of the configuration, and may be traced.

    Raises:
      ConfigError: if `base` is wrong or takes no schedule, or the warm-up is too long.

    Example:
      >>> sgd = Optimizer(base="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)
      >>> base, params = make_base(sgd, steps=10, steps_per_epoch=5), jnp.array([1.0])
      >>> base.update(jnp.array([2.0]), base.init(params), params)[0].item()
      -1.0
    """
    name, arguments = parse_base(optimizer.base)
    parameters = inspect.signature(OPTIMIZERS[name]).parameters
    own = {key: getattr(optimizer, key) for key in NUMBERS} | dict(numbers)
    rate = schedule(optimizer, own["lr"], steps=steps, steps_per_epoch=steps_per_epoch)
    why = f"`--base {name}` takes no schedule: give `--schedule constant --warmup 0`."
    require("Callable" in str(parameters["learning_rate"].annotation) or not callable(rate), why)
    arguments = arguments | {key: own[key] for key in NUMBERS if key in parameters}
    parts = [] if optimizer.clip is None else [optax.clip_by_global_norm(optimizer.clip)]
    if "weight_decay" not in parameters:
        parts.append(optax.add_decayed_weights(own["weight_decay"]))
    return optax.chain(*parts, OPTIMIZERS[name](learning_rate=rate, **arguments))


def schedule(optimizer: Optimizer, lr: Any, *, steps: int, steps_per_epoch: int) -> Any:
    """The learning rate, or its schedule: a linear warm-up, and then one of `SCHEDULES`.

    "linear" and "cosine" (half a period) fall to 0; "step": times 0.2 after 30, 60 and 80 % of the
    steps, as in the example of davda54's SAM, from which the paper's code comes.

    `steps` are those of the whole training; `lr` is reached after the warm-up, and may be traced.

    Raises:
      ConfigError: if the warm-up is longer than the training.

    Example:
      >>> cosine = schedule(Optimizer(schedule="cosine"), 1.0, steps=10, steps_per_epoch=5)
      >>> [round(float(cosine(step)), 3) for step in (0, 5, 10)]
      [1.0, 0.5, 0.0]
    """
    warmup = round(optimizer.warmup * steps_per_epoch)
    epochs = f"{steps / steps_per_epoch:g} epochs, got {optimizer.warmup:g}"
    why = f"`--warmup` must be shorter than the training of {epochs}."
    require(not warmup or steps > warmup, why)
    main = SCHEDULES[optimizer.schedule](lr, steps - warmup)
    if not warmup:
        return main
    rising = optax.linear_schedule(lr / (warmup + 1), lr, warmup)  # its first step is not idle
    falling = main if callable(main) else optax.constant_schedule(main)
    return optax.join_schedules([rising, falling], [warmup])
