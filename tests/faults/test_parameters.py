"""Leaves of the parameters and outputs of the loss: supported, or refused by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_table import TABLE, make

from tsam_jax import _tree, estimate_gradient, methods, noise, value_and_grad

every_method = pytest.mark.parametrize("name", [n for n, row in TABLE.items() if not row.spelling])

REFUSED = {
    "integer": (jnp.ones(2, jnp.int32), "int32 of shape (2,)"),
    "boolean": (np.ones(3, bool), "bool of shape (3,)"),
    "python-integer": (2, "int"),
    "python-boolean": (True, "bool"),
    "prng-key": (jax.random.key(0), "key<fry> of shape ()"),
    "string": ("x", "str"),
    "object": (np.array([None]), "object of shape (1,)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_leaves_without_gradient_are_refused_by_name(kind):
    leaf, description = REFUSED[kind]
    params = {"w": jnp.ones(2), "sub": [1.0, leaf]}
    message = re.escape(
        f"`params` must have floating-point or complex leaves only, got {description} at"
        " ['sub'][1]. Pass untrained values to the loss as another argument, or replace them by"
        " None. To train leaves without perturbing them, use `mask`."
    )
    fun = lambda p: jnp.sum(p["w"] ** 2)  # noqa: E731
    for estimator in methods.sam(0.1, mask={"w": True, "sub": False}), methods.erm():
        step = value_and_grad(fun, estimator)
        with pytest.raises(TypeError, match=message):
            step.init(params)
        with pytest.raises(TypeError, match=message):
            step(params, step.init({"w": jnp.ones(2)}))
        optimizer = estimate_gradient(estimator)
        with pytest.raises(TypeError, match=message):
            optimizer.init(params)
        state = optimizer.init({"w": jnp.ones(2)})
        with pytest.raises(TypeError, match=message):
            optimizer.update(None, state, params, value_fn=fun)
    for name in "tsam", "tsam_hmc", "esam2", "xsam", "vasso", "looksam":
        with pytest.raises(TypeError, match=message):
            value_and_grad(fun, make(name)).init(params)


def test_a_single_leaf_has_no_name():
    with pytest.raises(TypeError, match=r"got int32 of shape \(2,\)\. Pass untrained"):
        estimate_gradient(methods.erm()).init(jnp.ones(2, jnp.int32))


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
@every_method
def test_odd_leaves_are_supported(name):
    params = {
        "empty": jnp.zeros((0, 3)),
        "none": None,
        "numpy": np.array([0.5, -1.0], np.float32),
        "half": np.float16(0.5),
        "number": 2.0,
    }
    fun = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)).astype(jnp.float32)  # noqa: E731
    optimizer = estimate_gradient(make(name))
    grad, state = optimizer.update(None, optimizer.init(params), params, value_fn=fun)
    assert jax.tree.structure(grad) == jax.tree.structure(params)
    assert jnp.isfinite(state.last.value)
    for x, y in zip(jax.tree.leaves(grad), jax.tree.leaves(params), strict=True):
        assert (x.shape, x.dtype) == (jnp.shape(y), jnp.result_type(y))
        assert np.all(np.isfinite(x))
        assert np.all(x != 0)
    nothing = value_and_grad(lambda p: jnp.float32(7.0), make(name))
    assert nothing({}, nothing.init({}))[0] == (7.0, {})


# Complex leaves are pairs of real ones: the laws and the directions are those of the pairs.

DETERMINISTIC = [n for n, row in TABLE.items() if not (row.sampled or row.spelling or n == "rsam")]


def of_pairs(p):
    """Not symmetric in the two parts, so that a conjugate in the wrong place is seen."""
    a, b = p["a"], p["b"]
    return jnp.sum(jnp.sin(a) + (b - 2 * a) ** 2) + jnp.sum(a) * jnp.sum(b**2)


def of_complex(z):
    return of_pairs({"a": jnp.real(z), "b": jnp.imag(z)})


def conjugated(pairs):
    return pairs["a"] - 1j * pairs["b"]  # as jax.grad has it


@pytest.mark.parametrize("name", [*DETERMINISTIC, "tsam"])
def test_a_complex_parameter_is_a_pair_of_real_ones(name):
    pairs = {"a": jnp.array([0.3, -0.7]), "b": jnp.array([0.4, 0.2])}
    z = pairs["a"] + 1j * pairs["b"]
    changes = {"adapt": False} if name == "gsam" else {}
    if name == "tsam":
        changes = {"noise": lambda key, p: _tree.scale(p, 0.1)}
    estimator = make(name, **changes)
    steps = value_and_grad(of_complex, estimator), value_and_grad(of_pairs, estimator)
    states = steps[0].init(z), steps[1].init(pairs)
    for _ in range(TABLE[name].period):
        (value, grad), state = steps[0](z, states[0])
        (desired_value, desired), real = steps[1](pairs, states[1])
        states = state, real
        np.testing.assert_allclose(value, desired_value, rtol=1e-5)
        np.testing.assert_allclose(grad, conjugated(desired), rtol=1e-4, atol=1e-5)
    optimizer = estimate_gradient(estimator)
    updates, _ = optimizer.update(None, optimizer.init(z), z, value_fn=of_complex)
    (_, first), _ = steps[0](z, steps[0].init(z))
    np.testing.assert_array_equal(updates, first)


def test_noise_on_complex_leaves_has_two_coordinates_an_entry(key):
    zeros = jnp.zeros((2000, 2), jnp.complex64)
    eps = noise.gaussian(rms=0.5)(key, zeros)
    for part in jnp.real(eps), jnp.imag(eps):
        np.testing.assert_allclose(jnp.std(part), 0.5, rtol=0.05)
    # Two sums of n = 8000 squares in float32, one to scale the noise and one here: roots that are
    # off by about sqrt(n) 2^-24 / 2 = 3e-6 each, if summed in order; less with wide registers.
    length = _tree.norm(noise.sphere(rms=0.5)(key, zeros))
    np.testing.assert_allclose(length, 0.5 * 8000**0.5, rtol=1e-5)
    scaled = noise.filter_scaled(0.5)(key, (zeros + 0.3j).at[:, 1].set(0))
    assert not np.any(scaled[:, 1])
    np.testing.assert_allclose(jnp.std(jnp.real(scaled[:, 0])), 0.15 * 2000**0.5, rtol=0.05)


# What the loss returns.

X = jnp.array([1.0, 2.0])
SCALAR = "`fun`, or `value_fn`, must return a real floating-point scalar, got "
PAIR = "`fun` must return a pair (loss, aux) with `has_aux=True`, got "
OUTPUTS = {
    "vector": (lambda x: x**2, False, SCALAR + "float32 of shape (2,)"),
    "one-entry": (lambda x: x[:1], False, SCALAR + "float32 of shape (1,)"),
    "complex": (lambda x: jnp.sum(x) * 1j, False, SCALAR + "complex64 of shape ()"),
    "integer": (lambda x: jnp.int32(1), False, SCALAR + "int32 of shape ()"),
    "python-integer": (lambda x: 1, False, SCALAR + "int"),
    "none": (lambda x: None, False, SCALAR + "NoneType"),
    "pair": (lambda x: (jnp.sum(x), x), False, SCALAR + "tuple. Reduce per-example losses with"),
    "no-pair": (jnp.sum, True, PAIR + "float32 of shape ()"),
    "vector-of-two": (lambda x: x, True, PAIR + "float32 of shape (2,)"),
    "triple": (lambda x: (jnp.sum(x), 1, 2), True, PAIR + "tuple"),
    "vector-and-aux": (lambda x: (x, 1), True, SCALAR + "float32 of shape (2,)"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_loss_that_is_no_real_scalar_is_refused(kind):
    fun, has_aux, message = OUTPUTS[kind]
    for estimator in methods.sam(0.1), methods.tsam(1.0, 0.1, 2, strategy="streamed"):
        step = value_and_grad(fun, estimator, has_aux=has_aux)
        with pytest.raises(TypeError, match=re.escape(message)):
            step(X, step.init(X))
        if not has_aux:
            optimizer = estimate_gradient(estimator)
            with pytest.raises(TypeError, match=re.escape(message)):
                optimizer.update(None, optimizer.init(X), X, value_fn=fun)


def test_a_loss_may_be_a_python_number_and_a_pair_a_list():
    sam = methods.sam(0.1)
    constant = value_and_grad(lambda x: 3.0, sam)
    (value, grad), _ = constant(X, constant.init(X))
    assert (value, grad.tolist()) == (3.0, [0.0, 0.0])
    pair = value_and_grad(lambda x: [jnp.sum(x), 5], sam, has_aux=True)
    assert pair(X, pair.init(X))[0][0][1] == 5
