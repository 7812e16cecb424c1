"""Base optimizers of optax by name, with schedule, clipping and weight decay."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from tsam_jax.train.config import ConfigError, Optimizer
from tsam_jax.train.settings import SettingError, parse_call

_EXAMPLE = "adamw(b2=0.99)"
_STEP_FACTOR, _STEP_AT = 0.2, (0.3, 0.6, 0.8)


def _of_optax() -> dict[str, Callable[..., Any]]:
    """The aliases of optax that need a gradient and the parameters, and nothing else."""
    found = {}
    for name, function in vars(optax).items():
        public = inspect.isfunction(function) and not name.startswith(("_", "scale_by_"))
        if public and "learning_rate" in inspect.signature(function).parameters:
            found[name] = function
    del found["lbfgs"]  # searches along a line: it evaluates the loss by itself
    del found["optimistic_adam"]  # deprecated for optimistic_adam_v2
    del found["noisy_sgd"]  # draws from a key of its own, the same for all seeds
    return found


OPTIMIZERS: Mapping[str, Callable[..., Any]] = _of_optax()
"""Name -> function of optax."""


def make_base(
    optimizer: Optimizer, *, steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Makes the base optimizer.

    In this order: the gradient estimate is clipped to the global norm `clip`; weight decay is added
    to it, if the optimizer has none of its own (L2, coupled, as torch's SGD); then the optimizer,
    with its own decoupled weight decay, if it has one.

    Args:
      optimizer: the configuration.
      steps: optimizer steps of the whole training, over which the schedule runs.
      steps_per_epoch: for `warmup`, which is in epochs.

    Returns:
      The transformation.

    Raises:
      SettingError: if `base` is not an optimizer of optax, or refuses its arguments.
      ConfigError: if the warm-up is longer than the training.

    Example:
      >>> import jax.numpy as jnp
      >>> base = make_base(
      ...     Optimizer(base="sgd", lr=0.5, momentum=0.0, weight_decay=0.0),
      ...     steps=10,
      ...     steps_per_epoch=5,
      ... )
      >>> params = jnp.array([1.0])
      >>> base.update(jnp.array([2.0]), base.init(params), params)[0].item()
      -1.0
    """
    name, arguments = parse_call(optimizer.base, OPTIMIZERS, "optimizer", _EXAMPLE)
    function = OPTIMIZERS[name]
    parameters = inspect.signature(function).parameters
    given = {"learning_rate": schedule(optimizer, steps=steps, steps_per_epoch=steps_per_epoch)}
    own_decay = "weight_decay" in parameters
    if own_decay:
        given["weight_decay"] = optimizer.weight_decay
    if "momentum" in parameters:
        given["momentum"] = optimizer.momentum
    for argument in arguments.keys() & {"learning_rate", "weight_decay"}:
        option = {"learning_rate": "lr", "weight_decay": "weight-decay"}[argument]
        msg = f"in `--base {optimizer.base}`: give `{argument}` as `--{option}`."
        raise SettingError(msg)
    try:
        main = function(**(given | arguments))
    except (TypeError, ValueError) as error:
        msg = f"in `--base {optimizer.base}`: {error}"
        raise SettingError(msg) from error
    parts = [] if optimizer.clip is None else [optax.clip_by_global_norm(optimizer.clip)]
    if not own_decay:
        parts.append(optax.add_decayed_weights(optimizer.weight_decay))
    return optax.chain(*parts, main)


def schedule(
    optimizer: Optimizer, *, steps: int, steps_per_epoch: int
) -> float | Callable[[Any], Any]:
    """The learning rate, or its schedule: a linear warm-up, and then what `schedule` says.

    "step": times 0.2 after 30, 60 and 80 % of the steps, as in the example of davda54's SAM, from
    which the paper's code comes; "cosine": half a period down to 0.

    Args:
      optimizer: the configuration.
      steps: optimizer steps of the whole training.
      steps_per_epoch: for `warmup`, which is in epochs.

    Returns:
      A number if it is constant, or a function of the step.

    Raises:
      ConfigError: if the warm-up is longer than the training.

    Example:
      >>> cosine = schedule(Optimizer(lr=1.0, schedule="cosine"), steps=10, steps_per_epoch=5)
      >>> [round(float(cosine(step)), 3) for step in (0, 5, 10)]
      [1.0, 0.5, 0.0]
    """
    warmup = round(optimizer.warmup * steps_per_epoch)
    after = steps - warmup
    if after <= 0 and warmup:
        msg = (
            f"`--warmup` must be shorter than the training of {steps / steps_per_epoch:g} epochs,"
            f" got {optimizer.warmup:g}."
        )
        raise ConfigError(msg)
    lr = optimizer.lr
    main: float | Callable[[Any], Any] = lr
    if optimizer.schedule == "cosine":
        main = optax.cosine_decay_schedule(lr, after)
    elif optimizer.schedule == "step":
        drops = {round(share * after): _STEP_FACTOR for share in _STEP_AT}
        main = optax.piecewise_constant_schedule(lr, drops)
    if not warmup:
        return main
    rising = optax.linear_schedule(lr / (warmup + 1), lr, warmup)  # its first step is not idle
    falling = main if callable(main) else optax.constant_schedule(main)
    joined: Callable[[Any], Any] = optax.join_schedules([rising, falling], [warmup])
    return joined
