"""CIFAR-10 and CIFAR-100, in the Python version of the official download.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
cs.toronto.edu/~kriz/cifar.html.
"""

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from tsam_jax.data._errors import DataError, list_some, reason, warn
from tsam_jax.data._files import MAX_FILE, read_file, read_stream
from tsam_jax.data.splits import Records, Source, array_records

SHAPE = (3, 32, 32)
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
MAX_MEMBERS = 100
"""Maximum number of files in an archive; the official ones have 8 and 4."""


class _Layout(NamedTuple):
    """File names and label keys of one of the two data sets.

    Attributes:
      train: files of the training part.
      test: file of the test part.
      meta: file of class names.
      classes: key of the labels -> number of classes, and key of the class names.
    """

    train: tuple[str, ...]
    test: str
    meta: str
    classes: Mapping[str, tuple[int, str]]


_CIFAR10 = _Layout(BATCHES, "test_batch", "batches.meta", {"labels": (10, "label_names")})
_CIFAR100 = _Layout(
    ("train",),
    "test",
    "meta",
    {"fine_labels": (100, "fine_label_names"), "coarse_labels": (20, "coarse_label_names")},
)


def open_source(location: str, *, coarse: bool = False) -> Source:
    """Open "cifar:PATH".

    The official training batches are the training part, from which the validation part is carved;
    the official test batch is the test part. The files are pickles. A restricted unpickler reads
    them: it builds dictionaries, lists, strings, integers and uint8 arrays, and calls nothing else.

    Args:
      location: `cifar-10-batches-py` or `cifar-100-python`, the folder above it, or the official
        archive, such as cifar-10-python.tar.gz.
      coarse: for CIFAR-100, use the 20 superclasses instead of the 100 classes.

    Returns:
      The source, of kind "image"; it has class names if the file of names exists.

    Raises:
      DataError: if a file is missing, damaged, or contains any other kind of object.
    """
    path = Path(location)
    read = _open(path)
    layout = _CIFAR10 if "data_batch_1" in read or "test_batch" in read else _CIFAR100
    missing = [name for name in (*layout.train, layout.test) if name not in read]
    if layout.train[0] in missing or len(missing) > len(layout.train):
        msg = f"{path}: is not the Python version of CIFAR: it has no file {missing[0]}."
        raise DataError(msg)
    if missing:
        warn(f"{path}: skipped missing files: {list_some(missing)}.")
    key = "coarse_labels" if coarse else next(iter(layout.classes))
    if key not in layout.classes:
        msg = f"{path}: `coarse` needs superclasses, which CIFAR-10 does not have."
        raise DataError(msg)
    num_classes, names_key = layout.classes[key]
    files = {"train": layout.train, "test": (layout.test,)}
    parts = {
        part: _part(path, [(name, read[name]) for name in names if name in read], key, num_classes)
        for part, names in files.items()
        if any(name in read for name in names)
    }
    names: tuple[str, ...] = ()
    if layout.meta in read:
        names = _names(f"{path}, {layout.meta}", read[layout.meta](), names_key, num_classes)
    return Source(f"cifar:{location}", parts, num_classes, names, kind="image")


def _open(path: Path) -> Mapping[str, Callable[[], bytes]]:
    """Maps the name of each file to a function that reads it."""
    if path.is_file():
        return _open_archive(path)
    inner = [path / name for name in ("cifar-10-batches-py", "cifar-100-python")]
    found = [folder for folder in inner if folder.is_dir()]
    if len(found) > 1:
        msg = f"{path}: has both {found[0].name} and {found[1].name}; give the path of one."
        raise DataError(msg)
    folder = found[0] if found else path
    if not folder.is_dir():
        msg = f"{path}: no such folder or archive."
        raise DataError(msg)
    known = {name for layout in (_CIFAR10, _CIFAR100) for name in _files_of(layout)}
    return {
        name: lambda name=name: read_file(folder / name)  # type: ignore[misc]
        for name in known
        if (folder / name).is_file()
    }


def _files_of(layout: _Layout) -> tuple[str, ...]:
    return (*layout.train, layout.test, layout.meta)


def _open_archive(path: Path) -> Mapping[str, Callable[[], bytes]]:
    try:
        contents = _read_archive(path)
    except DataError:
        raise
    except Exception as error:  # tarfile and the decompressors raise many types
        msg = f"{path}: cannot be read as a CIFAR archive: {reason(error)}."
        raise DataError(msg) from error
    return {name: lambda content=content: content for name, content in contents.items()}  # type: ignore[misc]


def _read_archive(path: Path) -> dict[str, bytes]:
    """Reads the CIFAR files of an archive, by name."""
    contents: dict[str, bytes] = {}
    known = {name for layout in (_CIFAR10, _CIFAR100) for name in _files_of(layout)}
    with tarfile.open(path) as archive:
        for count, member in enumerate(archive):
            name = PurePosixPath(member.name).name
            if count >= MAX_MEMBERS or member.size > MAX_FILE:
                msg = f"{path}: is not a CIFAR archive: it has too many or too large files."
                raise DataError(msg)
            if name in contents:
                msg = f"{path}: has the file {name} twice."
                raise DataError(msg)
            file = archive.extractfile(member) if member.isfile() and name in known else None
            if file is not None:
                contents[name] = read_stream(file, f"{path}, {name}")
    return contents


