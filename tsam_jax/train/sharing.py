"""Settings that share shapes, trained by one compiled program whose arguments are their numbers.

A program is compiled for a method, its number of samples and what else shapes the computation. t,
rho, the size of the noise, learning rate, weight decay and momentum enter as values: they can
change without compiling anew, and be mapped over.
"""

import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from tsam_jax.estimator import value_and_grad
from tsam_jax.train import config, loop
from tsam_jax.train.network import Batch, Network
from tsam_jax.train.numbers import numbers_of, shape_of, with_numbers
from tsam_jax.train.optimizers import make_base
from tsam_jax.train.settings import Setting, SettingError
from tsam_jax.train.task import Data


class Group(NamedTuple):
    """Settings that one compiled program trains.

    Attributes:
      settings: they differ in `names` alone.
      names: the numbers that are the program's arguments; empty for a single setting.
    """

    settings: tuple[Setting, ...]
    names: tuple[str, ...]


class Schedule(NamedTuple):
    """What the base optimizer of a setting depends on beside the setting.

    Attributes:
      optimizer: the shared optimizer.
      budget: how long each setting trains.
      train_size: number of training examples.
    """

    optimizer: config.Optimizer
    budget: config.Budget
    train_size: int

    def plan(self, setting: Setting) -> loop.Plan:
        """How a setting is trained."""
        epochs = self.budget.epochs_for(setting)
        return loop.plan_for(setting, self.optimizer, self.train_size, epochs)

    def plan_with(self, setting: Setting, numbers: Mapping[str, Any]) -> loop.Plan:
        """How it is trained with some numbers replaced, which may be traced."""
        changed = with_numbers(setting, numbers)
        own = self.optimizer.for_setting(setting)
        # The checks of the configuration cannot read traced numbers; those were checked before.
        values = {**vars(own), **changed.overrides}
        steps = self.train_size // own.batch_size
        base = make_base(
            cast(config.Optimizer, types.SimpleNamespace(**values)),
            steps=self.budget.epochs_for(setting) * steps,
            steps_per_epoch=steps,
        )
        return self.plan(setting)._replace(estimator=changed.build, base=base)


def share(settings: Sequence[Setting], schedule: Schedule) -> list[Group]:
    """Puts settings together that can share a program.

    They have the same method, number of samples, strategy, epochs and cost of a step, and differ
    in numbers that their method and optimizer take as traced values, which is tried out on two
    parameters. 0 and infinity of a method may be another computation, and are kept apart.

    Args:
      settings: the settings.
      schedule: what their base optimizers depend on.

    Returns:
      Groups of at least one setting, in the order of their first ones.
    """
    families: dict[str, list[Setting]] = {}
    for setting in settings:
        families.setdefault(shape_of(setting, list(numbers_of(setting))), []).append(setting)
    groups: dict[Any, list[Setting]] = {}
    for family in families.values():
        free = [name for name in _varied(family) if _takes(family[0], [name], schedule)]
        for setting in family:
            same = shape_of(setting, free), schedule.budget.epochs_for(setting)
            groups.setdefault((*same, setting.build().cost), []).append(setting)
    found = []
    for group in groups.values():
        names = _varied(group)
        if _takes(group[0], names, schedule):
            found.append(Group(tuple(group), tuple(names)))
        else:
            found += [Group((setting,), ()) for setting in group]
    return found


def one_by_one(
    network: Network, group: Group, schedule: Schedule, parts: Sequence[str]
) -> list[loop.Program]:
    """A program for each setting of a group, compiled once for all of them.

    Args:
      network: the network.
      group: the settings.
      schedule: what their base optimizers depend on.
      parts: what is measured.

    Returns:
      Programs like those of `loop.make_program`, to be run one after the other.
    """
    first = loop.make_program(
        network, schedule.plan(group.settings[0]), schedule.train_size, tuple(parts)
    )
    advance = jax.jit(_advance(network, group, schedule), donate_argnums=1)

    starts: dict[tuple[int, ...], loop.TrainState] = {}

    def init(seeds: Sequence[int]) -> loop.TrainState:
        """The start does not depend on the numbers; a copy, because training gives it up."""
        rows = tuple(seeds)
        if rows not in starts:
            starts[rows] = first.init(rows)
        return loop.TrainState(*jax.tree.map(jnp.copy, starts[rows]))

    def with_its_numbers(setting: Setting) -> loop.Program:
        numbers = _values(setting, group.names)
        return first._replace(init=init, advance=lambda *state: advance(numbers, *state))

    return [with_its_numbers(setting) for setting in group.settings]


