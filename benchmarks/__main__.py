"""`python -m benchmarks [PART]`: without a part, all of them; see README.md."""

import sys
from typing import Any

import tyro

from benchmarks import (
    against_torch,
    compilation,
    convolution,
    devices,
    dispatch,
    each_method,
    everything,
    memory,
    noise,
    record,
    render,
    sam,
    scaling,
    step,
    variance,
)

# Name -> module, and its seconds by default.
PARTS = {
    "step": (step, 330),
    "torch": (against_torch, 220),
    "sam": (sam, 40),
    "compile": (compilation, 70),
    "memory": (memory, 50),
    "scaling": (scaling, 80),
    "devices": (devices, 30),
    "dispatch": (dispatch, 40),
    "methods": (each_method, 40),
    "noise": (noise, 30),
    "convolution": (convolution, 40),
    "variance": (variance, 30),
}


SETTINGS = {
    "all": everything.Settings,
    **{name: module.Settings for name, (module, _) in PARTS.items()},
    "render": render.Settings,
}


def parse(arguments: list[str]) -> tuple[str, Any]:
    """Returns the name of the part and its settings; without a part, those of all."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help"}):
        arguments = ["all", *arguments]
    settings = tyro.extras.subcommand_cli_from_dict(
        SETTINGS, args=arguments, prog="python -m benchmarks"
    )
    return next(name for name, kind in SETTINGS.items() if type(settings) is kind), settings


def main(arguments: list[str]) -> None:
    name, settings = parse(arguments)
    if name == "all":
        everything.run({part: seconds for part, (_, seconds) in PARTS.items()}, settings)
    elif name == "render":
        render.run(settings)
    else:
        module, seconds = PARTS[name]
        print(record.run(name, module.measure_all, settings, seconds=seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