def _part(
    path: Path, files: list[tuple[str, Callable[[], bytes]]], key: str, num_classes: int
) -> Records:
    """Reads the batches of a part."""
    batches = [_batch(f"{path}, {name}", read(), key, num_classes) for name, read in files]
    images, labels = zip(*batches, strict=True)
    pixels = np.concatenate(images).reshape(-1, *SHAPE)
    return array_records(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), np.concatenate(labels))


def _batch(where: str, content: bytes, key: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images of a file, shape (n, 3072), uint8, and their labels."""
    found = load_pickle(content, where)
    images, labels = found.get("data"), found.get(key)
    if not isinstance(images, np.ndarray) or not isinstance(labels, list) or not labels:
        msg = f"{where}: must have an array `data` and a non-empty list `{key}`."
        raise DataError(msg)
    if images.shape != (len(labels), int(np.prod(SHAPE))):
        msg = (
            f"{where}: `data` must have shape {(len(labels), int(np.prod(SHAPE)))}, one row per"
            f" label, got {images.shape}."
        )
        raise DataError(msg)
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < num_classes:
            msg = f"{where}, image {row}: the label must be an integer from 0 to {num_classes - 1}."
            raise DataError(msg)
    return images, np.array(labels, np.int32)


def _names(where: str, content: bytes, key: str, num_classes: int) -> tuple[str, ...]:
    names = load_pickle(content, where).get(key)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        msg = f"{where}: must have a list of strings `{key}`."
        raise DataError(msg)
    if len(names) != num_classes:
        msg = f"{where}: `{key}` must have {num_classes} names, got {len(names)}."
        raise DataError(msg)
    try:
        return tuple(_text(name) for name in names)
    except UnicodeDecodeError as error:
        msg = f"{where}: `{key}` has a name that is not UTF-8 text ({error.reason})."
        raise DataError(msg) from error


def load_pickle(content: bytes, where: str) -> dict[str, Any]:
    """Read a pickled dictionary of lists, strings, integers and arrays of uint8.

    Args:
      content: the pickle, written by Python 2 or 3.
      where: names the file in errors.

    Returns:
      The dictionary, with keys converted to strings.

    Raises:
      DataError: if the pickle is damaged or contains any other object. No code in it runs.
    """
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        items = {_text(key): _unwrap(value) for key, value in dict(found).items()}
    except Exception as error:  # a damaged pickle can raise anything
        msg = f"{where}: cannot be read as a CIFAR file: {reason(error)}."
        raise DataError(msg) from error
    return items


def _text(name: object) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _unwrap(value: object) -> object:
    return value.finished() if isinstance(value, _Array) else value


class _Dtype:
    """Stands in for `numpy.dtype` in pickles; raises UnpicklingError unless it is uint8."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in {"u1", b"u1"}:
            msg = "it has an array that is not uint8"
            raise pickle.UnpicklingError(msg)

    def __setstate__(self, state: object) -> None:
        """Ignores the state, which is the byte order: uint8 has none."""


class _Array:
    """Stands in for `numpy.ndarray` in pickles: holds a checked shape and bytes."""

    content: tuple[tuple[int, ...], str, bytes] | None = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype):
            msg = "it has an array without a type"
            raise pickle.UnpicklingError(msg)
        self.set(content, shape, "F" if is_fortran else "C")

    def set(self, content: object, shape: object, order: str) -> None:
        right = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not right or not isinstance(content, (bytes, bytearray)):
            msg = "it has an array without a shape or bytes"
            raise pickle.UnpicklingError(msg)
        self.content = cast("tuple[int, ...]", shape), order, bytes(content)

    def finished(self) -> np.ndarray:
        if self.content is None:
            msg = "it has an array without content"
            raise pickle.UnpicklingError(msg)
        shape, order, content = self.content
        return np.frombuffer(content, np.uint8).reshape(shape, order=cast("Any", order))


def _reconstruct(*_: object) -> _Array:
    """Replaces numpy's `_reconstruct`; the array is empty until its state is set."""
    return _Array()


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> _Array:
    """Replaces numpy's `_frombuffer`, which pickles of protocol 5 use."""
    if not isinstance(dtype, _Dtype):
        msg = "it has an array without a type"
        raise pickle.UnpicklingError(msg)
    array = _Array()
    array.set(content, shape, "F" if order == "F" else "C")
    return array


def _encode(text: object, encoding: object) -> bytes:
    """Replaces `_codecs.encode`, with which Python 3 pickles bytes in protocols below 3."""
    if encoding not in {"latin1", b"latin1"} or not isinstance(text, (str, bytes)):
        msg = "it has bytes that are not encoded as latin1"
        raise pickle.UnpicklingError(msg)
    return text if isinstance(text, bytes) else text.encode("latin1")


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,  # only passed to `_reconstruct`, never called
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


# Not the unpickler in C: its memo is as long as the largest index in the pickle, so that a damaged
# file could make it allocate gigabytes.
_InPython: Any = vars(pickle)["_Unpickler"]


class _Unpickler(_InPython):
    """Unpickler that resolves only the names in `_ALLOWED`."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            msg = f"it imports {module}.{name}, which no CIFAR file does"
            raise pickle.UnpicklingError(msg)
        return _ALLOWED[module, name]

    def load_build(self) -> None:
        """Sets the state of arrays and dtypes only: it must not reach the functions above."""
        if not isinstance(self.stack[-2], (_Array, _Dtype)):
            msg = "it sets the state of an object that is not an array"
            raise pickle.UnpicklingError(msg)
        super().load_build()

    dispatch: ClassVar = {**_InPython.dispatch, pickle.BUILD[0]: load_build}
