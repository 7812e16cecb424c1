"""Everything that depends on the repository's address, made from one setting.

The setting is `repository` in pyproject.toml, such as "https://github.com/owner/name"; while it is
empty there are no project URLs, no badges and no link that could be dead. Two uses:

- hatchling calls `Metadata` for every build: project URLs, and README.md as the package index shows
  it, where a relative link would point nowhere;
- `python .ci/metadata.py` (`make links`) writes the badges into README.md and the address into
  CITATION.cff. Run it after changing the setting.
"""

import re
import tomllib
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parent.parent
BADGES = re.compile(r"(<!-- badges -->\n).*?(<!-- /badges -->)", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
PATH = r"(?![a-z]+:|#)([^)\s\"]+)"  # of this repository: no address, no heading of the page
TARGET = re.compile(rf'(\]\(|(?:src|srcset|href)="){PATH}(?=[)"])')
PICTURE = re.compile(rf"!\[[^\]]*\]\({PATH}\)|<picture>.*?</picture>|<img [^>]*>", re.DOTALL)
LINK = re.compile(rf"\[([^\[\]]*)\]\({PATH}\)")
PICTURES = (".png", ".svg", ".gif")


class Metadata(MetadataHookInterface):
    """Hatchling's hook for the dynamic fields `urls` and `readme`."""

    def update(self, metadata: dict) -> None:
        root, repository = Path(self.root), self.config["repository"]
        readme = (root / "README.md").read_text()
        text = readme_of_the_index(readme, repository, metadata["version"])
        metadata["urls"] = urls(repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def urls(repository: str) -> dict[str, str]:
    """Returns the project URLs; none while the address is not decided."""
    if not repository:
        return {}
    return {
        "Repository": repository,
        "Documentation": documentation(repository),
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def documentation(repository: str) -> str:
    """Returns where .github/workflows/docs.yml publishes the pages."""
    owner, name = repository.rstrip("/").split("/")[-2:]
    return f"https://{owner.lower()}.github.io/{name}/"


def badges(repository: str) -> str:
    """Returns the lines between README.md's two badge comments."""
    if not repository:
        return ""
    workflow = f"{repository}/actions/workflows/tests.yml"
    index = "https://pypi.org/project/tsam-jax/"
    return (
        f"[![tests]({workflow}/badge.svg)]({workflow})\n"
        f"[![PyPI](https://img.shields.io/pypi/v/tsam-jax)]({index})\n"
        f"[![docs](https://img.shields.io/badge/docs-online-blue)]({documentation(repository)})\n"
    )


def readme_of_the_index(readme: str, repository: str, version: str) -> str:
    """Returns README.md with absolute links into the release's tag, and without comments.

    While the address is not decided, a link becomes its text and a picture is left out.
    """

    def absolute(target: re.Match) -> str:
        before, path = target.groups()
        kind = "raw" if path.endswith(PICTURES) else "blob"
        return f"{before}{repository}/{kind}/v{version}/{path}"

    def changed(text: str) -> str:
        if repository:
            return TARGET.sub(absolute, text)
        return LINK.sub(r"\1", PICTURE.sub("", text))

    text = COMMENT.sub("", with_badges(readme, repository))
    code = CODE.findall(text)  # a link's text may have code, but code has no links
    hidden = CODE.sub("\0", text)
    return re.sub("\0", lambda _: code.pop(0), changed(hidden))


def with_badges(readme: str, repository: str) -> str:
    return BADGES.sub(lambda found: found[1] + badges(repository) + found[2], readme)


def with_address(citation: str, repository: str) -> str:
    """Returns CITATION.cff with the address, or without one."""
    rest = re.sub(r"^repository-code: .*\n", "", citation, flags=re.MULTILINE)
    line = f'repository-code: "{repository}"\n' if repository else ""
    return re.sub(r"^(license: .*\n)", lambda found: found[1] + line, rest, flags=re.MULTILINE)


def setting() -> str:
    """Returns the repository's address in pyproject.toml; "" while it is not decided."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    return tool["hatch"]["metadata"]["hooks"]["custom"]["repository"]


if __name__ == "__main__":
    for name, change in (("README.md", with_badges), ("CITATION.cff", with_address)):
        path = ROOT / name
        path.write_text(change(path.read_text(), setting()))
