"""What is uploaded: versions, links, the files of the sdist, pinned workflows."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder

import tsam_jax

ROOT = Path(__file__).parent.parent
ADDRESS = "https://github.com/owner/name"
README = """# tsam_jax
<!-- badges -->
old
<!-- /badges -->
[![loss](docs/a.png)](docs/b.md) [guide](notebooks/c.md#d), [`f[0]`](e.py) [top](#top) [jax](https://jax.dev)
![a picture](docs/a.png)
<picture><source srcset="docs/dark.svg"><img src="docs/light.svg"></picture>
```python
made = [double](three)
```
"""


def loaded(name):
    """A module of .ci/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f".ci/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


metadata = loaded("metadata")
release = loaded("release")


def test_the_version_needs_no_jax():
    code = "import sys, tsam_jax; assert 'jax' not in sys.modules; print(tsam_jax.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tsam_jax.__version__


def test_all_files_have_the_same_version():
    version = tsam_jax.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == version


def test_badges_and_citation_are_made_from_the_setting():
    for name, change in (
        ("README.md", metadata.with_badges),
        ("CITATION.cff", metadata.with_address),
    ):
        text = (ROOT / name).read_text()
        assert change(text, metadata.setting()) == text, "run `make links`"
    assert "<!-- badges -->\n" in (ROOT / "README.md").read_text()


def test_without_an_address_the_index_gets_no_link_to_it():
    text = metadata.readme_of_the_index(README, "", "1.2.3")
    assert text.split("\n```", maxsplit=1)[0].splitlines() == [
        "# tsam_jax",
        " guide, `f[0]` [top](#top) [jax](https://jax.dev)",
        "",
    ]
    assert metadata.urls("") == {}
    whole = metadata.readme_of_the_index((ROOT / "README.md").read_text(), "", "1.2.3")
    links = re.findall(r"\]\(([^)]+)\)", whole)
    assert links
    assert all(link.startswith(("#", "https://")) for link in links)


def test_with_an_address_all_links_are_absolute():
    text = metadata.readme_of_the_index(README, ADDRESS, "1.2.3")
    assert f"[guide]({ADDRESS}/blob/v1.2.3/notebooks/c.md#d)" in text
    assert f"[![loss]({ADDRESS}/raw/v1.2.3/docs/a.png)]({ADDRESS}/blob/v1.2.3/docs/b.md)" in text
    assert f'srcset="{ADDRESS}/raw/v1.2.3/docs/dark.svg"' in text
    assert "made = [double](three)" in text
    assert f"![a picture]({ADDRESS}/raw/v1.2.3/docs/a.png)" in text
    assert f"[![tests]({ADDRESS}/actions/workflows/tests.yml/badge.svg)]" in text
    assert "<!--" not in text
    assert "old" not in text
    addresses = metadata.urls(ADDRESS)
    assert addresses["Documentation"] == "https://owner.github.io/name/"
    assert addresses["Repository"] == ADDRESS


def test_the_address_goes_into_the_citation_once_and_comes_out_again():
    citation = (ROOT / "CITATION.cff").read_text()
    without = metadata.with_address(citation, "")
    put = metadata.with_address(metadata.with_address(without, ADDRESS), ADDRESS)
    assert put.count(f'\nrepository-code: "{ADDRESS}"\n') == 1
    assert metadata.with_address(put, "") == without


def test_only_a_tag_of_the_version_is_released():
    assert any("v9.9.9" in problem for problem in release.problems("v9.9.9"))
    fine = release.problems(f"v{tsam_jax.__version__}")
    assert not any("__version__" in problem for problem in fine)
    assert not any("CITATION" in problem for problem in fine)


def test_the_sdist_has_every_file():
    if not (ROOT / ".git").exists():
        pytest.skip("only a checkout knows which files there are")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    builder = SdistBuilder(str(ROOT))
    included = {file.relative_path for file in builder.recurse_included_files()}
    missing = {name for name in tracked.split("\0") if name} - included
    missing -= {".gitignore", "pyproject.toml"}  # which the builder adds
    assert {name for name in missing if (ROOT / name).exists()} == set()


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path):
    for line in re.findall(r"uses: (.+)", path.read_text()):
        assert re.fullmatch(r"\./.+|[\w/.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
