"""Try an installed tsam_jax: `smoke.py` the core, `smoke.py train` the command line as well."""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import tsam_jax


def main(*, train: bool) -> None:
    installed = Path(tsam_jax.__file__).parent
    assert (installed / "py.typed").is_file()
    optimizer = tsam_jax.tsam(optax.sgd(0.1), t=20.0, rho=0.05, s=3)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(None, state, params, value_fn=lambda p: jnp.sum(p**2))
        return optax.apply_updates(params, updates), state

    params = jnp.ones(3)
    state = optimizer.init(params)
    for _ in range(20):
        params, state = step(params, state)
    assert float(jnp.sum(params**2)) < 0.1, params
    if train:
        call("--help")
        with tempfile.TemporaryDirectory() as folder:
            call("compare", "--epochs", "2", "--seeds", "1", "--out", f"{folder}/run")
            assert (Path(folder) / "run/report.html").is_file()
    print(f"tsam_jax {tsam_jax.__version__} in {installed} works: Python {sys.version.split()[0]}")


def call(*words: str) -> None:
    subprocess.run([Path(sys.executable).with_name("tsam-jax"), *words], check=True)


if __name__ == "__main__":
    main(train=sys.argv[1:] == ["train"])
