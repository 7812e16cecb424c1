"""Reading of folders, zip archives and text files, with a size limit on each file."""

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tsam_jax.data._errors import DataError, brief, reason

MAX_FILE = 2**28
"""Largest file in a folder or an archive, such as an encoded image, in bytes."""

MAX_TEXT = 2**30
"""Largest text file after decompression, in bytes."""

_HIDDEN = (".", "__MACOSX")
"""Prefixes of hidden files, and of the files that macOS adds to archives."""

_DESKTOP = {"thumbs.db", "desktop.ini"}
"""Files that Windows adds to folders."""


class Files(NamedTuple):
    """Files below a folder or in a zip archive.

    Attributes:
      root: the folder or the archive.
      names: sorted paths relative to the root, separated by "/"; hidden files are skipped.
      read: name -> content.
      folders: sorted paths of all folders, including empty ones.
    """

    root: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]
    folders: tuple[str, ...] = ()


def open_files(path: Path) -> Files:
    """Lists the files of a folder or a zip archive; an archive's single top folder is the root."""
    if path.is_dir():
        files = _open_folder(path)
    elif path.is_file():
        files = _open_archive(path)
    else:
        msg = f"{path}: no such folder or zip archive."
        raise DataError(msg)
    if not files.names:
        msg = f"{path}: is empty."
        raise DataError(msg)
    return files


def _open_folder(root: Path) -> Files:
    """Lists a folder, following links: subsets of an image store are often folders of links."""

    def fail(error: OSError) -> None:
        msg = f"{error.filename}: cannot be read: {reason(error)}."
        raise DataError(msg) from error

    names, folders = [], []
    above: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    for folder, inner, files in os.walk(root, followlinks=True, onerror=fail):
        inner[:] = sorted(name for name in inner if not _is_hidden(name))
        for name in inner:
            path = os.path.join(folder, name)  # noqa: PTH118  # twice as fast as pathlib
            real = os.path.realpath(path)
            if real in above[folder]:
                msg = f"{path}: the link points to a parent folder, which makes a loop; remove it."
                raise DataError(msg)
            above[path] = (*above[folder], real)
            folders.append(Path(path).relative_to(root).as_posix())
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118
            if _is_hidden(name):
                continue
            if not os.path.isfile(path):  # noqa: PTH113
                msg = f"{path}: is a broken link or not a regular file; remove it."
                raise DataError(msg)
            names.append(Path(path).relative_to(root).as_posix())
    return Files(
        root,
        tuple(sorted(names)),
        lambda name: read_file(root / name),
        tuple(sorted(folders)),
    )


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """Reads a regular file of at most `limit` bytes."""
    try:
        if not path.is_file():  # reading a pipe would block forever
            msg = f"{path}: no such file."
            raise DataError(msg)
        with path.open("rb") as file:
            return read_stream(file, str(path), limit)
    except OSError as error:
        msg = f"{path}: cannot be read: {reason(error)}."
        raise DataError(msg) from error


def read_stream(file: IO[bytes] | gzip.GzipFile, where: str, limit: int = MAX_FILE) -> bytes:
    """Reads a stream of at most `limit` bytes, without trusting the size in its header."""
    content = file.read(limit + 1)
    if len(content) > limit:
        msg = f"{where}: is larger than {limit >> 20} MiB, the limit for one file."
        raise DataError(msg)
    return content


def _open_archive(path: Path) -> Files:
    try:
        archive = zipfile.ZipFile(path)
        entries = archive.infolist()
    except Exception as error:  # zipfile raises many types on damaged input
        msg = f"{path}: cannot be read as a zip archive: {reason(error)}."
        raise DataError(msg) from error
    members: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for entry in entries:
        name = entry.filename.replace("\\", "/").removeprefix("./")  # zipped on Windows
        if any(map(_is_hidden, PurePosixPath(name).parts)):
            continue
        folders |= {str(folder) for folder in PurePosixPath(name).parents[:-1]}
        if name.endswith("/"):
            folders.add(name.removesuffix("/"))
            continue
        if name in members:
            msg = f"{path}, {brief(name)}: appears twice in the archive."
            raise DataError(msg)
        members[name] = entry
    names = sorted(members)
    top = names[0].partition("/")[0] + "/" if names else ""
    if not all(name.startswith(top) for name in names):
        top = ""

    def read(name: str) -> bytes:
        where, member = f"{path}, {brief(name)}", members[top + name]
        try:
            with archive.open(member) as file:
                content = read_stream(file, where)
        except DataError:
            raise
        except Exception as error:  # unsupported compression, passwords, decoder errors
            msg = f"{where}: cannot be read from the archive: {reason(error)}."
            raise DataError(msg) from error
        if len(content) != member.file_size:
            msg = f"{where}: is corrupt: its size differs from the archive's directory."
            raise DataError(msg)
        return content

    return Files(
        path,
        tuple(name.removeprefix(top) for name in names),
        read,
        tuple(sorted(n.removeprefix(top) for n in folders if n != top.removesuffix("/"))),
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(_HIDDEN) or name.lower() in _DESKTOP


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, decompressing it if its name ends in ".gz"."""
    content = read_file(path, MAX_TEXT)
    if path.suffix.lower() == ".gz":
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = read_stream(file, str(path), MAX_TEXT)
        except DataError:
            raise
        except Exception as error:  # gzip.BadGzipFile, EOFError, zlib.error
            msg = f"{path}: cannot be read: {reason(error)}."
            raise DataError(msg) from error
    return decode_text(content, path)


def decode_text(content: bytes, where: object) -> str:
    """Decodes UTF-8 and drops a byte order mark; `where` names the file in errors."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        msg = f"{where}, line {line}: byte {error.start} is not UTF-8; convert the file to UTF-8."
        raise DataError(msg) from None
    if "\0" in text:  # English in UTF-16 decodes as UTF-8
        line = text.count("\n", 0, text.index("\0")) + 1
        msg = f"{where}, line {line}: has a NUL character; convert the file to UTF-8."
        raise DataError(msg)
    return text