def all_together(
    network: Network, group: Group, schedule: Schedule, parts: Sequence[str]
) -> loop.Program:
    """One program that trains all settings of a group at once.

    Args:
      network: the network.
      group: the settings.
      schedule: what their base optimizers depend on.
      parts: what is measured.

    Returns:
      A program like that of `loop.make_program`, with a leading axis over settings and seeds, the
      seeds running fastest. `init` takes the seeds.
    """
    count = len(group.settings)
    first = loop.make_program(
        network, schedule.plan(group.settings[0]), schedule.train_size, tuple(parts)
    )
    advance = _advance(network, group, schedule)
    rows = [_values(setting, group.names) for setting in group.settings]
    table = jax.tree.map(lambda *x: jnp.asarray(x, float), *rows)

    def one_row(numbers: Any, state: Any, data: Data, epochs: Any) -> Any:
        labels = data.train.labels[None]
        data = data._replace(train=data.train._replace(labels=labels))
        state = advance(numbers, jax.tree.map(lambda x: x[None], state), data, epochs)
        return jax.tree.map(lambda x: x[0], state)

    def all_rows(state: Any, data: Data, epochs: Any) -> Any:
        seeds = state.step.shape[0] // count
        numbers = jax.tree.map(lambda x: jnp.repeat(x, seeds), table)
        shared: Any = None
        axes: Any = Data(Batch(shared, 0), shared, shared)
        return jax.vmap(one_row, in_axes=(0, 0, axes, None))(numbers, state, data, epochs)

    def init(seeds: Sequence[int]) -> loop.TrainState:
        state = first.init(seeds)
        return loop.TrainState(*jax.tree.map(lambda x: jnp.concatenate([x] * count), state))

    return first._replace(init=init, advance=jax.jit(all_rows, donate_argnums=0))


def _advance(network: Network, group: Group, schedule: Schedule) -> Any:
    """(numbers, state, data, epochs) -> state, of the settings of a group."""

    def advance(numbers: Mapping[str, Any], state: Any, data: Data, epochs: Any) -> Any:
        plan = schedule.plan_with(group.settings[0], numbers)
        program = loop.make_program(network, plan, schedule.train_size, ())
        return program.advance(state, data, epochs)

    return advance


def _varied(settings: Sequence[Setting]) -> list[str]:
    """The numbers in which settings differ."""
    rows = [numbers_of(setting) for setting in settings]
    return [name for name in rows[0] if len({row[name] for row in rows}) > 1]


def _values(setting: Setting, names: Sequence[str]) -> dict[str, float]:
    numbers = numbers_of(setting)
    return {name: float(numbers[name]) for name in names}


def _takes(setting: Setting, names: Sequence[str], schedule: Schedule) -> bool:
    """Tries whether a setting can be trained with traced numbers, and starts from the same."""
    given = _values(setting, names)
    size = schedule.optimizer.for_setting(setting).batch_size
    batch, params = Batch(jnp.ones((size, 2)), jnp.ones(size)), jnp.ones(2)

    def loss(params: jax.Array, batch: Batch, rest: Any) -> Any:
        return jnp.mean((batch.inputs @ params - batch.labels) ** 2), rest

    def start(numbers: Mapping[str, Any]) -> Any:
        plan = schedule.plan_with(setting, numbers)
        return value_and_grad(loss, plan.estimator()).init(params), plan.base.init(params)

    def step(numbers: Mapping[str, Any]) -> Any:
        plan = schedule.plan_with(setting, numbers)
        estimator = plan.estimator()
        if estimator.cost != setting.build().cost:
            msg = "the cost of a step is another one"
            raise ValueError(msg)
        state, base = start(numbers)
        estimate = value_and_grad(loss, estimator, has_aux=True)
        (_, grads), state = estimate(params, state, batch, ())
        return plan.base.update(grads, base, params), state

    try:
        jax.eval_shape(step, given)
        others = {name: 2 * value + 1 for name, value in given.items()}
        starts = [jax.tree.leaves(start(numbers)) for numbers in (given, others)]
    except (TypeError, ValueError, SettingError):
        return False
    return all(bool(jnp.all(one == other)) for one, other in zip(*starts, strict=True))
