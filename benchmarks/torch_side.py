"""PyTorch's side of the comparison: the same networks, an eager step of TSAM, and its worker."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from benchmarks import record

Tensor = torch.Tensor

HEADS = {"vit-thin": 4, "small-vit": 2, "small-bert": 2}  # 12 for others


class Side:
    """A network in one memory layout, with the flax model's names, its gradient and its step."""

    def __init__(self, told: dict[str, Any], exchange: Any, layout: str = "contiguous") -> None:
        self.told, self.heads = told, HEADS.get(told["model"], 12)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.inputs, self.targets = (self.tensor(x, exchange[x]) for x in ("inputs", "targets"))
        self.p = {x: self.tensor(x, exchange[f"param:{x}"]) for x in told["names"]}
        if layout == "channels_last":
            for x in (*self.p.values(), self.inputs):
                if x.ndim == 4:
                    x.data = x.data.contiguous(memory_format=torch.channels_last)
        self.tensors = [x.requires_grad_() for x in self.p.values()]
        families = (self.mlp, self.resnet, self.wrn, self.vit, self.bert)
        self.apply = next(f for f in families if f.__name__ in told["model"])

    def tensor(self, key: str, x: np.ndarray) -> Tensor:
        """Returns an array in PyTorch's layout: kernels (out, in, height, width) or (out, in)."""
        t = torch.from_numpy(np.array(x)).to(self.device)
        if key.endswith("kernel"):
            return (t.permute(3, 2, 0, 1) if t.ndim == 4 else t.mT).contiguous()
        if key == "inputs" and t.ndim == 4:
            return t.permute(0, 3, 1, 2).contiguous()
        return t if t.is_floating_point() else t.long()

    def linear(self, key: str, x: Tensor) -> Tensor:
        return F.linear(x, self.p[f"{key}.kernel"], self.p[f"{key}.bias"])

    def conv(self, key: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = self.p[f"{key}.kernel"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def batch_norm(self, key: str, x: Tensor) -> Tensor:
        scale, bias = self.p[f"{key}.scale"], self.p[f"{key}.bias"]
        return F.batch_norm(x, None, None, scale, bias, training=True, eps=1e-5)

    def layer_norm(self, key: str, x: Tensor, eps: float = 1e-6) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.p[f"{key}.scale"], self.p[f"{key}.bias"], eps)

    def blocks(self, prefix: str, depth: int = 2) -> Iterator[str]:
        """The blocks' names, in order: "stages.0.0", "stages.0.1", ..., or "layers.0", ...."""
        names = {tuple(k.split(".")[: depth + 1]) for k in self.p if k.startswith(prefix)}
        yield from map(".".join, sorted(names, key=lambda x: [int(i) for i in x[1:]]))

    def mlp(self, x: Tensor) -> Tensor:
        *hidden, last = self.blocks("layers", 1)
        for key in hidden:
            x = self.linear(key, x.flatten(1)).relu_()
        return self.linear(last, x)

    def resnet(self, x: Tensor) -> Tensor:
        x = self.batch_norm("norm", self.conv("conv", x)).relu_()
        for key in self.blocks("stages"):
            shortcut = f"{key}.shortcut.conv.kernel" in self.p
            stride = 2 if shortcut else 1
            y = self.batch_norm(f"{key}.norm1", self.conv(f"{key}.conv1", x, stride)).relu_()
            y = self.batch_norm(f"{key}.norm2", self.conv(f"{key}.conv2", y))
            if shortcut:
                x = self.conv(f"{key}.shortcut.conv", x, stride)
                x = self.batch_norm(f"{key}.shortcut.norm", x)
            x = (y + x).relu_()
        return self.linear("head", x.mean((2, 3)))

    def wrn(self, x: Tensor) -> Tensor:
        x = self.conv("conv", x)
        for key in self.blocks("groups"):
            shortcut = f"{key}.shortcut.kernel" in self.p
            stride = 2 if shortcut and not key.startswith("groups.0") else 1
            y = self.batch_norm(f"{key}.norm1", x).relu_()
            x = self.conv(f"{key}.shortcut", y, stride) if shortcut else x
            y = self.batch_norm(f"{key}.norm2", self.conv(f"{key}.conv1", y, stride)).relu_()
            x = x + self.conv(f"{key}.conv2", y)
        return self.linear("head", self.batch_norm("norm", x).relu_().mean((2, 3)))

    def attention(self, key: str, x: Tensor) -> Tensor:
        q, k, v = (
            self.linear(f"{key}.{part}", x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.linear(f"{key}.out", y.transpose(1, 2).flatten(-2))

    def feed_forward(self, key: str, x: Tensor) -> Tensor:
        return self.linear(f"{key}.down", F.gelu(self.linear(f"{key}.up", x)))

    def vit(self, images: Tensor) -> Tensor:
        kernel = self.p["embeddings.patches.kernel"]  # (width, height x width x channels)
        side = round((kernel.shape[1] / images.shape[1]) ** 0.5)
        kernel = kernel.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)
        x = F.conv2d(images, kernel, self.p["embeddings.patches.bias"], stride=side)
        first = self.p["embeddings.class_token"].expand(len(x), -1, -1).to(x.dtype)
        x = torch.cat([first, x.flatten(2).mT], 1) + self.p["embeddings.positions"]
        for key in self.blocks("layers", 1):
            y = self.layer_norm(f"{key}.attention_norm", x)
            x = x + self.attention(f"{key}.attention", y)
            x = x + self.feed_forward(f"{key}.feed_forward", self.layer_norm(f"{key}.norm", x))
        return self.linear("head", self.layer_norm("norm", x[:, 0]))

    def bert(self, tokens: Tensor) -> Tensor:
        words, positions, types = (
            self.p[f"embeddings.{part}.embedding"] for part in ("words", "positions", "types")
        )
        x = F.embedding(tokens, words) + positions[: tokens.shape[1]] + types[0]
        x = self.layer_norm("embeddings.norm", x, 1e-12)
        for key in self.blocks("layers", 1):
            y = x + self.attention(f"{key}.attention", x)
            x = self.layer_norm(f"{key}.attention_norm", y, 1e-12)
            y = x + self.feed_forward(f"{key}.feed_forward", x)
            x = self.layer_norm(f"{key}.norm", y, 1e-12)
        return self.linear("head", torch.tanh(self.linear("pooler", x[:, 0])))

    def loss(self) -> Tensor:
        dtype = torch.bfloat16 if self.told["dtype"] == "bfloat16" else None
        with torch.autocast(self.device, dtype, enabled=dtype is not None):
            return F.cross_entropy(self.apply(self.inputs).float(), self.targets)

    def gradient(self) -> list[Tensor]:
        return list(torch.autograd.grad(self.loss(), self.tensors))

    def sphere(self, _: int) -> list[Tensor]:
        """Draws from the uniform law on the sphere, all parameters together, in one go."""
        sizes = [x.numel() for x in self.tensors]
        flat = torch.randn(sum(sizes), device=self.device)
        flat *= self.told["radius"] / torch.linalg.vector_norm(flat)
        return [x.view(y.shape) for x, y in zip(flat.split(sizes), self.tensors, strict=True)]

    def step(self, draw: Callable[[int], list[Tensor]] | None = None) -> None:
        """A step of TSAM with SGD: Algorithms 1 and 3 of Li et al. 2025.

        Fast for eager code: operations over lists of tensors, one copy of the parameters, no
        synchronisation with the device. draw(j) is the noise of sample j.
        """
        params, told, losses, grads = self.tensors, self.told, [], []
        with torch.no_grad():
            center = [x.clone() for x in params]
        for j in range(told["s"]):
            with torch.no_grad():
                torch._foreach_add_(params, (draw or self.sphere)(j))
            ascent = self.gradient()
            with torch.no_grad():
                norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(ascent)))
                torch._foreach_mul_(ascent, told["rho"] / norm)
                torch._foreach_add_(params, ascent)
            del ascent
            value = self.loss()
            grads.append(list(torch.autograd.grad(value, params)))
            losses.append(value.detach())
            with torch.no_grad():
                torch._foreach_copy_(params, center)
        with torch.no_grad():
            weights = torch.softmax(told["t"] * torch.stack(losses), 0).unbind()
            for weight, grad in zip(weights, grads, strict=True):
                torch._foreach_mul_(grad, -told["lr"] * weight)
                torch._foreach_add_(params, grad)

    def timed(self, what: str, calls: int = 1) -> float:
        wait = torch.cuda.synchronize if self.device == "cuda" else lambda: None
        return record.timed(getattr(self, what), lambda _: wait(), calls)


