"""Runs tutorials and writes them with their outputs: `make notebooks`.

    .venv/bin/python notebooks/execute.py [tutorials/1_five_minutes.py ...]

A tutorial is written as a Python file with `# %%` cells; its .ipynb is made of it here, and never
edited.
"""

import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
SVG = "--InlineBackend.figure_formats={'svg'}"  # sharp on every screen
os.environ["SOURCE_DATE_EPOCH"] = "0"  # with tutorials/matplotlibrc: the same from run to run


def main(sources: list[Path]) -> None:
    for source in sources:
        start = time.monotonic()
        notebook = executed(source)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.name}: {time.monotonic() - start:.0f} s", flush=True)


def executed(source: Path) -> nbformat.NotebookNode:
    """Returns the notebook of a source with outputs, and without what differs from run to run."""
    notebook = jupytext.read(source)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    resources = {"metadata": {"path": str(source.parent)}}
    svg = "--InlineBackend.figure_formats={'svg'}"  # sharp on every screen
    client = NotebookClient(notebook, timeout=600, resources=resources, extra_arguments=[svg])
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("tutorials/*.py")))
