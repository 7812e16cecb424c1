"""Check that a tag may be released: `release.py v0.1.0`. Standard library only."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems(tag: str) -> list[str]:
    """Returns what is wrong with the tag, the version or the address, a sentence each."""
    package = (ROOT / "tsam_jax/__init__.py").read_text()
    version = re.search(r'^__version__ = "(.+)"$', package, re.MULTILINE)[1]
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"][
        "hooks"
    ]
    checks = {
        f"the tag is {tag}, and __version__ is {version}": tag == f"v{version}",
        "`repository` in pyproject.toml is empty": bool(hooks["custom"]["repository"]),
        f"CITATION.cff is not of version {version}": (
            f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
        ),
        f"CHANGELOG.md has no dated section of {version}": bool(
            re.search(
                rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$",
                (ROOT / "CHANGELOG.md").read_text(),
                re.MULTILINE,
            )
        ),
    }
    return [problem for problem, fine in checks.items() if not fine]


if __name__ == "__main__":
    sys.exit("\n".join(problems(sys.argv[1])) or 0)