def differences(side: Side, exchange: Any) -> dict[str, float]:
    """How far the gradient and, with JAX's noise, the step are from JAX's, relative to those."""

    def theirs(kind: str) -> list[Tensor]:
        return [side.tensor(x, exchange[f"{kind}:{x}"]) for x in side.p]

    def apart(a: Sequence[Tensor], b: Sequence[Tensor], order: float) -> float:
        parts = [(x - y).detach().flatten() for x, y in zip(a, b, strict=True)]
        return float(torch.linalg.vector_norm(torch.cat(parts), order))

    wanted, after = theirs("grad"), theirs("after")
    gradient = apart(side.gradient(), wanted, 2)
    gradient /= apart(wanted, [torch.zeros_like(x) for x in wanted], 2)
    side.step(lambda j: theirs(f"noise{j}"))
    update = apart(after, side.tensors, torch.inf) / apart(after, theirs("param"), torch.inf)
    return {"gradient_difference": gradient, "update_difference": update}


def main(told: dict[str, Any]) -> None:
    torch.set_num_threads(told["threads"])
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as JAX by default
    torch.backends.cudnn.benchmark = True
    exchange = np.load(told["exchange"])
    found = differences(Side(told, exchange), exchange)
    images = any(x in told["model"] for x in ("resnet", "wrn"))
    sides = {x: Side(told, exchange, x) for x in ("contiguous", "channels_last")[: 1 + images]}
    layout = min(sides, key=lambda x: min(sides[x].timed("gradient") for _ in range(3)))
    side = sides[layout]
    sides.clear()
    record.answer({**found, "layout": layout, "seconds": side.timed("step")})
    for asked in map(json.loads, sys.stdin):
        record.answer({"seconds": side.timed(**asked)})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
