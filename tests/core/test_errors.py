"""Messages: the argument in backticks, the rule, and what was given."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tsam_jax
from tsam_jax import estimate_gradient, methods, noise, tilting

NUMBER = r"must be a finite number >= 0"
TILT = r"must be a number >= 0 \(infinity included\)"
STATIC = r"must be an integer that is known before tracing"
SIZE = r"needs exactly one of `radius` and `rms`"

CASES = {
    "tsam-t": (lambda: methods.tsam(-1.0, 0.1, 3), rf"`tsam\(t=...\)` {TILT}, got -1.0"),
    "tsam-t-nan": (lambda: methods.tsam(np.nan, 0.1, 3), rf"`tsam\(t=...\)` {TILT}, got nan"),
    "tsam-rho": (lambda: methods.tsam(1.0, -0.1, 3), rf"`tsam\(rho=...\)` {NUMBER}, got -0.1"),
    "tsam-rho-inf": (
        lambda: methods.tsam(1.0, np.inf, 3),
        rf"`tsam\(rho=...\)` {NUMBER}, got inf",
    ),
    "tsam-s": (lambda: methods.tsam(1.0, 0.1, 0), r"`tsam\(s=...\)` must be a positive .*got 0"),
    "tsam-delta": (
        lambda: methods.tsam(1.0, 0.1, 3, delta=2.0),
        r"`tsam\(delta=...\)` must be a number between 0 and t = 1.0, got 2.0",
    ),
    "tsam-aux": (
        lambda: methods.tsam(1.0, 0.1, 3, aux="last"),
        r"`tsam\(aux=...\)` must be one of 'first', 'mean', 'clean', got 'last'",
    ),
    "tsam-strategy": (
        lambda: methods.tsam(1.0, 0.1, 3, strategy="vmap"),
        r"`tsam\(strategy=...\)` must be one of 'auto', .*got 'vmap'",
    ),
    "tilted_sampling-t": (
        lambda: methods.tilted_sampling(-2, 3),
        rf"`tilted_sampling\(t=...\)` {TILT}, got -2",
    ),
    "sam-rho": (lambda: methods.sam(-1), rf"`sam\(rho=...\)` {NUMBER}, got -1"),
    "sam-steps": (
        lambda: methods.sam(1.0, steps=-1),
        r"`sam\(steps=...\)` must be a positive integer, got -1",
    ),
    "from_paper-alpha": (
        lambda: methods.from_paper(1.0, 3, alpha=1.5),
        r"`from_paper\(alpha=...\)` must be a number between 0 and 1, got 1.5",
    ),
    "from_paper-rho": (
        lambda: methods.from_paper(1.0, 3, rho=-1.0),
        rf"`from_paper\(rho=...\)` {NUMBER}, got -1.0",
    ),
    "sphere": (noise.sphere, rf"`sphere` {SIZE}, got radius=None, rms=None"),
    "ball": (lambda: noise.ball(1.0, rms=2.0), rf"`ball` {SIZE}, got radius=1.0, rms=2.0"),
    "gaussian": (lambda: noise.gaussian(rms=-1), rf"`gaussian\(rms=...\)` {NUMBER}, got -1"),
    "gaussian-clip": (
        lambda: noise.gaussian(rms=1.0, clip=-1),
        rf"`gaussian\(clip=...\)` {NUMBER}, got -1",
    ),
    "filter_scaled": (
        lambda: noise.filter_scaled(np.float32(-1)),
        rf"`filter_scaled\(gamma=...\)` {NUMBER}, got .*-1",
    ),
    "tilted_loss": (
        lambda: tilting.tilted_loss(jnp.ones(2), -1.0),
        rf"`tilted_loss\(t=...\)` {TILT}, got -1.0",
    ),
    "tilt_weights": (
        lambda: tilting.tilt_weights(jnp.ones(2), np.nan),
        rf"`tilt_weights\(t=...\)` {TILT}, got nan",
    ),
}

TYPE_CASES = {
    "s-float": (lambda: methods.tsam(1.0, 0.1, 3.0), rf"`tsam\(s=...\)` {STATIC}, got 3.0"),
    "s-bool": (lambda: methods.tsam(1.0, 0.1, True), rf"`tsam\(s=...\)` {STATIC}, got True"),
    "s-array": (lambda: methods.tsam(1.0, 0.1, jnp.int32(3)), rf"`tsam\(s=...\)` {STATIC}"),
    "rho-none": (lambda: methods.sam(None), r"`sam\(rho=...\)` must be a number.*got None"),
    "t-string": (
        lambda: methods.tsam("high", 0.1, 3),
        r"`tsam\(t=...\)` must be a number or a schedule, got 'high'",
    ),
    "delta-string": (
        lambda: methods.tsam(1.0, 0.1, 3, delta="full"),
        r"`tsam\(delta=...\)` must be a number or a schedule, got 'full'",
    ),
    "noise-string": (
        lambda: methods.tsam(1.0, 0.1, 3, noise="sphere"),
        r"`tsam\(noise=...\)` must be a law of `tsam_jax.noise` .*got 'sphere'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values(case):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("case", TYPE_CASES)
def test_types(case):
    call, message = TYPE_CASES[case]
    with pytest.raises(TypeError, match=message):
        call()


def test_the_sugar_checks_as_the_method_does():
    with pytest.raises(ValueError, match=r"`tsam\(s=...\)` must be a positive integer, got -1"):
        tsam_jax.tsam(optax.sgd(0.1), t=1.0, rho=0.1, s=-1)


def test_injected_s_says_what_to_do():
    def factory(s):
        return estimate_gradient(methods.tsam(1.0, 0.1, s))

    with pytest.raises(TypeError, match="name it in `static_args`"):
        optax.inject_hyperparams(factory)(s=3).init(jnp.ones(2))
    static = optax.inject_hyperparams(factory, static_args=("s",))(s=3)
    assert static.init(jnp.ones(2)).inner_state.inner.losses.shape == (3,)


def test_value_fn_that_is_no_function():
    optimizer, params = estimate_gradient(methods.sam(0.1)), jnp.ones(2)
    with pytest.raises(TypeError, match=r"`update\(value_fn=...\)` must be a function.*got 3.0"):
        optimizer.update(params, optimizer.init(params), params, value_fn=3.0)
