"""Files of a folder or of a zip archive, read alike."""

import gzip
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tsam_jax.data._errors import DataError


class Files(NamedTuple):
    """The files below one root.

    Attributes:
      root: the folder or the archive.
      names: path of each file from the root, with "/", sorted; hidden files are left out.
      read: name -> content.
    """

    root: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]


def open_files(path: Path) -> Files:
    """Lists the files of a folder or a zip archive.

    Args:
      path: the folder or the archive. A single folder at the top of an archive is passed over.

    Returns:
      The files.

    Raises:
      DataError: if there is nothing there, or the archive is corrupt.
    """
    if path.is_dir():
        files = _folder(path)
    elif path.is_file():
        files = _archive(path)
    else:
        msg = f"{path}: there is no such folder or zip archive."
        raise DataError(msg)
    if not files.names:
        msg = f"{path}: is empty."
        raise DataError(msg)
    return files


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed where its name ends in ".gz"."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        msg = f"{path}: there is no such file."
        raise DataError(msg) from None
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        msg = f"{path}: cannot be read: {error}."
        raise DataError(msg) from error


def decode_text(content: bytes, where: object) -> str:
    """Text in UTF-8, without a byte order mark.

    Args:
      content: the bytes.
      where: the file, for the error.

    Returns:
      The text.

    Raises:
      DataError: if the bytes are no UTF-8, with the line and the byte.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        msg = f"{where}, line {line}: byte {error.start} is no UTF-8; convert the file to UTF-8."
        raise DataError(msg) from None


def _visible(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not any(part.startswith((".", "__MACOSX")) for part in parts)


def _folder(path: Path) -> Files:
    names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return Files(path, tuple(sorted(filter(_visible, names))), lambda n: (path / n).read_bytes())


def _archive(path: Path) -> Files:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        msg = f"{path}: is no zip archive that can be read: {error}."
        raise DataError(msg) from error
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = sorted(filter(_visible, names))
    tops = {PurePosixPath(name).parts[0] for name in names}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    if not all(name.startswith(top) for name in names):  # a single file at the top
        top = ""

    def read(name: str) -> bytes:
        try:
            return archive.read(top + name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            msg = f"{path}, {name}: is corrupt in the archive: {error}."
            raise DataError(msg) from error

    return Files(path, tuple(name.removeprefix(top) for name in names), read)
