"""The page of a report: one HTML file without external resources, in light and dark."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tsam_jax.train.results import Comparison, MethodResult

Columns = Sequence[tuple[Sequence[str], str]]
Rows = Sequence[tuple[str, Sequence[tuple[str, str]]]]

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1d2126; --soft: #5b6470; --line: #dde1e6; --page: #ffffff; --card: #f6f7f9;
  --warn-ink: #6b3d00; --warn: #fff3d6; --warn-line: #e0a82e; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e8eb; --soft: #9aa4b0; --line: #363c45; --page: #15181c; --card: #1e2228;
  --warn-ink: #ffdf9e; --warn: #3a2c0c; --warn-line: #a87b1e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { max-width: 46rem; }
code, pre { font: .875em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.banner { margin: 1.25rem 0; padding: .75rem 1rem; border: 1px solid var(--warn-line);
  border-left-width: 6px; border-radius: 6px; background: var(--warn); color: var(--warn-ink); }
.banner ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-size: .85rem; line-height: 1.3; vertical-align: bottom;
  border-bottom-width: 2px; }
th { text-align: left; font-weight: 600; }
tbody th { font-weight: 400; min-width: 11rem; }
.number { text-align: right; white-space: nowrap; }
.spread { display: block; color: var(--soft); font-size: .85rem; }
.legend, figcaption { color: var(--soft); font-size: .875rem; }
figure { margin: 1.5rem 0 2rem; }
figure img { width: 100%; height: auto; padding: .75rem; border-radius: 8px; background: #fff;
  border: 1px solid var(--line); }
figure.narrow { max-width: 46rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: break-word; }
.pair { display: inline-block; margin-right: 1.1rem; }
.pair > span { color: var(--soft); }
pre { overflow-x: auto; padding: 1rem; border-radius: 6px; background: var(--card); }
summary { cursor: pointer; }
"""

_CAPTIONS = {
    "learning_curves": (
        "",
        "Accuracy and loss against mini-batch gradients spent: a step of ERM costs one, of SAM two,"
        " of TSAM with s samples twice s. Training accuracy is on the labels that were trained on;"
        " with noisy labels, a high one means memorised noise.",
    ),
    "sharpness": (
        "narrow",
        "Training loss under random noise on the final parameters: mean increase E[L(θ+ε)] - L(θ)"
        " and variance Var[L(θ+ε)]. Lower is flatter.",
    ),
}


def render_page(
    comparison: Comparison,
    /,
    *,
    columns: Columns,
    rows: Rows,
    figures: Mapping[str, bytes],
) -> str:
    """Makes the page.

    Args:
      comparison: the results, complete or not.
      columns: for each column of the table, the words of its heading, and its meaning.
      rows: for each method its label, and (number, half width) per column.
      figures: "learning_curves" and "sharpness" -> PNG.

    Returns:
      HTML; every text from the comparison is escaped.
    """
    title = f"Sharpness-aware training on {comparison.task.get('name', 'one task')}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        *(f"<p>{_text(sentence)}</p>" for sentence in _in_words(comparison)),
        "" if comparison.complete else _banner(comparison),
        "<h2>Results</h2>",
        _table(columns, rows),
        *(_figure(name, image) for name, image in figures.items()),
        "<h2>Settings</h2>",
        _settings_table(comparison.methods),
        "<h2>Task</h2>",
        _definitions(comparison.task),
        "<h2>Versions</h2>",
        _definitions(comparison.versions),
        "<details><summary>Configuration</summary>",
        f"<pre>{_text(json.dumps(comparison.to_json_dict()['config'], indent=2))}</pre></details>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _in_words(comparison: Comparison) -> list[str]:
    methods, noise = comparison.methods, comparison.task.get("label_noise")
    if not methods:
        return ["No method has results yet."]
    seeds = _range([len(method.seeds) for method in methods])
    spent = [method.gradient_evaluations for method in methods]
    sentences = [
        f"{len(methods)} method{'s' * (len(methods) > 1)}, {seeds} seed{'s' * (seeds != '1')} each,"
        f" {_range(spent)} mini-batch gradients per seed."
    ]
    if isinstance(noise, int | float) and noise > 0:
        sentences[0] += (
            f" {100 * noise:.3g} % of the training labels were replaced by other labels."
        )
    if any(len(method.seeds) > 1 for method in methods):
        sentences.append(
            "Numbers are means over seeds; ± and the bands in the figures are 95 % intervals"
            " of these means (Student's t)."
        )
    return sentences


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _banner(comparison: Comparison) -> str:
    missing = []
    for method in comparison.methods:
        lacks = []
        if method.epochs < method.planned_epochs:
            lacks.append(f"{method.epochs} of {method.planned_epochs} epochs finished")
        if not method.is_analysed:
            lacks.append("sharpness not measured")
        if lacks:
            missing.append((method.label, ", ".join(lacks)))
    planned = comparison.config.get("methods", ())
    if isinstance(planned, list | tuple):
        started = {method.label for method in comparison.methods}
        missing += [(label, "not started") for label in planned if label not in started]
    items = "".join(
        f"<li><code>{_text(label)}</code>: {_text(what)}</li>" for label, what in missing
    )
    return (
        '<div class="banner" role="alert"><strong>This run was interrupted: the results are'
        f" incomplete.</strong>{f'<ul>{items}</ul>' if items else ''}</div>"
    )


def _table(columns: Columns, rows: Rows) -> str:
    head = "".join(
        f'<th scope="col" class="number">{"<br>".join(map(_text, words))}</th>'
        for words, _ in columns
    )
    body = "".join(
        f'<tr><th scope="row"><code>{_text(label)}</code></th>'
        + "".join(
            f'<td class="number">{_text(value)}<span class="spread">{_text(spread)}</span></td>'
            for value, spread in cells
        )
        + "</tr>"
        for label, cells in rows
    )
    legend = _definitions({" ".join(words): meaning for words, meaning in columns})
    return (
        f'<div class="wide"><table><thead><tr><th scope="col">method</th>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><div class="legend">{legend}</div>'
    )


def _figure(name: str, image: bytes) -> str:
    style, caption = _CAPTIONS[name]
    data = base64.b64encode(image).decode()
    return (
        f'<figure class="{style}"><img src="data:image/png;base64,{data}" alt="{_text(caption)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _settings_table(methods: Sequence[MethodResult]) -> str:
    headings = ("epochs", "steps per epoch", "gradients per step", "seeds")
    head = "".join(f'<th scope="col" class="number">{heading}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row"><code>{_text(method.label)}</code></th>'
        f'<td class="number">{method.epochs} of {method.planned_epochs}</td>'
        f'<td class="number">{method.steps_per_epoch}</td>'
        f'<td class="number">{method.gradients_per_step:g}</td>'
        f'<td class="number">{_text(", ".join(map(str, method.seeds)))}</td>'
        f"<td>{_pairs(method.settings)}</td></tr>"
        for method in methods
    )
    return (
        f'<div class="wide"><table><thead><tr><th scope="col">method</th>{head}'
        f'<th scope="col">settings</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _definitions(entries: Mapping[str, Any]) -> str:
    pairs = (f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in entries.items())
    return f"<dl>{''.join(pairs)}</dl>"


def _pairs(entries: Mapping[str, Any]) -> str:
    return " ".join(
        f'<span class="pair"><span>{_text(key)}</span> {_text(value)}</span>'
        for key, value in entries.items()
    )
