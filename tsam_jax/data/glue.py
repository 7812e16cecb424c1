"""The GLUE tasks, in the files of the official download.

Source: Wang et al., "GLUE", ICLR 2019, arXiv:1804.07461; gluebenchmark.com/tasks.
"""

from pathlib import Path
from typing import Any, NamedTuple

from tsam_jax.data._errors import DataError, brief
from tsam_jax.data._tables import Column, Rows, read_rows
from tsam_jax.data.splits import Source
from tsam_jax.data.table import rows_source


class Task(NamedTuple):
    """The layout of a task's files.

    Attributes:
      text: the columns of sentences.
      label: the column of labels.
      classes: labels as written in the file, in class order; None for regression.
      names: names of the classes.
      header: whether the first row names the columns.
      skip_short: whether to skip rows with too few cells, as other readers of the task do.
    """

    text: tuple[Column, ...]
    label: Column
    classes: tuple[str, ...] | None
    names: tuple[str, ...] = ()
    header: bool = True
    skip_short: bool = False


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_BINARY = ("0", "1")

TASKS: dict[str, Task] = {
    "CoLA": Task((3,), 1, _BINARY, ("unacceptable", "acceptable"), header=False),
    "SST-2": Task(("sentence",), "label", _BINARY, ("negative", "positive")),
    "MRPC": Task(("#1 String", "#2 String"), "Quality", _BINARY, ("not_equivalent", "equivalent")),
    "STS-B": Task(_PAIR, "score", None),
    "QQP": Task(
        ("question1", "question2"),
        "is_duplicate",
        _BINARY,
        ("not_duplicate", "duplicate"),
        skip_short=True,
    ),
    "MNLI": Task(_PAIR, "gold_label", ("entailment", "neutral", "contradiction")),
    "QNLI": Task(("question", "sentence"), "label", _ENTAILMENT),
    "RTE": Task(_PAIR, "label", _ENTAILMENT),
    "WNLI": Task(_PAIR, "label", _BINARY, ("not_entailment", "entailment")),
}
"""Task -> layout. Classes are numbered as in the GLUE data sets of other libraries."""

TRAIN = ("train", "train_sample")
DEV = ("dev", "dev_matched", "dev_sample")

MISMATCHED = ("MNLI-mm", "MNLI_mismatched")
"""Names of MNLI with the mismatched dev file, whose genres are not in train."""

DEV_MISMATCHED = ("dev_mismatched", "dev_mismatched_sample")


def open_source(location: str, *, data_dir: str | Path | None, **tokenization: Any) -> Source:
    """Open "glue:TASK".

    The train file is the training part, from which the validation part is carved. The dev file
    (dev_matched for MNLI) is the test part, because the labels of the official test files are not
    public. If a full file is missing, the reader falls back to a sample of it, `train_sample` or
    `dev_sample`; a result on a sample is not a GLUE score.

    Args:
      location: the task, a key of `TASKS`, or "MNLI-mm" for MNLI with dev_mismatched as the test
        part; case, "-" and "_" do not matter.
      data_dir: folder that contains TASK/train.tsv and TASK/dev.tsv (or .tsv.gz), or the same
        below glue/.
      **tokenization: as in `text_records`: `vocab`, `max_length`, `lowercase`, `pad_to_longest`.

    Returns:
      The source, of kind "text". The labels of STS-B are its scores, 0 to 5.

    Raises:
      DataError: if the task is unknown or its files are missing.
    """
    plain = {_plain(name): name for name in TASKS}
    mismatched = _plain(location) in map(_plain, MISMATCHED)
    if _plain(location) not in plain and not mismatched:
        known = ", ".join([*TASKS, MISMATCHED[0]])
        msg = f"`glue:{brief(location)}` is not a GLUE task; the tasks are {known}."
        raise DataError(msg)
    name = "MNLI" if mismatched else plain[_plain(location)]
    if data_dir is None:
        msg = f"`data_dir` must be the folder that contains {name}/train.tsv, got None."
        raise DataError(msg)
    task, folder = TASKS[name], Path(data_dir, name)
    if not folder.is_dir():
        folder = Path(data_dir, "glue", name)
    dev = DEV_MISMATCHED if mismatched else DEV
    parts = {"train": _read(folder, TRAIN, task), "test": _read(folder, dev, task)}
    shown = f"glue:{MISMATCHED[0] if mismatched else name}"
    source = rows_source(shown, parts, task.text, task.label, task.classes, **tokenization)
    return source._replace(class_names=task.names or source.class_names)


def _read(folder: Path, stems: tuple[str, ...], task: Task) -> Rows:
    """Reads the first of the possible files that exists."""
    names = [stem + suffix for stem in stems for suffix in (".tsv", ".tsv.gz")]
    for path in (folder / name for name in names):
        if path.is_file():
            return read_rows(path, header=task.header, delimiter="\t", skip_short=task.skip_short)
    msg = f"{folder}: must contain one of {', '.join(names)}."
    raise DataError(msg)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
