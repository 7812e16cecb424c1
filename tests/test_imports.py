"""The direction in which tsam_jax's parts may import each other, and what the core may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tsam_jax

PACKAGE = Path(tsam_jax.__file__).parent

# What each part may import: parts of tsam_jax, then third-party packages. A part is a module
# or a subpackage, directly under tsam_jax; "__init__" is `import tsam_jax` itself.
ARRAYS = {"jax", "jaxlib", "numpy", "optax", "chex"}
BASE = {"_types", "_checks", "_tree", "_axes"}
SAMPLING = BASE | {"noise", "tilting"}
CORE = SAMPLING | {"estimator", "execution", "methods", "transform"}
MAY_IMPORT: dict[str, tuple[set[str], set[str]]] = {
    "_types": (set(), ARRAYS),
    "_checks": ({"_types"}, ARRAYS),
    "_tree": ({"_types"}, ARRAYS),
    "_axes": ({"_types", "_tree"}, ARRAYS),
    "convolution": ({"_axes"}, {"jax"}),
    "noise": (BASE, ARRAYS),
    "tilting": (BASE, ARRAYS),
    "estimator": (SAMPLING, ARRAYS),
    "execution": (SAMPLING | {"estimator"}, ARRAYS),
    "methods": (SAMPLING | {"estimator", "execution"}, ARRAYS),
    "transform": (SAMPLING | {"estimator", "execution", "methods"}, ARRAYS),
    "nnx": (CORE, ARRAYS | {"flax"}),
    "__init__": (CORE, set()),
    "analysis": (CORE, ARRAYS | {"matfree", "matplotlib", "scipy"}),
    "models": ({"convolution"}, {"jax", "numpy", "flax", "safetensors"}),
    "data": (
        set(),
        {"jax", "numpy", "tensorflow_datasets", "sklearn", "PIL", "tokenizers", "grain"},
    ),
    "train": (
        CORE | {"analysis", "models", "data", "recipes"},
        ARRAYS
        | {
            "flax",
            "matplotlib",
            "orbax",
            "rich",
            "scipy",
            "sklearn",
            "tensorboardX",
            "tyro",
            "wandb",
        },
    ),
    "recipes": (set(), set()),
    "cli": ({"train", "analysis"}, {"tyro", "rich"}),
    "__main__": ({"cli"}, set()),
}

HEAVY = ("flax", "matplotlib", "sklearn", "orbax", "tyro", "rich", "matfree", "tensorflow_datasets")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Yields the absolute dotted name behind each import statement, nested ones included."""
    package = ("tsam_jax", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "tsam_jax":
                yield from (f"tsam_jax.{alias.name}" for alias in node.names)
            else:
                yield module


def test_every_part_is_in_the_table():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts <= set(MAY_IMPORT), "say in MAY_IMPORT what the new part may import"


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_down_the_table(part):
    internal, external = MAY_IMPORT[part]
    wrong = []
    for path in (path for path in PACKAGE.rglob("*.py") if part_of(path) == part):
        for module in imported_modules(path):
            root, _, rest = module.partition(".")
            target = rest.split(".")[0]
            allowed = (
                target in internal | {part}
                if root == "tsam_jax"
                else root in external | sys.stdlib_module_names
            )
            if not allowed:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert not wrong


def test_importing_tsam_jax_needs_only_the_core_dependencies():
    program = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
import tsam_jax
for name in tsam_jax.__all__:
    getattr(tsam_jax, name)
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
