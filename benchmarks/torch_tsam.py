"""An eager PyTorch step of TSAM with SGD: Algorithms 1 and 3 of Li et al. 2025.

Written to be fast: the ops over lists of tensors, no copies beyond one of the parameters and one
perturbation, no synchronisation with the device, and gradients used where autograd left them.
"""

from collections.abc import Callable, Sequence

import torch

Tensor = torch.Tensor


def sphere(params: Sequence[Tensor], radius: float) -> list[Tensor]:
    """Draws from the uniform law on the sphere, all parameters together, in one go."""
    flat = torch.randn(sum(x.numel() for x in params), device=params[0].device)
    flat *= radius / torch.linalg.vector_norm(flat)
    parts = flat.split([x.numel() for x in params])
    return [part.view(x.shape) for part, x in zip(parts, params, strict=True)]


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def tsam_step(
    loss: Callable[[], Tensor],
    params: list[Tensor],
    *,
    t: float,
    rho: float,
    s: int,
    lr: float,
    draw: Callable[[int], list[Tensor]],
) -> Tensor:
    """Updates `params` in place; returns the samples' losses, shape (s,).

    `loss` is the loss of the batch at the tensors in `params`, and draw(j) the noise of sample j.
    """
    with torch.no_grad():
        center = [x.clone() for x in params]
    losses, grads = [], []
    for j in range(s):
        with torch.no_grad():
            torch._foreach_add_(params, draw(j))
        ascent = list(torch.autograd.grad(loss(), params))
        with torch.no_grad():
            torch._foreach_mul_(ascent, rho / global_norm(ascent))
            torch._foreach_add_(params, ascent)
        del ascent
        value = loss()
        grads.append(list(torch.autograd.grad(value, params)))
        losses.append(value.detach())
        with torch.no_grad():
            torch._foreach_copy_(params, center)
    with torch.no_grad():
        values = torch.stack(losses)
        for weight, grad in zip(torch.softmax(t * values, 0).unbind(), grads, strict=True):
            torch._foreach_mul_(grad, -lr * weight)
            torch._foreach_add_(params, grad)
    return values
