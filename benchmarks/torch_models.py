"""The networks of models.py in PyTorch: functions of the same parameters, in the same order."""

import numpy as np
import torch
from torch.nn import functional

Tensor = torch.Tensor

HEADS = 4  # of the transformer
KEYS = ("down", "out", "qkv", "scales", "up")  # of its layers, as JAX orders dictionaries


class Network:
    """A network at its parameters, `tensors`: those of models.py in the order of JAX's leaves."""

    def __init__(self, name: str, leaves: list[np.ndarray], device: str) -> None:
        self.is_image = name.startswith("resnet")
        self.tensors = [self.tensor(x).to(device).requires_grad_() for x in leaves]
        self._apply = resnet if self.is_image else transformer if name == "transformer" else mlp

    def tensor(self, x: np.ndarray) -> Tensor:
        """Returns a leaf of JAX's in PyTorch's layout: kernels are (out, in, height, width)."""
        t = torch.from_numpy(np.array(x))
        return t.permute(3, 2, 0, 1).contiguous() if self.is_image and t.ndim == 4 else t

    def inputs(self, x: np.ndarray) -> Tensor:
        t = torch.from_numpy(np.array(x))
        if self.is_image:
            return t.permute(0, 3, 1, 2).contiguous()
        return t if t.is_floating_point() else t.long()

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self._apply(self.tensors, inputs)
        return functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten())

    def use_channels_last(self) -> None:
        """Lays out kernels as PyTorch's convolutions of channels-last images like them."""
        with torch.no_grad():
            for x in self.tensors:
                if x.ndim == 4:
                    x.data = x.data.contiguous(memory_format=torch.channels_last)


def mlp(tensors: list[Tensor], x: Tensor) -> Tensor:
    *hidden, (head, bias) = zip(tensors[::2], tensors[1::2], strict=True)
    for w, b in hidden:
        x = torch.addmm(b, x, w).relu_()
    return torch.addmm(bias, x, head)


def transformer(tensors: list[Tensor], tokens: Tensor) -> Tensor:
    """Leaves: the head; the five of each layer; positions; tokens."""
    head, *layers, positions, embedding = tensors
    x = functional.embedding(tokens, embedding) + positions
    for start in range(0, len(layers), len(KEYS)):
        p = dict(zip(KEYS, layers[start : start + len(KEYS)], strict=True))
        first, second = p["scales"].unbind()
        y = functional.rms_norm(x, x.shape[-1:], first, 1e-6) @ p["qkv"]
        query, key, value = y.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind()
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + y.transpose(1, 2).flatten(-2) @ p["out"]
        y = functional.rms_norm(x, x.shape[-1:], second, 1e-6) @ p["up"]
        x = x + functional.gelu(y, approximate="tanh") @ p["down"]
    return x @ head


def resnet(tensors: list[Tensor], x: Tensor) -> Tensor:
    """Leaves: two or three layers a block; the head; the stem. A layer: kernel, scale, shift."""

    def normed(x: Tensor, layer: list[Tensor], stride: int = 1) -> Tensor:
        kernel, scale, shift = layer
        y = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return functional.batch_norm(y, None, None, scale, shift, training=True, eps=1e-5)

    *blocks, head = tensors[:-3]
    x = normed(x, tensors[-3:]).relu_()
    while blocks:
        first, second, rest = blocks[:3], blocks[3:6], blocks[6:]
        # A shortcut has a kernel of size 1; without one, the next block begins.
        has_shortcut = bool(rest) and rest[0].shape[-1] == 1
        stride = 2 if has_shortcut else 1
        y = normed(normed(x, first, stride).relu_(), second)
        y += normed(x, rest[:3], stride) if has_shortcut else x
        x = y.relu_()
        blocks = rest[3:] if has_shortcut else rest
    return x.mean((2, 3)) @ head
