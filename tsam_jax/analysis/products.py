"""Products with the Hessian and the Gauss-Newton matrix of a loss, without forming them.

All products use reverse mode over reverse mode, because operations with a custom derivative
(`jax.custom_vjp`) have no forward mode. The loss of a network with BatchNorm must be in evaluation
mode: batch statistics depend on the parameters and change the Hessian. On a CPU, the derivative of
JAX's convolution is slow inside the loops over products; that of `tsam_jax.convolution` is fast.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from tsam_jax import _tree
from tsam_jax._checks import Params, PyTree


def hvp(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    vector: Params,
    /,
) -> Params:
    """Hessian-vector product, without forming the Hessian.

    Computes  H v  with  H = d^2 L / d theta^2  as the pullback of v through the gradient (H is
    symmetric). This is reverse mode over reverse mode. Forward over reverse needs slightly less
    memory, but fails for operations with a custom derivative (`jax.custom_vjp`), which have no
    forward mode.

    Args:
      loss_fn: `params -> scalar`, twice differentiable by reverse mode.
      params: theta, any pytree of floating-point arrays.
      vector: v, structure, shapes and dtypes like `params`.

    Returns:
      H v, like `params`. Costs two to three gradient evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import hvp
      >>> hvp(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])).tolist()
      [6.0, 12.0]

    References:
      Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6(1), 1994.
    """
    return hessian_of(loss_fn, params)(vector)


def gauss_newton_loss(
    model_fn: Callable[[Params], PyTree],
    loss_fn: Callable[[PyTree], jax.Array],
    params: Params,
    /,
) -> Callable[[Params], jax.Array]:
    r"""Loss of the linearised model, whose Hessian is the Gauss-Newton matrix.

    For $L(\theta) = \ell(f(\theta))$ and J the Jacobian of f at $\theta$, the function

    $\theta' \mapsto \ell(f(\theta) + J (\theta' - \theta))$

    has the value and gradient of L at $\theta$, and the Hessian $G = J^\top \nabla^2 \ell J$ there:
    that of L without the curvature of the model. Pass this function to `hvp`, `top_eigenvalues`,
    `hessian_trace` or `spectral_density` to apply them to G. For cross-entropy and squared errors,
    G is the Fisher matrix and has no negative eigenvalue.

    Args:
      model_fn: params -> outputs, a pytree of arrays; differentiable by reverse mode, twice.
      loss_fn: outputs -> scalar, twice differentiable.
      params: theta, any pytree of floating-point arrays.

    Returns:
      A function params -> scalar. Each call costs about three gradients of the model.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import gauss_newton_loss, hvp
      >>> x = jnp.array([2.0])
      >>> squares = gauss_newton_loss(lambda x: x**2, lambda y: 0.5 * jnp.sum(y**2), x)
      >>> hvp(squares, x, jnp.array([1.0])).item()  # (2 x)^2; the Hessian is 6 x^2
      16.0

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent",
    Neural Computation 14(7), 2002.
    """
    outputs, pullback = jax.vjp(model_fn, params)

    def linearised(point: Params) -> jax.Array:
        step = jax.tree.map(jnp.subtract, point, params)
        # the pullback is linear, so its own pullback is the push-forward, J step
        _, push = jax.vjp(pullback, jax.tree.map(jnp.zeros_like, outputs))
        (change,) = push((step,))
        return loss_fn(jax.tree.map(jnp.add, outputs, change))

    return linearised


def gauss_newton_product(
    model_fn: Callable[[Params], PyTree],
    loss_fn: Callable[[PyTree], jax.Array],
    params: Params,
    vector: Params,
    /,
) -> Params:
    r"""Product with the Gauss-Newton matrix, $J^\top \nabla^2 \ell J v$.

    Args:
      model_fn: params -> outputs, a pytree of arrays.
      loss_fn: outputs -> scalar, twice differentiable.
      params: theta, any pytree of floating-point arrays.
      vector: v, structure, shapes and dtypes like `params`.

    Returns:
      G v, like `params`. Costs about three gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import gauss_newton_product
      >>> half_squares = lambda y: 0.5 * jnp.sum(y**2)
      >>> gauss_newton_product(lambda x: x**2, half_squares, jnp.array([2.0]), jnp.array([1.0]))
      Array([16.], dtype=float32)

    Source: Schraudolph 2002.
    """
    return hvp(gauss_newton_loss(model_fn, loss_fn, params), params, vector)


def hessian_of(
    loss_fn: Callable[[Params], jax.Array], params: Params
) -> Callable[[Params], Params]:
    """Return the map v -> H v; the gradient is linearised once for all applications."""
    _, pullback = jax.vjp(jax.grad(loss_fn), params)
    return lambda vector: pullback(vector)[0]


def flat_hessian_of(
    loss_fn: Callable[[Params], jax.Array], params: Params
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array, Callable[[jax.Array], Params]]:
    """`hessian_of` on flat vectors of shape (d,), the flat parameters, and their unraveling."""
    hessian = hessian_of(loss_fn, params)
    # bfloat16 parameters have bfloat16 products, but vectors stay in float32.
    flat, unravel = ravel_pytree(
        jax.tree.map(lambda p: p.astype(_tree.accumulator_dtype(params)), params)
    )

    def matvec(v: jax.Array) -> jax.Array:
        vector = jax.tree.map(lambda x, p: x.astype(p.dtype), unravel(v), params)
        return ravel_pytree(hessian(vector))[0].astype(v.dtype)

    return matvec, flat, unravel
