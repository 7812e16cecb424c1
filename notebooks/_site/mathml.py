"""Formulas as MathML, which browsers show without a script and without a network."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _mathml(formula: str, **options: str) -> str:
    formula = re.sub(
        r"\\log(?= *\\(?:mathbb|frac|sum))", r"\\log\\,", formula
    )  # as LaTeX spaces it
    converted = convert(formula.replace(r"\arg", r"\mathrm{arg}"), **options)
    if "\\" in converted:
        msg = f"The formula {formula!r} has a command that latex2mathml does not know."
        raise ValueError(msg)
    return converted


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(f'<span class="math">{_mathml(node.astext())}</span>')
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    formula = _mathml(node.astext(), display="block")
    writer.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode
