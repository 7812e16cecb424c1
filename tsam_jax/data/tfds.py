"""TensorFlow Datasets, read without TensorFlow.

Prepare a data set once in the array_record format with `prepare`, on this machine or another. This
step needs TensorFlow for most data sets; reading does not.
"""

import contextlib
import importlib
import importlib.util
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tsam_jax.data._errors import DataError, reason, suggest
from tsam_jax.data._files import decode_text
from tsam_jax.data._images import decode_image, stack_images
from tsam_jax.data._tables import check_indices
from tsam_jax.data.splits import Records, Source
from tsam_jax.data.tokens import Text, text_records

SPLITS = {
    "train": ("train",),
    "validation": ("validation", "validation_matched", "dev"),
    "test": ("test",),
}
UNLABELLED_TESTS = ("glue", "super_glue")
"""Collections whose test labels are all -1; their validation split is the test part."""

CHUNK = 1024
"""Records read at a time."""

_HOST = ("storage.googleapis.com", 443)


def open_source(
    location: str, *, data_dir: str | Path | None, size: int | None = None, **tokenization: Any
) -> Source:
    """Open a data set by its name in TensorFlow Datasets: "cifar10", "dtd", "glue/sst2", ...

    The train, validation and test splits are the three parts. If there is a validation split but no
    labelled test split, as in GLUE, the validation split (validation_matched for MNLI) is the test
    part, and the validation part is carved from train.

    Args:
      location: name, with an optional configuration and version: "glue/sst2:2.0.0".
      data_dir: folder in which it was prepared; None for ~/tensorflow_datasets.
      size: side in pixels to which all images are resized; None to keep their size, which must
        then be the same for all.
      **tokenization: for text, as in `text_records`: `vocab`, `max_length`, `lowercase`,
        `pad_to_longest`.

    Returns:
      The source, of kind "image" or "text".

    Raises:
      DataError: if the data set does not exist, was not prepared, or is neither images nor text
        with one label.
    """
    builder = _builder(location, data_dir)
    if not builder.info.splits:
        msg = (
            f"{location}: was not prepared in {builder.data_path}. On a machine with internet"
            " access and TensorFlow (`pip install tensorflow-cpu`), run\n"
            f'  python -c "from tsam_jax.data import tfds;'
            f' tfds.prepare({location!r}, {str(data_dir or "~/tensorflow_datasets")!r})"\n'
            "If that is another machine, copy the folder here. Pass it as `data_dir` (--data-dir)."
            " Reading it does not need TensorFlow."
        )
        raise DataError(msg)
    if builder.info.file_format is None or builder.info.file_format.value != "array_record":
        msg = (
            f"{builder.data_path}: must be in array_record format, which can be read without"
            " TensorFlow; prepare it with `tsam_jax.data.tfds.prepare`."
        )
        raise DataError(msg)
    found = {
        part: next((name for name in names if name in builder.info.splits), None)
        for part, names in SPLITS.items()
    }
    if builder.name in UNLABELLED_TESTS:
        found["test"] = None
    splits = {part: name for part, name in found.items() if name is not None}
    if "train" not in splits:
        msg = f"{location}: must have a train split, got {', '.join(builder.info.splits)}."
        raise DataError(msg)
    label, classes = _label(location, builder.info)
    data = {part: _split(builder, split) for part, split in splits.items()}
    labels = {part: _read_labels(records, label, classes) for part, records in data.items()}
    names = tuple(classes or ())
    num_classes = None if classes is None else len(classes)
    image = _features_of(builder.info, "Image")
    if image:
        mode = "L" if builder.info.features[image[0]].shape[-1] == 1 else "RGB"
        records = {
            part: _image_records(data[part], labels[part], image[0], mode, size) for part in data
        }
        return Source(location, records, num_classes, names, kind="image")
    keys = _text_keys(location, builder.info)
    texts = {part: _text(data[part], labels[part], keys) for part in data}
    records, vocab_size = text_records(texts, **tokenization)
    return Source(location, records, num_classes, names, kind="text", vocab_size=vocab_size)


def prepare(name: str, data_dir: str | Path) -> None:
    """Download and prepare a data set, in the format that can be read without TensorFlow.

    Without internet access, first put its archives, such as cifar-10-binary.tar.gz, into
    DATA_DIR/downloads/manual/; TensorFlow Datasets lists their names and checksums.

    Args:
      name: name in TensorFlow Datasets.
      data_dir: folder to prepare it in.

    Raises:
      DataError: if TensorFlow is missing, or there is neither an archive nor internet access.
    """
    folder = Path(data_dir).expanduser()
    builder = _builder(name, folder, file_format="array_record")
    if builder.info.splits:
        return
    if importlib.util.find_spec("tensorflow") is None:
        msg = f"{name}: `prepare` needs TensorFlow; run `pip install tensorflow-cpu`."
        raise DataError(msg)
    manual = folder / "downloads" / "manual"
    if not _reachable() and not (manual.is_dir() and any(manual.iterdir())):
        msg = (
            f"{name}: there is no internet access. Put its archives into {manual} under their"
            " original names (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz, dtd-r1.0.1.tar.gz,"
            f" SST-2.zip, ...), or prepare it on another machine and copy {builder.data_path} to"
            " the same place here."
        )
        raise DataError(msg)
    # With the default of ten retries and growing pauses, a network error would take minutes.
    downloader: Any = importlib.import_module("tensorflow_datasets.core.download.downloader")
    downloader.MAX_RETRIES = 2
    builder.download_and_prepare()


