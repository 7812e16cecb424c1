"""Data sets by name."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tsam_jax.data._errors import DataError, brief, reason, suggest
from tsam_jax.data.splits import OpenSplits, Size, Source, Splits, cut, read_splits
from tsam_jax.data.tokens import TEXT_OPTIONS


def _find_sources() -> dict[str, Callable[..., Source]]:
    """Collects `open_source` of all modules in this package, so that adding a kind is one file."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = {name: importlib.import_module(f"{__package__}.{name}") for name in names}
    return {
        name.replace("_", "-"): module.open_source
        for name, module in modules.items()
        if hasattr(module, "open_source")
    }


SOURCES = _find_sources()
"""Kind (the text before the colon of a name) -> function that opens it. The function's keyword
arguments are the options of the kind."""

_VERSION = re.compile(r":(\d+|\*)(\.(\d+|\*)){2}(?=/|$)")
"""Version in a TensorFlow Datasets name: ":2.0.0" or ":2.*.*"."""


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    validation: Size | None = None,
    test: Size | None = None,
    split_seed: int = 0,
    stratified: bool = False,
    subset: int | Mapping[str, int] | None = None,
    **options: Any,
) -> Splits:
    """Load a data set into memory as training, validation and test parts.

    Names:

    - "digits": scikit-learn's digits; 1,000 / 297 / 500 images.
    - "cifar10", "dtd", "glue/sst2", "glue/cola:2.0.0", ... (or "tfds:NAME"): labelled images or
      sentences of TensorFlow Datasets, prepared in `data_dir`.
    - "folder:PATH": images in a folder or zip archive, with one subfolder for each class.
    - "npz:PATH": arrays of images or vectors.
    - "cifar:PATH": CIFAR-10 or CIFAR-100, the Python version, as a folder or the archive.
    - "tiny-imagenet:PATH": the official archive or its folder.
    - "table:PATH": sentences in TSV or CSV.
    - "glue:TASK": the official GLUE files in `data_dir`.

    `open_source` in each module documents its parts and options. Parts that a source lacks are
    carved from its training part, in a seeded order. If a source has a validation part but no
    test part, its validation part is the test part.

    Args:
      name: name of the data set.
      data_dir: folder of the "glue:" files and of TensorFlow Datasets; for other kinds, the folder
        to which a relative PATH refers.
      validation: size of a carved validation part, a number of examples or a fraction between 0
        and 1; defaults to a tenth.
      test: size of a carved test part, given in the same way.
      split_seed: seed of the order in which parts are carved and subsets taken.
      stratified: whether carved parts and subsets keep the class frequencies of the whole.
      subset: number of training examples to keep, or a dict from parts to such numbers. Larger
        subsets contain smaller ones, and the subset of one part does not affect the others.
      **options: options of the kind, such as `size` for images, or `vocab`, `max_length`,
        `lowercase` and `pad_to_longest` for text.

    Returns:
      The data set.

    Raises:
      DataError: if the data are missing, corrupt, or not in the expected format.

    Example:
      >>> splits = load("digits", subset=100)
      >>> [len(part.labels) for part in (splits.train, splits.validation, splits.test)]
      [100, 297, 500]
    """
    opened = open_splits(
        name,
        data_dir=data_dir,
        validation=validation,
        test=test,
        split_seed=split_seed,
        stratified=stratified,
        subset=subset,
        **options,
    )
    return read_splits(opened)


def open_splits(
    name: str,
    *,
    data_dir: str | Path | None = None,
    validation: Size | None = None,
    test: Size | None = None,
    split_seed: int = 0,
    stratified: bool = False,
    subset: int | Mapping[str, int] | None = None,
    **options: Any,
) -> OpenSplits:
    """Open a data set without reading its inputs, for `streaming.Streamed`.

    Takes the arguments of `load`.

    Returns:
      The data set, with labels in memory and inputs read on demand.

    Raises:
      DataError: as for `load`.

    Example:
      >>> train = open_splits("digits").train
      >>> train.read(train.labels.argsort()[:2]).shape
      (2, 64)
    """
    kind, location = _parse(name)
    known = inspect.signature(SOURCES[kind]).parameters
    if not location and known["location"].default is inspect.Parameter.empty:
        msg = f"`{name}` must name what to open after the colon, such as `{kind}:PATH`."
        raise DataError(msg)
    if "data_dir" in known:
        options["data_dir"] = data_dir
    elif location and not location.startswith("~") and data_dir is not None:
        location = str(Path(data_dir, location))
    taken = [*known, *(TEXT_OPTIONS if "tokenization" in known else ())]
    strange = sorted(set(options) - set(taken))
    if strange:
        own = [option for option in taken if option not in {"location", "tokenization"}]
        msg = f"`{name}` has no option `{strange[0]}`; its options are {', '.join(own) or 'none'}."
        raise DataError(msg)
    if location.startswith("~"):  # a shell does not expand it after a colon
        location = str(Path(location).expanduser())
    try:
        source = SOURCES[kind](location, **options)
    except OSError as error:
        msg = f"`{brief(name)}` cannot be opened: {reason(error)}."
        raise DataError(msg) from error
    return cut(
        source,
        validation=validation,
        test=test,
        split_seed=split_seed,
        stratified=stratified,
        subset=subset,
    )


def base_name(name: str) -> tuple[str, str]:
    """Split a data set's name into its kind and its location, dropping a version.

    Args:
      name: as in `load`.

    Returns:
      The kind, a key of `SOURCES`, and the text after the colon. A name without a kind is of kind
      "tfds", TensorFlow Datasets.

    Example:
      >>> base_name("glue/cola:2.0.0"), base_name("tfds:glue/cola"), base_name("folder:photos")
      (('tfds', 'glue/cola'), ('tfds', 'glue/cola'), ('folder', 'photos'))
    """
    kind, location = _parse(name)
    return kind, _VERSION.sub("", location) if kind == "tfds" else location


def _parse(name: str) -> tuple[str, str]:
    """Returns the kind and the location of a name."""
    kind, colon, location = name.partition(":")
    if kind in SOURCES:
        return kind, location
    if colon and not _VERSION.search(name):
        msg = f"`{name}`: `{kind}` is not a kind of data set; the kinds are {', '.join(SOURCES)}."
        raise DataError(msg + suggest(kind, SOURCES))
    return "tfds", name
