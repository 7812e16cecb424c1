"""What the public interface is: the modules without an underscore, and the names in them."""

import importlib
import inspect
import pkgutil
from types import ModuleType

DOCUMENTED = (
    "tsam_jax",
    "tsam_jax.methods",
    "tsam_jax.noise",
    "tsam_jax.tilting",
    "tsam_jax.nnx",
    "tsam_jax.convolution",
    "tsam_jax.analysis",
    "tsam_jax.train",
)
"""Modules with a section of their own in api/, written by hand."""

LISTED = ("tsam_jax.models", "tsam_jax.data", "tsam_jax.recipes")
"""Packages in which every public module is documented, with what it defines."""

COMMANDS = ("tsam_jax.cli", "tsam_jax.commands")
"""Documented by what they print, in commands.md."""

WHOLE = ("tsam_jax.methods", "tsam_jax.train", "tsam_jax.commands")
"""Packages whose modules are files of one interface, that of the package."""


def modules_of(package: str) -> list[str]:
    """Returns the public modules of a package, itself first, in the order of the alphabet."""
    path = importlib.import_module(package).__path__
    found = [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    inside = tuple(f"{whole}." for whole in WHOLE)
    return [package, *sorted(x for x in found if "._" not in x and not x.startswith(inside))]


def names_of(module: str) -> dict[str, object]:
    """Returns the public names of a module: `__all__`, or else what it defines and describes."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None) or [
        name
        for name, thing in vars(loaded).items()
        if not name.startswith("_")
        and getattr(thing, "__module__", None) == module
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__doc__
    ]
    things = {name: getattr(loaded, name) for name in sorted(names)}
    return {name: thing for name, thing in things.items() if not isinstance(thing, ModuleType)}


def full_name(code: str, within: str) -> str | None:
    """Returns the documented name that a piece of code in a module's docstring stands for."""
    code = code.removeprefix("tsam_jax.")
    module, _, name = code.rpartition(".")
    candidates = [f"tsam_jax.{module}"] if module else [within, "tsam_jax"]
    for candidate in candidates:
        if candidate in DOCUMENTED and name in names_of(candidate):
            return f"{candidate}.{name}"
    return None
