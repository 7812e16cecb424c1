"""PyTorch's side of the comparison; see against_torch.py."""

import json
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks import workers
from benchmarks.torch_models import Network
from benchmarks.torch_tsam import sphere, tsam_step


class Step:
    """A training step in one memory layout, and what waits for it to end."""

    def __init__(self, told: dict[str, Any], exchange: Any, layout: str) -> None:
        self._told, self._layout = told, layout
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        leaves = [exchange[f"param{i}"] for i in range(told["found"]["leaves"])]
        self.network = Network(told["model"], leaves, self._device)
        self._inputs = self.network.inputs(exchange["inputs"]).to(self._device)
        self._targets = torch.from_numpy(exchange["targets"]).long().to(self._device)
        if layout == "channels_last":
            self.network.use_channels_last()
            self._inputs = self._inputs.contiguous(memory_format=torch.channels_last)

    def __call__(self, noise: list[list[torch.Tensor]] | None = None) -> torch.Tensor:
        told, params = self._told, self.network.tensors

        def draw(j: int) -> list[torch.Tensor]:
            return sphere(params, told["found"]["radius"]) if noise is None else noise[j]

        return tsam_step(
            self._loss,
            params,
            t=told["t"],
            rho=told["rho"],
            s=told["s"],
            lr=told["lr"],
            draw=draw,
        )

    def _loss(self) -> torch.Tensor:
        dtype = torch.bfloat16 if self._told["dtype"] == "bfloat16" else None
        with torch.autocast(self._device, dtype, enabled=dtype is not None):
            return self.network.loss(self._inputs, self._targets)

    def gradient(self) -> tuple[torch.Tensor, ...]:
        """The plain gradient, of which a step has 2s."""
        return torch.autograd.grad(self._loss(), self.network.tensors)

    def wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def timed(step: Step, calls: int, what: str = "step") -> float:
    run = step if what == "step" else step.gradient
    if calls > 1:  # as on our side: the first one finds the caches as the other side left them
        run()
    step.wait()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    step.wait()
    return (time.perf_counter() - start) / calls


def difference(step: Step, told: dict[str, Any], exchange: Any) -> dict[str, float]:
    """Returns how far the step with JAX's noise is from JAX's step, in terms of the change."""
    network = step.network
    device = network.tensors[0].device
    count = range(told["found"]["leaves"])
    noise = [
        [network.tensor(exchange[f"noise{j}_{i}"]).to(device) for i in count]
        for j in range(told["s"])
    ]
    before = [x.detach().clone() for x in network.tensors]
    losses = step(noise).cpu().numpy()
    wanted = [network.tensor(exchange[f"after{i}"]).to(device) for i in count]
    with torch.no_grad():
        change = max(float((a - b).abs().max()) for a, b in zip(wanted, before, strict=True))
        apart = max(
            float((a - b).abs().max()) for a, b in zip(wanted, network.tensors, strict=True)
        )
    return {
        "update_difference": apart / change,
        "loss_difference": float(np.abs(losses / exchange["losses"] - 1).max()),
    }


def main(told: dict[str, Any]) -> None:
    torch.set_num_threads(told["threads"])
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as JAX by default
    torch.backends.cudnn.benchmark = True
    exchange = np.load(told["exchange"])
    same = difference(Step(told, exchange, "contiguous"), told, exchange)
    layouts = ("contiguous", "channels_last") if "resnet" in told["model"] else ("contiguous",)
    seconds, steps = {}, {}
    for layout in layouts:
        steps[layout] = Step(told, exchange, layout)
        warm = timed(steps[layout], 1)
        seconds[layout] = min(timed(steps[layout], 1) for _ in range(2 if warm < 5 else 1))
    best = min(seconds, key=seconds.get)
    workers.answer({**same, "layout": best, "seconds_by_layout": seconds})
    for line in sys.stdin:
        asked = json.loads(line)
        workers.answer({"seconds": timed(steps[best], asked["calls"], asked["what"])})


if __name__ == "__main__":
    main(workers.told())
