"""The programs that are measured: gradients, estimates of them, and whole training steps."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.models import Problem
from tsam_jax import Evaluation, GradientEstimator, Loss, methods, noise, value_and_grad

STRATEGIES = ("streamed", "unrolled", "vectorized")
RMS = 0.006  # of the noise: radius 20 over 11 million parameters, as in the paper
T, RHO = 20.0, 0.05

# What a method's required arguments are, by name.
REQUIRED = {"t": T, "rho": RHO, "s": 3, "alpha": 0.5, "gamma": 0.6, "rhos": (0.02, 0.05, 0.1)}
REQUIRED |= {"radius": 1.0, "beta": 0.1}


class Program(NamedTuple):
    """A jitted function, lowered, and what to call it with."""

    lowered: jax.stages.Lowered
    arguments: tuple


def plain(problem: Problem) -> Program:
    """The loss and its gradient."""
    arguments = (problem.params, problem.inputs, problem.targets)
    return Program(jax.jit(jax.value_and_grad(problem.loss)).lower(*arguments), arguments)


def estimate(problem: Problem, estimator: GradientEstimator) -> Program:
    """A method's loss and gradient."""
    step = value_and_grad(problem.loss, estimator)
    arguments = (problem.params, step.init(problem.params), problem.inputs, problem.targets)
    return Program(jax.jit(step).lower(*arguments), arguments)


def tsam(s: int, strategy: str = "auto") -> GradientEstimator:
    return methods.tsam(t=T, rho=RHO, s=s, noise=noise.sphere(rms=RMS), strategy=strategy)


def make(name: str) -> GradientEstimator:
    """Returns a method of the table, at ordinary values of its required arguments."""
    method = methods.METHODS[name]
    required = (
        p.name
        for p in inspect.signature(method).parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    )
    return method(**{name: REQUIRED[name] for name in required})


def resolve_auto(problem: Problem, s: int, texts: dict[str, str]) -> str:
    """Returns the strategy whose program is that of "auto"; `texts` are those at hand."""
    program = estimate(problem, tsam(s)).lowered.as_text()
    for strategy in sorted(STRATEGIES, key=lambda x: x not in texts):
        if strategy not in texts:
            texts[strategy] = estimate(problem, tsam(s, strategy)).lowered.as_text()
        if texts[strategy] == program:
            return strategy
    msg = f'"auto" is none of {STRATEGIES} for s = {s}.'
    raise ValueError(msg)


def counted_gradients(estimator: GradientEstimator, steps: int = 1) -> float:
    """Returns the gradient evaluations of a step, counted while it runs, on a tiny loss.

    The mean over `steps`, for methods that do not do the same in each of them.
    """
    count = 0

    def tally(_: Any) -> None:
        nonlocal count
        count += 1

    class Counted(Loss):
        def __call__(self, params: jax.Array) -> Evaluation:
            evaluation = super().__call__(params)
            # once for each member of a batch, and each turn of a loop
            jax.debug.callback(tally, evaluation.value)
            return evaluation

    loss = Counted(lambda params: jnp.sum((params - 1.0) ** 2))
    params = jnp.arange(4.0)
    memory, _ = estimator.init(params)

    @jax.jit
    def estimate(params: jax.Array, memory: Any, k: jax.Array) -> Any:
        key = jax.random.fold_in(jax.random.key(0), k)
        return estimator.estimate(loss, params, memory, step=k, key=key)[1]

    for k in range(steps):
        memory = estimate(params, memory, jnp.int32(k))
    jax.effects_barrier()
    return count / steps


def training_step(
    problem: Problem, optimizer: optax.GradientTransformation
) -> tuple[Callable[..., Any], tuple]:
    """Returns (params, state, inputs, targets) -> (params, state), and a first (params, state)."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params: Any, state: Any, inputs: jax.Array, targets: jax.Array) -> tuple:
        def loss(p: Any) -> jax.Array:
            return problem.loss(p, inputs, targets)

        updates, state = optimizer.update(None, state, params, value_fn=loss)
        return optax.apply_updates(params, updates), state

    return step, (problem.params, optimizer.init(problem.params))


def copied(tree: Any) -> Any:
    """Returns buffers of its own, to be donated."""
    return jax.tree.map(jnp.copy, tree)
