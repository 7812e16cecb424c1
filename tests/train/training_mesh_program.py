"""Run on 8 devices by test_training_mesh.py: trains on a mesh and alone, and compares."""

import jax
import numpy as np

from tsam_jax.train import config, loop
from tsam_jax.train.mesh import make_devices
from tsam_jax.train.settings import parse
from tsam_jax.train.task import load_task

TASK = config.Task(model="mlp", train_size=80, width=8, depth=1, label_noise=0.4)
OPTIMIZER = config.Optimizer(batch_size=40)
TSAM = "tsam(t=5, rho=0.1, s=4, noise=sphere(rms=0.05))"
CASES = {"data=4,sample=2": TSAM, "sample=4": TSAM, "data=8": "sam(rho=0.1)"}


def trained(text, mesh):
    [setting] = parse(text)
    devices = make_devices(mesh, setting, OPTIMIZER)
    task = load_task(TASK, [0], devices)
    data = task.of_seed(0)
    plan = loop.plan_for(setting, OPTIMIZER, TASK.train_size, 2)
    program = loop.make_program(task.network, plan, TASK.train_size, devices=devices)
    start = program.init(0, loop.numbers_for(setting, OPTIMIZER))
    compiled = program.advance.lower(start, data, 2).compile().as_text()
    [last] = loop.train(program, start, data, ends=[2])
    return last, "all-reduce" in compiled


def main() -> None:
    assert jax.device_count() == 8
    for mesh, text in CASES.items():
        alone, alone_talks = trained(text, None)
        spread, talks = trained(text, mesh)
        assert talks
        assert not alone_talks
        leaves = jax.tree.leaves((alone.state.params, alone.metrics))
        for a, b in zip(
            leaves, jax.tree.leaves((spread.state.params, spread.metrics)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=mesh)
        for x in jax.tree.leaves(spread.state):
            assert x.sharding.is_fully_replicated
        print(mesh)  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
