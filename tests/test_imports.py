"""The direction in which tsam_jax's parts may import each other, and what the core may load."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tsam_jax

PACKAGE = Path(tsam_jax.__file__).parent

# What each part may import: parts of tsam_jax, all of them above it in the table, then third-party
# packages. A part is a module or a subpackage, directly under tsam_jax; "__init__" is
# `import tsam_jax` itself.
ARRAYS = {"jax", "numpy", "optax"}
HELPERS = {"_checks", "_tree", "_mesh"}
CORE = HELPERS | {"noise", "tilting", "estimator", "_fold", "methods", "transform"}
MAY_IMPORT: dict[str, tuple[set[str], set[str]]] = {
    "_checks": (set(), {"jax", "numpy"}),
    "_tree": ({"_checks"}, {"jax"}),
    "_mesh": ({"_checks", "_tree"}, {"jax"}),
    "_threefry": (HELPERS, {"jax", "numpy"}),
    "convolution": ({"_mesh"}, {"jax"}),
    "noise": (HELPERS | {"_threefry"}, {"jax"}),
    "tilting": (HELPERS, {"jax"}),
    "estimator": (HELPERS, ARRAYS),
    "_fold": (HELPERS | {"tilting", "estimator"}, {"jax"}),
    "methods": (HELPERS | {"noise", "tilting", "estimator", "_fold"}, {"jax", "numpy"}),
    "transform": (HELPERS | {"tilting", "estimator", "methods"}, ARRAYS),
    "nnx": (CORE, ARRAYS | {"flax"}),
    "__init__": (CORE - HELPERS - {"_fold"}, set()),
    "analysis": (CORE, ARRAYS | {"matfree", "matplotlib", "scipy"}),
    "models": ({"convolution", "_mesh"}, {"jax", "numpy", "flax", "safetensors"}),
    "data": (
        set(),
        {"jax", "numpy", "tensorflow_datasets", "sklearn", "PIL", "tokenizers", "grain"},
    ),
    "recipes": (set(), set()),
    "train": (
        CORE | {"analysis", "models", "data", "recipes"},
        ARRAYS
        | {
            "flax",
            "jinja2",
            "matplotlib",
            "orbax",
            "rich",
            "scipy",
            "sklearn",
            "tensorboardX",
            "typeguard",
            "tyro",
            "wandb",
        },
    ),
    "commands": (
        {"methods", "analysis", "recipes", "train"},
        ARRAYS | {"rich", "tyro"},
    ),
    "cli": ({"train", "commands"}, {"tyro", "rich"}),
}

HEAVY = ("flax", "matplotlib", "sklearn", "orbax", "tyro", "rich", "matfree", "tensorflow_datasets")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """The dotted name of a module: that of the folder for an `__init__`."""
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


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


def statements(tree: ast.AST, *, in_functions: bool) -> Iterator[ast.AST]:
    """Yields all nodes of a module; those in functions only if asked for."""
    for node in ast.iter_child_nodes(tree):
        if in_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            yield from statements(node, in_functions=in_functions)


def imported_names(path: Path, *, in_functions: bool = False) -> set[str]:
    """The `module.name` of each `from module import name`, and what `import` names."""
    names = set()
    for node in statements(ast.parse(path.read_text()), in_functions=in_functions):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_the_table_has_every_part_and_no_other():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts == set(MAY_IMPORT), "say in MAY_IMPORT what the new part may import"


def test_the_table_has_no_circles():
    above: set[str] = set()
    for part, (internal, _) in MAY_IMPORT.items():
        assert internal <= above, part
        above.add(part)


def test_training_is_for_the_commands_and_the_commands_for_the_command_line():
    allowed = {"train": {"train", "commands", "cli"}, "commands": {"commands", "cli"}, "cli": set()}
    for path in PACKAGE.rglob("*.py"):
        for name in imported_names(path, in_functions=True):
            target = name.split(".")[1] if name.startswith("tsam_jax.") else ""
            assert part_of(path) in allowed.get(target, {part_of(path)}), f"{path} imports {name}"


def test_the_help_of_a_command_loads_no_heavy_package():
    """Users wait for it first, for seconds if all of these are imported."""
    program = """
import sys
from tsam_jax import cli
try:
    cli.main(["train", "--help"])
except SystemExit:
    pass
heavy = {"flax", "orbax", "sklearn", "matplotlib", "tensorflow_datasets", "matfree"}
sys.stderr.write(str(sorted(heavy & set(sys.modules))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.stderr == "[]"
    assert "usage: tsam-jax train" in done.stdout


def test_modules_import_each_other_in_no_circle():
    """Also those of one part. An import in a function, which the core has none of, may go back."""
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    graph = {}
    for module, path in paths.items():
        names = imported_names(path)
        if part_of(path) in CORE | {"_threefry", "convolution", "nnx", "__init__"}:
            assert names == imported_names(path, in_functions=True), path
        found = {name if name in paths else name.rpartition(".")[0] for name in names}
        graph[module] = found & paths.keys()
    assert {"tsam_jax._fold", "tsam_jax.methods.ascent"} <= graph["tsam_jax.methods.tilted"]
    graphlib.TopologicalSorter(graph).prepare()  # raises on a circle


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
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
