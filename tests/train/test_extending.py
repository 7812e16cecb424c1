"""Additions as notebooks/extending.md describes them, in a copy of the package: one file each."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tsam_jax

PACKAGE = Path(tsam_jax.__file__).parent

DATA = '''
"""Two spirals."""
import numpy as np
from tsam_jax.data.splits import Source, array_records

def open_source(location: str = "") -> Source:
    """Opens "spirals:TURNS"."""
    t = np.linspace(0.5, 1, 60)[:, None] * 2 * np.pi * float(location)
    x = np.concatenate([t * np.hstack([np.cos(t), np.sin(t)]) * sign for sign in (1, -1)])
    records = array_records(x.astype(np.float32), np.repeat([0, 1], 60).astype(np.int32))
    return Source("spirals", {"train": records}, 2, ("a", "b"), kind="vector")
'''
MODEL = '''
"""A linear model."""
from flax import nnx

def build(num_outputs, *, image_shape, rngs, dtype=None, dropout=0.0, remat=False):
    """A dense layer."""
    return nnx.Linear(image_shape[-1], num_outputs, rngs=rngs)
'''
COMMAND = '''
"""`tsam-jax hello`."""
import dataclasses

@dataclasses.dataclass(frozen=True)
class Hello:
    """Greet someone."""

    name: str = "you"

    def run(self, console) -> int:
        """Prints a greeting."""
        console.print(f"Hello {self.name}")
        return 0
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "tsam_jax")
    return root


def run(root, *commands):
    """Runs commands one after the other in a process: their exit statuses are its last line."""
    program = f"import sys; from tsam_jax import cli; print([cli.main(w) for w in {commands}])"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def insert(path, after, line):
    text = path.read_text()
    assert text.count(after) == 1
    path.write_text(text.replace(after, after + line))


@pytest.mark.slow
def test_each_addition_is_one_file(copy):
    package = copy / "tsam_jax"
    (package / "data/spirals.py").write_text(DATA)
    (package / "commands/hello.py").write_text(COMMAND)
    insert(
        package / "train/optimizers.py",
        "SCHEDULES: Mapping[str, Callable[[Any, int], Any]] = {\n",
        '    "halved": lambda r, n: optax.piecewise_constant_schedule(r, {n // 2: 0.5}),\n',
    )
    insert(
        package / "train/metrics.py",
        '    Metric("accuracy", accuracy, percent=True),\n',
        '    Metric("error", lambda x, y: 1 - accuracy(x, y), higher_is_better=False),\n',
    )
    insert(
        package / "train/task.py",
        '    "none": None,\n',
        '    "mirrored": lambda key, x, m, s: augmentation.normalise(x[:, ::-1], m, s),\n',
    )
    (package / "models/linear.py").write_text(MODEL)  # a model: its file, and its name
    table = package / "models/__init__.py"
    insert(table, "from tsam_jax.models import bert, cnn, distilbert, ", "linear, ")
    insert(
        table,
        "MODELS: dict[str, Entry] = {\n",
        '    "linear": _image("a dense layer", linear.build),\n',
    )
    words = ["train", "spirals:1.5", "--method", "sam(rho=0.05)", "--schedule", "halved"]
    words += ["--metrics", "error", "accuracy", "--epochs", "3", "--batch-size", "12"]
    done = run(
        copy,
        [*words, "--out", "run"],
        ["hello", "--name", "Ada"],
        ["--help"],
        ["train", "digits", "--augmentation", "mirrored", "--epochs", "1"],
        ["train", "--dataset", "folder:x", "--model", "linaer"],
    )
    assert done.stdout.endswith("[0, 0, 0, 2, 2]\n"), done.stderr
    result = json.loads((copy / "run/rows.jsonl").read_text())
    assert result["final"]["test_error"] == pytest.approx(1 - result["final"]["test_accuracy"])
    lines = [json.loads(line) for line in (copy / "run/metrics.jsonl").read_text().splitlines()]
    least = min(line["validation_error"] for line in lines)
    assert result["best"]["validation_error"] == least  # lower is better, from the table
    assert "\nHello Ada\n" in done.stdout
    assert "hello      Greet someone." in done.stdout
    assert "`--augmentation mirrored` is for images" in done.stderr
    assert "Perhaps you meant `linear`" in done.stderr
