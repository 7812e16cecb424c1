"""Error messages: the argument in backticks, the rule, and the value that was passed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tsam_jax
from tsam_jax import estimate_gradient, methods, noise, tilting

NUMBER = r"must be a finite number >= 0"
SHARE = r"must be a number between 0 and 1"
SCALAR = r"must be a number or a schedule"
TILT = r"must be a number >= 0 \(infinity included\)"
STATIC = r"must be an integer known before tracing"
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
        rf"`tsam\(delta=...\)` {SHARE}, got 2.0",
    ),
    "tsam-delta-negative": (
        lambda: methods.tsam(1.0, 0.1, 3, delta=-0.5),
        rf"`tsam\(delta=...\)` {SHARE}, got -0.5",
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
    "asam-rho": (lambda: methods.asam(-1.0), r"`asam\(rho=...\)` must be a finite number >= 0"),
    "asam-eta": (lambda: methods.asam(1.0, eta=-0.1), r"`asam\(eta=...\)` must .*got -0.1"),
    "pgn-alpha": (lambda: methods.pgn(1.0, -1), r"`pgn\(alpha=...\)` must be .*>= 0, got -1"),
    "pgn-alpha-inf": (lambda: methods.pgn(1.0, np.inf), r"`pgn\(alpha=...\)` .*got inf"),
    "wsam-rho": (lambda: methods.wsam(np.nan, 0.5), r"`wsam\(rho=...\)` must be .*got nan"),
    "wsam-gamma": (
        lambda: methods.wsam(0.1, 1.0),
        r"`wsam\(gamma=...\)` must be a number of at least 0 and below 1, got 1.0",
    ),
    "gsam-alpha": (lambda: methods.gsam(0.1, -0.4), r"`gsam\(alpha=...\)` must .*got -0.4"),
    "esam2-none": (lambda: methods.esam2(()), r"`esam2\(rhos=...\)` must have at least one"),
    "esam2-rho": (lambda: methods.esam2((0.1, -2)), r"`esam2\(rhos=...\)` must .*got -2"),
    "looksam-alpha": (lambda: methods.looksam(0.1, alpha=-1), r"`looksam\(alpha=...\)`.*got -1"),
    "looksam-every": (
        lambda: methods.looksam(0.1, every=0),
        r"`looksam\(every=...\)` must be a positive integer, got 0",
    ),
    "rho_from_lr": (
        lambda: methods.rho_from_lr(0.1, rho_min=0, rho_max=1, lr_min=0.2, lr_max=0.1),
        r"`rho_from_lr\(lr_min=...\)` must be at most lr_max = 0.1, got 0.2",
    ),
    "rho_from_lr-rho": (
        lambda: methods.rho_from_lr(0.1, rho_min=-1, rho_max=1, lr_min=0, lr_max=0.1),
        r"`rho_from_lr\(rho_min=...\)` must be a finite number >= 0, got -1",
    ),
    "vasso-rho": (lambda: methods.vasso(-1), rf"`vasso\(rho=...\)` {NUMBER}, got -1"),
    "vasso-theta": (lambda: methods.vasso(0.1, 1.5), rf"`vasso\(theta=...\)` {SHARE}, got 1.5"),
    "fsam-rho": (lambda: methods.fsam(np.nan), rf"`fsam\(rho=...\)` {NUMBER}, got nan"),
    "fsam-sigma": (lambda: methods.fsam(0.1, -2), rf"`fsam\(sigma=...\)` {NUMBER}, got -2"),
    "fsam-lmbda": (lambda: methods.fsam(0.1, 1, 2), rf"`fsam\(lmbda=...\)` {SHARE}, got 2"),
    "rsam-rho": (lambda: methods.rsam(-1, gamma=1), rf"`rsam\(rho=...\)` {NUMBER}, got -1"),
    "rsam-gamma": (lambda: methods.rsam(1, gamma=-1), rf"`rsam\(gamma=...\)` {NUMBER}, got -1"),
    "rsam-lam": (lambda: methods.rsam(1, gamma=1, lam=-1), rf"`rsam\(lam=...\)` {NUMBER}, got -1"),
    "rsam-scaling": (
        lambda: methods.rsam(1, gamma=1, scaling="row"),
        r"`rsam\(scaling=...\)` must be one of 'filter', 'leaf', 'none', got 'row'",
    ),
    "xsam-rho": (lambda: methods.xsam(-1), rf"`xsam\(rho=...\)` {NUMBER}, got -1"),
    "xsam-rho_max": (lambda: methods.xsam(1, rho_max=-1), rf"`xsam\(rho_max=...\)` {NUMBER}"),
    "xsam-alpha": (lambda: methods.xsam(1, alpha=-1), rf"`xsam\(alpha=...\)` {NUMBER}, got -1"),
    "xsam-steps": (lambda: methods.xsam(1, steps=0), r"`xsam\(steps=...\)` must be a positive"),
    "xsam-every": (
        lambda: methods.xsam(1, search_every=0),
        r"`xsam\(search_every=...\)` must be a positive integer, got 0",
    ),
    "xsam-grid": (lambda: methods.xsam(1, alpha_grid=()), r"`xsam\(alpha_grid=...\)` must have at"),
    "xsam-in-grid": (lambda: methods.xsam(1, alpha_grid=(-1,)), rf"\(alpha_grid=...\)` {NUMBER}"),
    "leaf_scaled": (
        lambda: noise.leaf_scaled(-1.0),
        rf"`leaf_scaled\(gamma=...\)` {NUMBER}, got -1.0",
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
    "esam2-number": (lambda: methods.esam2(0.1), r"`esam2\(rhos=...\)` must be a sequence.*0.1"),
    "esam2-string": (lambda: methods.esam2("0.1"), r"`esam2\(rhos=...\)` must be a sequence"),
    "looksam-every": (
        lambda: methods.looksam(0.1, every=2.0),
        r"`looksam\(every=...\)` must be an integer known before tracing, got 2.0",
    ),
    "rho-list": (
        lambda: methods.sam([0.1, 0.2]),
        rf"`sam\(rho=...\)` {SCALAR}, got \[0.1, 0.2\]\. To try several values",
    ),
    "rho-tuple": (lambda: methods.vasso((0.1,)), rf"`vasso\(rho=...\)` {SCALAR}, got \(0.1,\)"),
    "rho-dict": (
        lambda: methods.sam({"w": 0.1}),
        rf"`sam\(rho=...\)` {SCALAR}, got .*0.1.\. To try several values",
    ),
    "rho-array": (
        lambda: methods.tsam(1.0, jnp.array([0.1, 0.2]), 3),
        rf"`tsam\(rho=...\)` {SCALAR}, got an array of shape \(2,\)\. To try several values.*vmap",
    ),
    "rho-numpy": (
        lambda: methods.sam(np.array([0.1])),
        rf"`sam\(rho=...\)` {SCALAR}, got an array of shape \(1,\)",
    ),
    "t-array": (
        lambda: tilting.tilt_weights(jnp.ones(2), jnp.ones(2)),
        rf"`tilt_weights\(t=...\)` {SCALAR}, got an array of shape \(2,\)",
    ),
    "theta-array": (
        lambda: methods.vasso(0.1, jnp.ones((1, 1))),
        rf"`vasso\(theta=...\)` {SCALAR}, got an array of shape \(1, 1\)",
    ),
    "noise-list": (lambda: noise.sphere([1.0]), rf"`sphere\(radius=...\)` {SCALAR}, got \[1.0\]"),
    "noise-clip": (
        lambda: noise.gaussian(1.0, clip=jnp.ones(2)),
        rf"`gaussian\(clip=...\)` {SCALAR}, got an array of shape \(2,\)",
    ),
    "schedule-of-arrays": (
        lambda: noise.law_at(noise.sphere(lambda step: jnp.ones(2)), jnp.int32(0)),
        rf"`sphere\(radius=...\)` {SCALAR}, got an array of shape \(2,\)",
    ),
    "fraction-list": (
        lambda: tilting.AutoTilt([0.5]),
        rf"`AutoTilt\(fraction=...\)` {SCALAR}, got \[0.5\]",
    ),
    "asam-bool": (lambda: methods.asam(True), r"`asam\(rho=...\)` must be a number"),
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


@pytest.mark.parametrize("grid", ["012", 3.0])
def test_a_grid_that_is_no_sequence(grid):
    with pytest.raises(TypeError, match=r"`xsam\(alpha_grid=...\)` must be a sequence of numbers"):
        methods.xsam(0.1, alpha_grid=grid)


@pytest.mark.parametrize(
    "rho", [np.float32(0.1), np.array(0.1), jnp.float32(0.1), jnp.bfloat16(0.1), lambda step: 0.1]
)
def test_scalars_of_any_kind_pass(rho):
    assert methods.sam(rho).cost.gradients == 2


def test_traced_scalars_pass_and_traced_vectors_do_not():
    def ascent(rho):
        step = tsam_jax.value_and_grad(lambda x: x**2, methods.sam(rho))
        return step(1.0, step.init(1.0))[0][1]

    rhos = jnp.array([0.1, 0.2])
    np.testing.assert_allclose(jax.jit(jax.vmap(ascent))(rhos), [2.2, 2.4], rtol=1e-6)
    with pytest.raises(TypeError, match=rf"`sam\(rho=...\)` {SCALAR}, got an array of shape \(2,"):
        jax.jit(ascent)(rhos)


def test_the_sugar_checks_as_the_method_does():
    with pytest.raises(ValueError, match=r"`tsam\(s=...\)` must be a positive integer, got -1"):
        tsam_jax.tsam(optax.sgd(0.1), t=1.0, rho=0.1, s=-1)


def test_injected_s_says_what_to_do():
    def factory(s):
        return estimate_gradient(methods.tsam(1.0, 0.1, s))

    with pytest.raises(TypeError, match="list it in `static_args`"):
        optax.inject_hyperparams(factory)(s=3).init(jnp.ones(2))
    static = optax.inject_hyperparams(factory, static_args=("s",))(s=3)
    assert static.init(jnp.ones(2)).inner_state.last.metrics["losses"].shape == (3,)


def test_value_fn_that_is_no_function():
    optimizer, params = estimate_gradient(methods.sam(0.1)), jnp.ones(2)
    with pytest.raises(TypeError, match=r"`update\(value_fn=...\)` must be a function.*got 3.0"):
        optimizer.update(None, optimizer.init(params), params, value_fn=3.0)
