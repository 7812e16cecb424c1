"""CIFAR-10 and CIFAR-100 in the Python files of the official download.

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
"""Files of the archive; the official ones have 8 and 4."""


class _Layout(NamedTuple):
    """The files of a data set.

    Attributes:
      train: files of the training part.
      test: file of the test part.
      meta: file with the names of classes.
      classes: label -> how many classes it has, and the key of their names.
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
    """Opens "cifar:PATH".

    The official training batches are the training part, from which the validation part is carved;
    the official test batch is the test part. The files are pickles: they are read by an unpickler
    that knows dictionaries, lists, strings, integers and arrays of bytes, and calls nothing else.

    Args:
      location: `cifar-10-batches-py` or `cifar-100-python`, the folder above it, or the official
        archive, such as cifar-10-python.tar.gz.
      coarse: whether the classes of CIFAR-100 are its 20 superclasses instead of its 100 classes.

    Returns:
      The source, of kind "image"; its classes are named if the file of names is there.

    Raises:
      DataError: if a file is missing or damaged, or contains anything else.
    """
    path = Path(location)
    read = _open(path)
    layout = _CIFAR10 if "data_batch_1" in read or "test_batch" in read else _CIFAR100
    missing = [name for name in (*layout.train, layout.test) if name not in read]
    if layout.train[0] in missing or len(missing) > len(layout.train):
        msg = f"{path}: has no {missing[0]}, and so is not the Python version of CIFAR."
        raise DataError(msg)
    if missing:
        warn(f"{path}: files that are missing and left out: {list_some(missing)}.")
    key = "coarse_labels" if coarse else next(iter(layout.classes))
    if key not in layout.classes:
        msg = f"{path}: is CIFAR-10, which has no superclasses for `coarse`."
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
    """Name of a file -> what reads it."""
    if path.is_file():
        return _open_archive(path)
    inner = [path / name for name in ("cifar-10-batches-py", "cifar-100-python")]
    found = [folder for folder in inner if folder.is_dir()]
    if len(found) > 1:
        msg = f"{path}: has {found[0].name} and {found[1].name}; name one of them."
        raise DataError(msg)
    folder = found[0] if found else path
    if not folder.is_dir():
        msg = f"{path}: there is no such folder or archive."
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
    except Exception as error:  # tarfile and the decompressors raise much
        msg = f"{path}: is no archive of CIFAR that can be read: {reason(error)}."
        raise DataError(msg) from error
    return {name: lambda content=content: content for name, content in contents.items()}  # type: ignore[misc]


def _read_archive(path: Path) -> dict[str, bytes]:
    """The files of CIFAR in an archive, by their names."""
    contents: dict[str, bytes] = {}
    known = {name for layout in (_CIFAR10, _CIFAR100) for name in _files_of(layout)}
    with tarfile.open(path) as archive:
        for count, member in enumerate(archive):
            name = PurePosixPath(member.name).name
            if count >= MAX_MEMBERS or member.size > MAX_FILE:
                msg = f"{path}: has too many or too large files, and so is not CIFAR."
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
    """The images of a file, shape (n, 3072), uint8, and their labels."""
    found = load_pickle(content, where)
    images, labels = found.get("data"), found.get(key)
    if not isinstance(images, np.ndarray) or not isinstance(labels, list) or not labels:
        msg = f"{where}: must have `data`, an array, and `{key}`, a list."
        raise DataError(msg)
    if images.shape != (len(labels), int(np.prod(SHAPE))):
        msg = f"{where}: has an array of shape {images.shape} for {len(labels)} labels."
        raise DataError(msg)
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < num_classes:
            msg = f"{where}, image {row}: has a label that is no integer of 0 to {num_classes - 1}."
            raise DataError(msg)
    return images, np.array(labels, np.int32)


def _names(where: str, content: bytes, key: str, num_classes: int) -> tuple[str, ...]:
    names = load_pickle(content, where).get(key)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        msg = f"{where}: must have `{key}`, a list of strings."
        raise DataError(msg)
    if len(names) != num_classes:
        msg = f"{where}: has {len(names)} names for {num_classes} classes."
        raise DataError(msg)
    return tuple(_text(name) for name in names)


def load_pickle(content: bytes, where: str) -> dict[str, Any]:
    """Reads a pickled dictionary of lists, strings, integers and arrays of uint8.

    Args:
      content: the pickle, of Python 2 or 3.
      where: names the file in errors.

    Returns:
      The dictionary, its keys as strings.

    Raises:
      DataError: if the pickle is damaged or contains anything else. Nothing in it is called.
    """
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        items = {_text(key): _unwrap(value) for key, value in dict(found).items()}
    except Exception as error:  # a damaged pickle raises whatever its bytes do
        msg = f"{where}: is no file of CIFAR that can be read: {reason(error)}."
        raise DataError(msg) from error
    return items


def _text(name: object) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _unwrap(value: object) -> object:
    return value.finished() if isinstance(value, _Array) else value


class _Dtype:
    """What a pickle's `numpy.dtype` becomes: uint8, or an error."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in {"u1", b"u1"}:
            msg = "it has an array of another type than uint8"
            raise pickle.UnpicklingError(msg)

    def __setstate__(self, state: object) -> None:
        """Bytes have no order to set."""


class _Array:
    """What a pickle's array becomes: its shape and bytes, checked against each other."""

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
    """In place of numpy's: the array is empty until its state is set."""
    return _Array()


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> _Array:
    """In place of numpy's, for pickles of protocol 5."""
    if not isinstance(dtype, _Dtype):
        msg = "it has an array without a type"
        raise pickle.UnpicklingError(msg)
    array = _Array()
    array.set(content, shape, "F" if order == "F" else "C")
    return array


def _encode(text: object, encoding: object) -> bytes:
    """In place of `_codecs.encode`, by which Python 3 writes bytes in protocols below 3."""
    if encoding not in {"latin1", b"latin1"} or not isinstance(text, (str, bytes)):
        msg = "it has bytes in another encoding than latin1"
        raise pickle.UnpicklingError(msg)
    return text if isinstance(text, bytes) else text.encode("latin1")


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,  # only an argument
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


# The one in C allocates a memo as long as the largest number in the pickle, gigabytes at will.
_InPython: Any = vars(pickle)["_Unpickler"]


class _Unpickler(_InPython):
    """Reads pickles, with our functions for the few names that CIFAR's files contain."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            msg = f"it asks for {module}.{name}, which no file of CIFAR does"
            raise pickle.UnpicklingError(msg)
        return _ALLOWED[module, name]

    def load_build(self) -> None:
        """Sets the state of arrays and types only: other objects here are functions of ours."""
        if not isinstance(self.stack[-2], (_Array, _Dtype)):
            msg = "it sets the state of something else than an array"
            raise pickle.UnpicklingError(msg)
        super().load_build()

    dispatch: ClassVar = {**_InPython.dispatch, pickle.BUILD[0]: load_build}