def _builder(name: str, data_dir: str | Path | None, **options: Any) -> Any:
    """Returns the builder of a data set without accessing the network."""
    tfds = importlib.import_module("tensorflow_datasets")
    collection = re.split("[:/]", name)[0]
    if collection == "glue":  # not registered by the import above
        importlib.import_module("tensorflow_datasets.text.glue")
    folder = None if data_dir is None else Path(data_dir).expanduser()
    try:
        return tfds.builder(name, data_dir=folder, try_gcs=False, **options)
    except tfds.core.registered.DatasetNotFoundError:
        msg = (
            f"{name!r} is neither a kind with a path, such as 'folder:PATH', nor in the catalogue"
            " of TensorFlow Datasets (tensorflow.org/datasets/catalog)."
        )
        known = tfds.list_builders(with_community_datasets=False)
        # "digits" is the only other name without a colon
        raise DataError(msg + suggest(collection, ["digits", "glue", *known])) from None
    except (AssertionError, ValueError, OSError) as error:  # AssertionError: no such version
        msg = f"{name}: cannot be opened in {folder or '~/tensorflow_datasets'}: {reason(error)}"
        raise DataError(msg) from error


def _reachable() -> bool:
    with contextlib.suppress(OSError), socket.create_connection(_HOST, timeout=3):
        return True
    return False


class _Split(NamedTuple):
    """A split: its name, for errors, and its records, whose images are not yet decoded."""

    name: str
    records: Any

    def where(self, row: int) -> str:
        return f"{self.name}, record {row}"

    def read(self, rows: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        try:
            found: Sequence[Mapping[str, Any]] = self.records.__getitems__(rows)
        except Exception as error:  # array_record passes on many types from C++
            msg = f"{self.name}, records {rows[0]} to {rows[-1]}: cannot be read: {reason(error)}"
            raise DataError(msg) from error
        return found


def _split(builder: Any, split: str) -> _Split:
    tfds = importlib.import_module("tensorflow_datasets")
    skip = {name: tfds.decode.SkipDecoding() for name in _features_of(builder.info, "Image")}
    name = f"{builder.data_path}, {split}"
    try:
        records = builder.as_data_source(split, decoders=skip)
    except (OSError, ValueError, RuntimeError) as error:
        msg = f"{name}: cannot be read: {reason(error)}"
        raise DataError(msg) from error
    return _Split(name, records)


def _pieces(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(rows), CHUNK):
        yield rows[first : first + CHUNK]


def _all(split: _Split) -> Iterator[Mapping[str, Any]]:
    """Yields all records of a split, in order."""
    for rows in _pieces(range(len(split.records))):
        yield from split.read(rows)


def _features_of(info: Any, kind: str) -> list[str]:
    """Returns the names of the features of a kind, "Image" or "Text"."""
    tfds = importlib.import_module("tensorflow_datasets")
    wanted = getattr(tfds.features, kind)
    return [name for name, feature in info.features.items() if isinstance(feature, wanted)]


def _label(location: str, info: Any) -> tuple[str, list[str] | None]:
    """Returns the name of the label feature, and its class names; None for regression."""
    tfds = importlib.import_module("tensorflow_datasets")
    name = info.supervised_keys[1] if info.supervised_keys else "label"
    feature = dict(info.features.items()).get(name) if isinstance(name, str) else None
    if isinstance(feature, tfds.features.ClassLabel):
        return name, list(feature.names)
    if feature is not None and feature.shape == () and np.issubdtype(feature.np_dtype, np.floating):
        return name, None
    msg = (
        f"{location}: must have one label, a class or a number, got the features"
        f" {', '.join(info.features)}."
    )
    raise DataError(msg)


def _read_labels(split: _Split, label: str, classes: list[str] | None) -> np.ndarray:
    values = np.array([record[label] for record in _all(split)])
    if classes is None:
        return values.astype(np.float32)
    return check_indices(values, len(classes), split.where)


def _image_records(
    split: _Split, labels: np.ndarray, image: str, mode: str, size: int | None
) -> Records:
    def read(rows: np.ndarray) -> np.ndarray:
        records = (record for some in _pieces(rows.tolist()) for record in split.read(some))
        decoded = (
            decode_image(record[image], split.where(row), mode=mode)
            for row, record in zip(rows, records, strict=True)
        )
        return stack_images(decoded, rows, split.where, size)

    return Records(labels, read)


def _text_keys(location: str, info: Any) -> list[str]:
    """Returns the names of the one or two text features, in order."""
    if info.supervised_keys and isinstance(info.supervised_keys[0], str):
        return [info.supervised_keys[0]]
    keys = _features_of(info, "Text")
    if set(keys) == {"premise", "hypothesis"}:  # the features are in alphabetical order
        return ["premise", "hypothesis"]
    if len(keys) not in {1, 2}:
        msg = (
            f"{location}: must have an image, or one or two sentences, got the features"
            f" {', '.join(info.features)}."
        )
        raise DataError(msg)
    return keys


def _text(split: _Split, labels: np.ndarray, keys: list[str]) -> Text:
    columns: list[list[str]] = [[] for _ in keys]
    for row, record in enumerate(_all(split)):
        for column, key in zip(columns, keys, strict=True):
            column.append(decode_text(record[key], f"{split.where(row)}, {key}"))
    return Text(columns, labels)
