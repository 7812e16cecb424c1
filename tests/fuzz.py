"""Seeded fuzz of all that users give: data files, tokenizers, run files, settings, grids, bases.

`python tests/fuzz.py --inputs 9000 --seed 0` prints one Markdown table. Each input must be read
rightly or refused in one sentence; the exit status is 1 if one caused a traceback, was read
wrongly, or was refused though it is good.
"""

import argparse
import collections
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "datasets"), str(HERE / "train")]

import fuzz_expressions  # noqa: E402
import fuzz_files  # noqa: E402

OUTCOMES = ("refused clearly", "right", "refused though good", "traceback", "silently wrong")

KINDS: dict[str, Callable[[int, int, Path], tuple[str, str]]] = {
    **fuzz_files.KINDS,
    **fuzz_expressions.KINDS,
}
"""Kind -> (seed, number of the input, empty folder) -> the outcome, and what was said."""


def run(inputs, seed, report):
    """Counts the outcomes by kind; reports what is not as it should be."""
    counts = {kind: collections.Counter() for kind in KINDS}
    above = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        for i in range(inputs):
            kind = list(KINDS)[i % len(KINDS)]
            root = above / str(i)
            root.mkdir()
            outcome, said = KINDS[kind](seed, i, root)
            if (root / "executed").exists():
                outcome, said = "silently wrong", "executed"
            counts[kind][outcome] += 1
            if outcome in OUTCOMES[2:]:
                report(f"{outcome}: {kind}, input {i}: {said[:600]}")
            shutil.rmtree(root)
    finally:
        shutil.rmtree(above, ignore_errors=True)
    return counts


def render(counts):
    lines = [f"| kind | inputs | {' | '.join(OUTCOMES)} |", "|---" * (len(OUTCOMES) + 2) + "|"]
    for kind, found in [*counts.items(), ("all", sum(counts.values(), collections.Counter()))]:
        cells = [kind, str(sum(found.values())), *(str(found[outcome]) for outcome in OUTCOMES)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    start = time.monotonic()
    counts = run(given.inputs, given.seed, lambda line: sys.stderr.write(line + "\n"))
    sys.stdout.write(render(counts) + "\n")
    sys.stdout.write(f"\n{time.monotonic() - start:.0f} s, seed {given.seed}\n")
    return int(any(found[outcome] for found in counts.values() for outcome in OUTCOMES[2:]))


if __name__ == "__main__":
    sys.exit(main())
